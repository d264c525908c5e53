"""Requests to a running launch, with real processes: held, let go, asked for their stacks, ended; with receipts."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.task_runtime.launching import launch
from theorbo.schemas.limits import TIME_LIMIT_SLACK_S
from theorbo.task_runtime.processes import RankProcess, members, process_table
from theorbo.task_runtime.wrapper import process_stat

PYTHON = sys.executable
COUNTING = "import time\nwhile True: print(time.time(), flush=True); time.sleep(0.02)"


class Asked:
    """A request, and what became of it."""

    def __init__(self, run, action, **fields):
        self.run, self.action = run, action
        self.before = {kind: len(run.client.events(kind)) for kind in ("control_accepted", "control_done")}
        run.client.report(
            {"kind": "control_requested", "time": time.time(), "action": action, "by": "me", "reason": "", **fields}
        )

    def done(self):
        """The receipts, when both are there."""
        done = self._answer("control_done")
        accepted = self._answer("control_accepted")
        assert (accepted.action, done.action) == (self.action, self.action)
        assert accepted.request == done.request > 0
        assert accepted.time <= done.time <= accepted.deadline + 1
        return done

    def _answer(self, kind):
        return self.run.client.follow(lambda client: client.events(kind)[self.before[kind] :])[0]


@pytest.fixture
def run(broker, tmp_path):
    """Launches a program and waits until all its ranks have started."""
    runs = []

    def start(*command, ranks=1, **options):
        runs.append(launch(broker.connection_file, tmp_path, *command, ranks=ranks, **options))
        runs[-1].client.follow(lambda client: len(client.events("rank_started")) == ranks)
        return runs[-1]

    yield start
    for each in runs:
        if each.process.poll() is None:
            Asked(each, "kill")
            each.end()
        each.client.close()


def rank_processes(run):
    """All processes of all ranks, with their states."""
    started = run.client.events("rank_started")
    ranks = [
        RankProcess(number, event.pid, event.parent_pid, event.process_group, event.start_ticks)
        for number, event in enumerate(started)
    ]
    return [process for many in members(ranks, process_table()).values() for process in many]


def thin_parents(run):
    return [process_stat(event.parent_pid)[0] for event in run.client.events("rank_started")]


def test_stopped_ranks_stand_with_all_their_children_and_run_on_when_continued(run):
    script = f"{PYTHON} -c '{COUNTING}' & sleep 60 & wait"
    held = run("sh", "-c", script, ranks=2)
    held.client.follow(lambda client: {t.source for t in client.told if t.channel == "stdout"} == {"rank:0", "rank:1"})
    assert Asked(held, "stop").done().detail == "ranks 0-1: stopped"
    standing = rank_processes(held)
    assert len(standing) == 6
    assert {process.state for process in standing} == {"T"}
    assert set(thin_parents(held)) == {"S"}
    (stopped,) = held.client.events("ranks_stopped")
    assert stopped.ranks == [0, 1]
    assert Asked(held, "continue").done().detail == "ranks 0-1: continued"
    assert not any(process.is_stopped for process in rank_processes(held))
    (continued,) = held.client.events("ranks_continued")
    assert continued.ranks == [0, 1]
    before = len(held.client.events("output"))
    held.client.follow(lambda client: len(client.events("output")) > before + 10)


def test_a_rank_that_forks_all_the_time_is_brought_to_stand(run):
    program = (
        "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nprint('begin', flush=True)\n"
        "while True:\n if os.fork() == 0:\n  if os.fork() == 0: os.execvp('sleep', ['sleep', '0.3'])\n  os._exit(0)"
        "\n import time; time.sleep(0.002)"
    )
    held = run(PYTHON, "-c", program)
    held.client.follow(lambda client: client.events("output"))
    Asked(held, "stop").done()
    first = rank_processes(held)
    assert len(first) > 1
    assert {process.state for process in first} == {"T"}
    assert [process.pid for process in rank_processes(held)] == [process.pid for process in first]


def test_a_stopped_rank_that_is_cancelled_can_put_its_house_in_order(run):
    program = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit('tidied up'))\n"
        "print(1, flush=True)\nwhile True: time.sleep(60)"
    )
    held = run(PYTHON, "-c", program)
    held.client.follow(lambda client: client.events("output"))
    Asked(held, "stop").done()
    begun = time.monotonic()
    done = Asked(held, "cancel", grace_s=30).done()
    assert (done.detail, done.refused) == ("all ranks have ended", "")
    assert time.monotonic() - begun < 10
    state, _ = held.client.follow_to_end()
    assert state == "CANCELLED"
    assert "tidied up" in held.client.texts("rank:0", "stderr")
    assert held.client.events("rank_ended")[0].exit_code == 1


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_ranks_that_heed_nothing_are_killed_after_the_grace(run, stopped):
    """SIGTERM ignored, stdout closed, C code that does not return, children in sessions of their own."""
    program = (
        "import os, signal, subprocess, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen(['setsid', 'sleep', '1000'])\nprint('spinning', flush=True)\n"
        "os.close(1)\nsum(range(10 ** 15))"
    )
    deaf = run(PYTHON, "-c", program)
    deaf.client.follow(lambda client: client.events("output"))
    if stopped:
        Asked(deaf, "stop").done()
    done = Asked(deaf, "cancel", grace_s=0.5).done()
    assert (done.detail, done.refused) == ("SIGKILL was needed for rank 0", "")
    assert deaf.client.follow_to_end()[0] == "CANCELLED"
    deaf.end()
    assert deaf.left_behind() == []


TASK = """
import threading, time
from theorbo.task_runtime import Task, log

class Spin(Task):
    def _run(self):
        threading.Thread(target=self.wait_for_ever, daemon=True).start()
        log("spinning")
        self.spin_in_c()

    def wait_for_ever(self):
        time.sleep(1000)

    def spin_in_c(self):
        sum(range(10 ** 15))
"""


def test_the_stacks_of_a_task_arrive_as_lines_of_its_stderr_even_from_c_code(run, tmp_path):
    (tmp_path / "spin.py").write_text(TASK)
    spinning = run(PYTHON, "-m", "theorbo.task_runtime.main", f"{tmp_path}/spin.py:Spin", ranks=2)
    spinning.client.follow(lambda client: len(client.events("log")) == 2)
    done = Asked(spinning, "stacks").done()
    assert done.detail == "stacks of ranks 0-1 (2 processes) go to stderr"
    for source in ("rank:0", "rank:1"):
        spinning.client.follow(lambda client, source=source: "in _run" in " ".join(client.texts(source, "stderr")))
        lines = "\n".join(spinning.client.texts(source, "stderr"))
        assert "in wait_for_ever" in lines
        assert 'spin.py", line 15 in spin_in_c' in lines


def test_of_a_program_that_has_no_stacks_to_show_it_is_told_what_the_kernel_shows(run):
    foreign = run("sh", "-c", "sleep 1000 & wait")
    done = Asked(foreign, "stacks").done()
    shell, _, sleep = done.detail.partition("; ")
    assert "(sh)" in shell
    assert sleep.startswith("rank 0: process ")
    assert "(sleep)" in sleep
    assert sleep.endswith(" state S, 1 thread")
    assert not any(process.state == "Z" for process in rank_processes(foreign))
    assert len(rank_processes(foreign)) == 2


def test_an_agent_that_takes_over_keeps_stopped_ranks_and_lets_them_go(run):
    held = run(PYTHON, "-c", COUNTING)
    Asked(held, "stop").done()
    held.kill_agent()
    held.client.follow(lambda client: len(client.events("agent_started")) == 2)
    assert {process.state for process in rank_processes(held)} == {"T"}
    before = len(held.client.events("output"))
    assert Asked(held, "continue").done().detail == "rank 0: continued"
    held.client.follow(lambda client: len(client.events("output")) > before)
    assert len(held.client.events("ranks_stopped")) == 1


def test_a_rank_that_somebody_else_continues_is_told_and_left_alone(run):
    held = run(PYTHON, "-c", COUNTING)
    Asked(held, "stop").done()
    (process,) = rank_processes(held)
    os.kill(process.pid, signal.SIGCONT)
    held.client.follow(lambda client: client.events("ranks_continued"))
    assert not any(each.is_stopped for each in rank_processes(held))
    Asked(held, "stop").done()
    assert all(each.is_stopped for each in rank_processes(held))


def test_nothing_of_a_launch_is_left_when_it_is_ended_while_its_ranks_are_stopped(run):
    held = run(PYTHON, "-c", COUNTING)
    Asked(held, "stop").done()
    held.process.send_signal(signal.SIGTERM)
    held.client.follow_to_end()
    held.end()
    assert held.left_behind() == []
    assert not Path(held.spool).exists()


COOPERATIVE = """
from theorbo.task_runtime import Task, log

class Refine(Task):
    cooperative = True

    def _run(self):
        log("begun")
        cycles = 0
        while not self.cancelled():
            cycles += 1
        log("saved")
        self.result = {"cycles": cycles}
"""


def test_a_cooperative_task_that_is_cancelled_keeps_its_result_and_is_cancelled(run, tmp_path):
    (tmp_path / "refine.py").write_text(COOPERATIVE)
    refining = run(PYTHON, "-m", "theorbo.task_runtime.main", f"{tmp_path}/refine.py:Refine", ranks=2)
    refining.client.follow(lambda client: len(client.events("log")) == 2)
    assert Asked(refining, "cancel", grace_s=30).done().detail == "all ranks have ended"
    assert refining.client.follow_to_end() == ("CANCELLED", "by me")
    assert [event.exit_code for event in refining.client.events("rank_ended")] == [3, 3]
    assert sorted(refining.client.texts("rank:0", "log")) == ["begun", "saved"]
    assert len(refining.client.events("result")) == 2


def test_a_time_limit_holds_though_no_executor_asks_for_an_end(run):
    limited = run(PYTHON, "-c", COUNTING, time_limit_s=0.5, grace_s=3.0)
    assert limited.client.follow_to_end() == ("TIMEDOUT", "time limit of 0.5 s reached")
    (requested,) = limited.client.events("control_requested", "agent:0")
    assert (requested.by, requested.cause, requested.grace_s) == ("agent:0", "time_limit", 3.0)
    (started,) = limited.client.events("agent_started")
    assert requested.time - started.time == pytest.approx(0.5 + TIME_LIMIT_SLACK_S, abs=3)
    assert limited.client.events("rank_ended")[0].signal == "SIGTERM"


def test_stopped_ranks_live_on_when_their_launch_is_killed(run):
    """The kernel sends SIGHUP to stopped processes whose group nobody of their session looks after any more."""
    held = run(PYTHON, "-c", COUNTING)
    Asked(held, "stop").done()
    held.process.kill()
    held.process.communicate()
    assert {process.state for process in rank_processes(held)} == {"T"}
    before = len(held.client.events("output"))
    assert Asked(held, "continue").done().refused == ""
    held.client.follow(lambda client: len(client.events("output")) > before)
    Asked(held, "cancel").done()
    held.client.follow(lambda client: client.events("agent_closed"))  # it is alone, and sees the end


def test_whoever_looks_sees_it_too_when_the_launch_itself_is_told_to_end(run):
    program = (
        "import signal, sys; from theorbo.task_runtime import cancelled\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('looking', flush=True)\n"
        "while not cancelled(): pass\nsys.exit('seen')"
    )
    looking = run(PYTHON, "-c", program, grace_s=60.0)
    looking.client.follow(lambda client: client.events("output"))
    looking.process.send_signal(signal.SIGTERM)
    looking.client.follow_to_end()
    assert looking.client.texts("rank:0", "stderr") == ["seen"]
