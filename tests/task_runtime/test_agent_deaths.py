"""Agents that are killed, frozen, copied, orphaned or cut off: what the journal then has."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from tests.task_runtime.launching import launch
from tests.task_runtime.running_agent import log
from theorbo.schemas.frames import Command, Header, decode_json, encode_json
from theorbo.schemas.limits import SILENT_S
from theorbo.schemas.names import Channel, SourceKind
from theorbo.schemas.spool import END, EPOCH

EVENTS = 20_000
WRITER = """
import os, sys
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import append, open_append
file = open_append(sys.argv[1])
for number in range(int(sys.argv[2])):
    append(file, encode_record({"kind": "log", "time": 0, "text": str(number)}))
    if number % 50 == 0: sys.stdin.readline()
"""


class Writer:
    """A process that appends numbered records, at the pace of the test."""

    def __init__(self, file):
        self._process = subprocess.Popen([sys.executable, "-c", WRITER, file, str(EVENTS)], stdin=subprocess.PIPE)
        self._thread = threading.Thread(target=self._pace)
        self._thread.start()

    def _pace(self):
        for _ in range(EVENTS // 50):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
            time.sleep(0.002)  # so that it lasts for as long as agents are killed

    def wait(self):
        self._thread.join()
        self._process.stdin.close()
        assert self._process.wait(60) == 0


def test_an_agent_that_is_killed_ten_times_under_load_leaves_each_event_once(agent):
    running = agent()
    writer = Writer(running.spool / "rank-0.rec")
    for number in range(10):
        wanted = (number + 1) * EVENTS // 15
        running.client.follow(lambda client, wanted=wanted: len(client.events("log")) >= wanted)
        running.stop(signal.SIGKILL)
        running.start()
    writer.wait()
    running.end()
    assert running.client.texts("rank:0", "log") == [str(number) for number in range(EVENTS)]
    assert running.client.events("loss") == []
    started = running.client.events("agent_started")
    assert [event.epoch for event in started] == list(range(1, 12))
    assert len({event.incarnation for event in started}) == 11


def contact(client, name):
    body = client._link.ask(Command.LIST, Header(execution=client.execution), encode_json(all=True, limit=1)).body
    return decode_json(body)["executions"][0]["contact"].get(name)


def test_a_frozen_agent_is_silent_and_when_it_thaws_nothing_is_lost(agent, wait_for):
    running = agent()
    running.client.follow(lambda client: client.events("agent_started"))
    running.process.send_signal(signal.SIGSTOP)
    running.append("rank-0.rec", *(log(number) for number in range(1000)))
    wait_for(lambda: contact(running.client, "agent:0") == "silent", timeout_s=2 * SILENT_S)
    running.process.send_signal(signal.SIGCONT)
    running.client.follow(lambda client: len(client.events("log")) == 1000)
    assert contact(running.client, "agent:0") == "alive"
    running.end()
    assert running.client.texts("rank:0", "log") == [str(number) for number in range(1000)]


def test_when_launch_agent_and_ranks_are_all_killed_an_agent_by_hand_delivers_the_rest(broker, tmp_path, run_theorbo):
    rank = (
        "import os, time\nfrom theorbo.task_runtime import log\n"
        "for number in range(5000): log(str(number))\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    )
    run = launch(broker.connection_file, tmp_path, sys.executable, "-c", rank)
    run.client.follow(lambda client: client.events("rank_started"))
    broker.kill()
    pid = run.client.events("rank_started")[0].pid
    victims = [run.process.pid, *run.agent_pids(), run.client.events("rank_started")[0].parent_pid, pid]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    run.process.communicate(timeout=20)
    written = (run.spool / "rank-0.rec").read_bytes().count(b'"log"')
    broker.restart()
    swept = run_theorbo("agent", "--spool", run.spool, "--broker", broker.connection_file)
    assert swept.returncode == 0, swept.stderr
    run.client.follow(lambda client: client.events("agent_closed"))
    run.client.check_numbers()
    assert len(run.client.texts("rank:0", "log")) == written
    assert not run.spool.exists()
    run.client.close()


LOUD = """
import os, time
from theorbo.task_runtime import log, result
go = os.environ["GO"]
while not os.path.exists(go): time.sleep(0.01)
for number in range(60_000):
    log(f"{number} " + "x" * 200)
    if number % 100 == 0: time.sleep(0.005)  # else it may use the reserve up as well before the agent looks
result({"reported": 60_000})
"""


def test_a_cut_that_outlasts_the_spools_bound_loses_log_lines_and_tells_exactly_how_many(broker, tmp_path):
    go = tmp_path / "go"
    run = launch(
        broker.connection_file, tmp_path, sys.executable, "-c", LOUD, environment={"GO": str(go)}, spool_bytes=4_000_000
    )
    run.client.follow(lambda client: client.events("rank_started"))
    broker.kill()
    go.touch()
    deadline = time.monotonic() + 60
    pid = run.client.events("rank_started")[0].pid
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    broker.restart()
    assert run.client.follow_to_end() == ("COMPLETED", "")
    delivered = run.client.texts("rank:0", "log")
    lost = sum(event.count for event in run.client.events("loss") if event.stream == "rank:0/log")
    assert lost > 0
    assert len(set(delivered)) == len(delivered)
    assert len(delivered) + lost == 60_000
    assert len(run.client.events("result")) == 1
    assert len(run.client.events("rank_ended")) == 1
    run.end()
    run.client.close()


def test_a_copy_of_a_spool_is_refused(agent, tmp_path, run_theorbo):
    running = agent()
    running.append("rank-0.rec", log(1))
    copy = tmp_path / "elsewhere" / running.spool.name
    shutil.copytree(running.spool, copy)
    copy.chmod(0o700)
    refused = run_theorbo("agent", "--spool", copy, "--broker", running.broker.connection_file)
    assert refused.returncode == 6
    assert refused.stderr.count("\n") == 1
    assert "is a copy of a spool" in refused.stderr
    assert "deliver the original" in refused.stderr
    running.end()


def test_an_agent_that_another_has_superseded_is_fenced_and_ends(agent, tmp_path):
    running = agent()
    running.client.follow(lambda client: client.events("agent_started"))
    original, process, launcher = running.spool, running.process, running.launcher
    running.spool = tmp_path / "elsewhere" / original.name
    shutil.copytree(original, running.spool)
    running.spool.chmod(0o700)
    epoch = running.spool / EPOCH
    epoch.write_text(re.sub(r" \d+", f" {epoch.stat().st_ino:020d}", epoch.read_text()))  # by somebody who insists
    running.start()
    _, words = process.communicate(timeout=20)
    assert process.returncode == 6
    assert "another agent has taken over" in words
    assert str(original) in words
    assert launcher.recv(100) == b"fenced\n"
    launcher.close()
    running.append("rank-0.rec", log(1))
    running.end()


def test_an_orphan_whose_broker_never_returns_ends_and_says_how_to_deliver(agent, run_theorbo):
    running = agent(first="limits.UNDELIVERED_S = 1.0")
    running.client.follow(lambda client: client.events("agent_started"))
    running.broker.kill()
    running.append("rank-0.rec", log(1))
    running.launcher.close()
    _, stderr = running.process.communicate(timeout=20)
    assert running.process.returncode == 6
    assert f"theorbo agent --spool {running.spool} --broker {running.broker.connection_file}" in stderr
    running.broker.restart()
    swept = run_theorbo("agent", "--spool", running.spool, "--broker", running.broker.connection_file)
    assert swept.returncode == 0, swept.stderr
    running.client.follow(lambda client: client.events("agent_closed"))
    assert running.client.texts("rank:0", "log") == ["1"]


@pytest.mark.parametrize("dead", [True, False], ids=["while no agent lives", "under a living agent"])
def test_a_program_that_truncates_its_output_and_writes_more_than_before_is_told(agent, dead):
    running = agent(first="limits.LOOK_S = 0.2")
    running.append("rank-0.out", *(b"old %d\n" % number for number in range(100)))
    running.client.follow(lambda client: len(client.events("output")) == 100)
    running.process.send_signal(signal.SIGKILL if dead else signal.SIGSTOP)
    new = [f"new {number}" for number in range(300)]
    (running.spool / "rank-0.out").write_text("".join(f"{line}\n" for line in new))
    if dead:
        running.stop()
        running.start()
    else:
        running.process.send_signal(signal.SIGCONT)
    running.end()
    assert running.client.texts("rank:0", "stdout") == [f"old {number}" for number in range(100)] + new
    (loss,) = running.client.events("loss")
    assert "truncated and written anew" in loss.detail


def test_a_file_that_vanishes_ends_no_agent_and_loses_nothing_else(agent):
    running = agent(first="limits.LOOK_S = 0.2")
    running.append("rank-0.rec", log(1))
    running.append("rank-1.rec", log(1))
    running.client.follow(lambda client: len(client.events("log")) == 2)
    running.process.send_signal(signal.SIGSTOP)
    running.append("rank-0.rec", log(2))
    (running.spool / "rank-0.rec").unlink()
    running.process.send_signal(signal.SIGCONT)
    running.client.follow(lambda client: client.events("loss"))
    running.append("rank-1.rec", log(2))
    running.append("rank-0.rec", log(3))
    running.end()
    assert running.client.texts("rank:0", "log") == ["1", "3"]
    assert running.client.texts("rank:1", "log") == ["1", "2"]
    (loss,) = running.client.events("loss")
    assert "rank-0.rec has vanished" in loss.detail


def forget(broker, numbers_from):
    """The journal loses what rank 0 has logged from a number on, as if it had been recovered from damage."""
    with contextlib.closing(sqlite3.connect(broker.state / "journal.sqlite")) as journal, journal:
        lost = "source_kind = ? AND channel = ? AND first >= ?"
        journal.execute(f"DELETE FROM batches WHERE {lost}", (SourceKind.RANK, Channel.LOG, numbers_from))
        journal.execute("UPDATE meta SET value = ? WHERE name = 'broker'", ("ab" * 16,))


@pytest.mark.parametrize("dead", [True, False], ids=["next agent", "same agent"])
def test_a_broker_with_a_recovered_journal_gets_from_the_spool_what_it_lacks(agent, dead):
    running = agent()
    for number in range(20):
        running.append("rank-0.rec", log(number))
        running.client.follow(lambda client, number=number: len(client.events("log")) > number)
    running.broker.kill()
    if dead:
        running.stop()
    forget(running.broker, 6)
    running.client.start_anew()
    running.broker.start()
    if dead:
        running.start()
    running.client.follow(lambda client: len(client.events("log")) == 20)
    running.append("rank-0.rec", log(20))
    running.end()
    assert running.client.texts("rank:0", "log") == [str(number) for number in range(21)]
    assert running.client.events("loss") == []


def test_what_neither_the_recovered_journal_nor_the_spool_has_is_told_by_number(agent, wait_for):
    running = agent(first="limits.CHECKPOINT_S = 0.1")
    for number in range(100):
        running.append("rank-0.rec", log(number, padding="x" * 60_000))
    running.client.follow(lambda client: len(client.events("log")) == 100)
    path = running.spool / "rank-0.rec"
    wait_for(lambda: path.stat().st_blocks * 512 < 3_000_000)
    running.broker.kill()
    forget(running.broker, 2)
    running.client.start_anew()
    running.broker.start()
    (loss,) = running.client.follow(lambda client: client.events("loss"))
    running.append("rank-0.rec", log(100))
    (running.spool / END).touch()
    assert running.process.wait(30) == 0
    running.client.follow(lambda client: client.events("agent_closed"))
    numbers = [told.number for told in running.client.told if told.event.kind == "log"]
    assert (loss.stream, loss.count) == ("rank:0/log", loss.last - loss.first + 1)
    assert sorted([*numbers, *range(loss.first, loss.last + 1)]) == list(range(1, 102))
