from __future__ import annotations

import signal
import subprocess
import sys

from theorbo.schemas.limits import PROCESSES_TOLD
from theorbo.task_runtime.processes import Inspection, Process, inspect, process_table
from theorbo.task_runtime.stack_dumps import decide, ranks_text
from theorbo.task_runtime.stacks_signal import STACKS_SIGNAL

CATCHES = 1 << (STACKS_SIGNAL - 1)


def process(pid, state="S"):
    return Process(pid, 1, 1, 1, state)


def inspection(pid, caught=CATCHES, state="S", wait_channel=""):
    return Inspection(process(pid, state), "python", 2, wait_channel, caught)


def test_only_who_catches_the_signal_gets_it():
    dump = decide({0: [inspection(1), inspection(2)], 1: [inspection(3), inspection(4, caught=~CATCHES)]})
    assert dump.signals == [(process(pid), STACKS_SIGNAL) for pid in (1, 2, 3)]
    assert dump.detail == (
        "stacks of ranks 0-1 (3 processes) go to stderr; rank 1: process 4 (python) state S, 2 threads"
    )


def test_of_the_others_it_is_told_where_they_wait():
    dump = decide({7: [inspection(1, caught=0, wait_channel="pipe_read", state="D")]})
    assert dump == ([], "rank 7: process 1 (python) waits in pipe_read, state D, 2 threads")


def test_a_stopped_process_is_not_asked_for_it_would_answer_when_it_is_too_late():
    dump = decide({0: [inspection(1, state="T")]})
    assert dump.signals == []
    assert dump.detail.endswith("it is stopped, and can be asked when it goes on")


def test_the_text_is_bounded():
    dump = decide({rank: [inspection(rank, caught=0)] for rank in range(1000)})
    assert dump.detail.count("process ") == PROCESSES_TOLD
    assert dump.detail.endswith(f"and {1000 - PROCESSES_TOLD} processes more")
    assert len(ranks_text(range(0, 100_000, 2))) < 200


def test_ranks_are_named_in_short():
    assert [ranks_text(ranks) for ranks in ([3], [0, 1, 2], [5, 0, 1, 7])] == ["rank 3", "ranks 0-2", "ranks 0-1, 5, 7"]


def test_what_a_process_does_is_seen_from_outside():
    program = "from theorbo.task_runtime import install; install(); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        (found,) = [each for each in process_table() if each.pid == child.pid]
        seen = inspect(found)
        assert seen.command.startswith("python")
        assert seen.threads >= 1
        assert seen.catches(STACKS_SIGNAL)
        assert not seen.catches(signal.SIGUSR1)
        assert inspect(found._replace(start_ticks=0)) is None
        child.communicate("\n")
    assert inspect(found) is None
