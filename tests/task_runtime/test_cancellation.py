"""A cooperative Task sees that it is cancelled, and ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.task_runtime.inprocess import MAIN, run_without_bus
from theorbo.schemas.spool import Cancelled, tell_cancelled
from theorbo.task_runtime import cancellation

COOPERATIVE = """
from theorbo.task_runtime import *
class Mine(Task):
    cooperative = True
    def _run(self):
        log("begun")
        while not self.cancelled(): pass
        log("saved")
        self.result = {"saved": True}
"""


@pytest.fixture
def mine(rank):
    """Starts a Task as the program of a rank, and waits until it has begun."""
    (rank.directory / "mine.py").write_text(COOPERATIVE)
    children = []

    def start(wait_for):
        command = [sys.executable, *MAIN, f"{rank.directory}/mine.py:Mine"]
        children.append(subprocess.Popen(command, env=rank.environment))
        wait_for(lambda: "begun" in rank.texts())
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.wait()


@pytest.mark.parametrize("how", ["by the agent", "by others", "by both"])
def test_a_cooperative_task_ends_by_itself_keeps_its_result_and_says_that_it_was_cancelled(rank, mine, wait_for, how):
    task = mine(wait_for)
    if how != "by others":
        tell_cancelled(rank.spool)
    if how != "by the agent":
        task.send_signal(signal.SIGTERM)
    assert task.wait(30) == 3
    assert rank.texts() == ["begun", "saved"]
    assert rank.only("result").parts[0].value == {"saved": True}


def test_a_task_that_never_looks_and_ends_well_has_completed(rank):
    tell_cancelled(rank.spool)
    done = rank.task("class Mine(Task):\n cooperative = True\n def _run(self): log('done')")
    assert done.returncode == 0


def test_a_task_that_fails_while_it_ends_has_failed(rank):
    tell_cancelled(rank.spool)
    done = rank.task("class Mine(Task):\n cooperative = True\n def _run(self): 1 / self.cancelled() - 1 / 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in rank.only("task_failed").error


LATE = """
import os, signal

class Late:
    def __del__(self):  # at the end of the interpreter, which has dropped its handlers by then
        os.kill(os.getpid(), signal.SIGTERM)

late = Late()

class Mine(Task):
    cooperative = True
    def _run(self):
        log("done")
"""


def test_a_sigterm_that_comes_when_a_cooperative_task_is_at_its_end_changes_nothing(rank):
    assert rank.task(LATE).returncode == 0


def test_sigterm_ends_a_task_that_is_not_cooperative(rank):
    program = "class Mine(Task):\n def _run(self): import os; os.kill(os.getpid(), 15); log('still here')"
    assert rank.task(program).returncode == -signal.SIGTERM
    assert rank.texts() == []


def test_a_script_may_be_cooperative_and_its_forked_children_see_it_too(rank):
    tell_cancelled(rank.spool)
    rank.script(
        """
        import os, signal
        install(cooperative=True)
        os.kill(os.getpid(), signal.SIGTERM)
        if os.fork() == 0:
            log(f"child {cancelled()}")
            os._exit(0)
        os.wait()
        log(f"parent {cancelled()}")
        """
    )
    assert rank.texts() == ["child True", "parent True"]


def test_without_a_bus_nobody_asks_but_by_sigterm():
    program = (
        "from theorbo.task_runtime import *; install(cooperative=True); print(cancelled()); import os; "
        "os.kill(os.getpid(), 15); print(cancelled())"
    )
    assert run_without_bus("-c", program).stdout == "False\nTrue\n"


def test_a_spool_without_the_byte_is_one_in_which_nobody_asks(rank):
    (rank.spool / "cancelled").unlink()
    rank.script("log(str(cancelled())); log(str(cancelled()))")
    assert rank.texts() == ["False", "False"]


def test_the_byte_is_what_is_written(rank):
    assert cancellation._NO == Cancelled.NO
    assert (rank.spool / "cancelled").read_bytes() == Cancelled.NO
    tell_cancelled(rank.spool)
    tell_cancelled(rank.spool)
    assert (rank.spool / "cancelled").read_bytes() == Cancelled.YES
    (rank.spool / "cancelled").unlink()
    os.symlink("/nowhere", rank.spool / "cancelled")
    tell_cancelled(rank.spool)  # it is not there, and that ends nothing
