from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.task_runtime.running_agent import log
from theorbo.schemas.spool import Pressure, make_spool, store_attachment
from theorbo.task_runtime.agent_process import LEAVE


def test_one_event_at_a_time_is_sent_at_once(agent):
    running = agent()
    running.client.follow(lambda client: client.events("agent_started"))
    waits = []
    for number in range(30):
        begun = time.monotonic()
        running.append("rank-0.rec", log(number))
        running.client.follow(lambda client, number=number: len(client.events("log")) > number)
        waits.append(time.monotonic() - begun)
    assert sorted(waits)[15] < 0.1, waits


def test_ends_when_told_and_leaves_the_spool_to_its_launcher(agent):
    running = agent()
    running.append("rank-0.rec", log(1))
    running.append("rank-0.out", b"no end of line")
    running.end()
    assert running.client.texts("rank:0", "stdout") == ["no end of line"]
    assert running.spool.exists()


def test_its_keepers_word_ends_it_and_a_signal_does_not_and_the_rest_stays_for_the_next(agent):
    running = agent()
    running.append("rank-0.rec", log(1))
    running.client.follow(lambda client: client.events("log"))
    running.process.send_signal(signal.SIGTERM)
    running.append("rank-0.rec", log(2))
    running.client.follow(lambda client: len(client.events("log")) == 2)
    running.launcher.send(LEAVE)
    running.process.wait(20)
    status, stderr = running.stop()
    assert status == 6
    assert stderr == f"theorbo agent: told to end; the rest is in {running.spool}\n"
    running.append("rank-0.rec", log(3))
    running.start()
    running.end()
    assert running.client.texts("rank:0", "log") == ["1", "2", "3"]


def test_an_agent_that_nobody_keeps_any_more_is_ended_by_a_signal(agent, wait_for):
    running = agent()
    environment = {**os.environ, "THEORBO_SPOOL": str(running.spool)}
    rank = subprocess.Popen(["sleep", "60"], env=environment)  # else the agent would be done
    try:
        end = f"/proc/{running.process.pid}/fd/{running.process.args[-1]}"
        running.launcher.close()
        wait_for(lambda: not os.path.exists(end))
        status, stderr = running.stop(signal.SIGTERM)
        assert (status, stderr) == (6, f"theorbo agent: told to end; the rest is in {running.spool}\n")
    finally:
        rank.kill()
        rank.wait()


def test_ranks_may_store_attachments_while_the_agent_looks_at_their_size(agent):
    running = agent(first="limits.LOOK_S = 0.001")
    until, number = time.monotonic() + 3, 0
    while time.monotonic() < until and running.process.poll() is None:
        for _ in range(100):
            number += 1
            stored = store_attachment(running.spool, b"%d" % number)
            (running.spool / "attachments" / stored.sha256).unlink()
    assert running.process.poll() is None, running.process.stderr.read()
    running.end()


def test_what_was_begun_of_an_attachment_long_ago_is_removed(agent, wait_for):
    running = agent(first="limits.ATTACHMENT_PART_S = 3600.0")
    old, new = (running.spool / "attachments" / name for name in (f".{'ab' * 32}.1.x", f".{'cd' * 32}.2.y"))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1.0, 1.0))
    wait_for(lambda: not old.exists())
    assert new.exists()
    running.end()


def test_an_agent_that_dies_after_a_truncation_leaves_nothing_to_be_dropped(agent):
    running = agent(first="limits.CHECKPOINT_S = 3600.0")
    lines = running.spool / "rank-0.out"
    running.append("rank-0.out", b"one\ntwo\n")
    running.client.follow(lambda client: len(client.events("output")) == 2)
    lines.write_bytes(b"")
    running.client.follow(lambda client: client.events("loss"))
    running.stop()  # before the next checkpoint is due
    running.append("rank-0.out", b"three\n")
    running.start()
    running.end()
    assert running.client.texts("rank:0", "stdout") == ["one", "two", "three"]


def test_two_agents_never_deliver_the_same_spool(agent, run_theorbo):
    running = agent()
    second = run_theorbo("agent", "--spool", running.spool, "--broker", running.broker.connection_file)
    assert second.returncode == 6
    assert second.stderr == f"theorbo agent: another agent is delivering {running.spool}\n"


def test_acknowledged_parts_of_a_file_are_given_back(agent, wait_for):
    running = agent()
    running.append("rank-0.rec", *(log(number, padding="x" * 60_000) for number in range(100)))
    running.client.follow(lambda client: len(client.events("log")) == 100)
    path = running.spool / "rank-0.rec"
    wait_for(lambda: path.stat().st_blocks * 512 < 2 * 1024 * 1024)
    assert path.stat().st_size > 6_000_000
    running.stop()  # the next one starts behind the hole
    running.start()
    running.append("rank-0.rec", log(100))
    running.end()
    assert [event.text for event in running.client.events("log")] == [str(number) for number in range(101)]
    assert running.client.events("loss") == []


def test_writers_are_told_when_the_bound_is_reached_and_when_there_is_room_again(agent, wait_for, broker):
    running = agent(first="limits.SPOOL_BYTES = 1_000_000; limits.SPOOL_RESERVE_BYTES = 500_000")
    pressure = running.spool / "pressure"
    running.client.follow(lambda client: client.events("agent_started"))
    broker.kill()
    running.append("rank-0.rec", *(log(number, padding="x" * 60_000) for number in range(18)))
    wait_for(lambda: pressure.read_bytes() == Pressure.FULL)
    running.append("rank-0.rec", *(log(number, padding="x" * 60_000) for number in range(18, 28)))
    wait_for(lambda: pressure.read_bytes() == Pressure.EXHAUSTED)
    broker.restart()
    running.client.follow(lambda client: len(client.events("log")) == 28)
    wait_for(lambda: pressure.read_bytes() == Pressure.FREE)
    running.end()


def test_a_clock_that_is_set_back_does_not_stop_the_agent(agent, wait_for, broker):
    set_back = (
        "import time; real = time.time; begun = real(); time.time = lambda: real() - 3600 * (real() - begun > 1.5)"
    )
    running = agent(first=f"limits.SPOOL_BYTES = 1_000_000; {set_back}")
    running.client.follow(lambda client: client.events("agent_started"))
    time.sleep(2)
    broker.kill()
    running.append("rank-0.rec", *(log(number, padding="x" * 60_000) for number in range(18)))
    wait_for(lambda: (running.spool / "pressure").read_bytes() == Pressure.FULL, timeout_s=5)  # by a look a second
    broker.restart()
    running.end()


def test_a_full_disk_ends_nothing_and_what_was_reported_arrives(agent, small_disk):
    running = agent(root=small_disk)
    records = (log(number, padding="x" * 10_000) for number in range(1000))
    with pytest.raises(OSError, match="No space left"):
        running.append("rank-0.rec", *records)
    reported = (running.spool / "rank-0.rec").read_bytes().count(b"\n")
    running.client.follow(lambda client: len(client.events("log")) == reported)
    running.end()
    assert [event.text for event in running.client.events("log")] == [str(number) for number in range(reported)]
    assert running.client.events("agent_closed")


def test_an_execution_that_the_broker_does_not_know_is_an_error_in_one_line(broker, tmp_path, run_theorbo):
    spool = make_spool(tmp_path, "ab" * 16)
    refused = run_theorbo("agent", "--spool", spool, "--broker", broker.connection_file)
    assert refused.returncode == 6
    assert refused.stderr.count("\n") == 1
    assert "ab" * 16 in refused.stderr


@pytest.mark.parametrize(
    ("name", "words"), [("0" * 32, "there is no spool"), ("somewhere", "'somewhere' is no execution id")]
)
def test_a_spool_that_is_none_is_refused_in_one_line(tmp_path, run_theorbo, name, words):
    refused = run_theorbo("agent", "--spool", tmp_path / name, "--broker", tmp_path / "connection.json")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert words in refused.stderr


def test_an_agent_imports_no_pydantic():
    probe = "import sys, theorbo.task_runtime.agent; print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout == "False\n"
