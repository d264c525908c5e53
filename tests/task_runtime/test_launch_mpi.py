"""Ranks under mpiexec and mpirun: what crashes there is reported, delivered, and over."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.task_runtime.launching import launch

PROGRAM = """
import os, sys, time
from mpi4py import MPI
from theorbo.task_runtime import log
world = MPI.COMM_WORLD
log(f"last words of {world.rank} of {world.size}")
print("printed by", world.rank)
world.Barrier()
if world.rank == 2 and sys.argv[1] == "crash":
    os.kill(os.getpid(), 11)
if world.rank == 2 and sys.argv[1] == "abort":
    world.Abort(7)
if world.rank == 2 and sys.argv[1] == "exit":
    os._exit(3)
if sys.argv[1] == "stay":
    time.sleep(60)
world.Barrier()
"""


@pytest.fixture(params=["mpich", "openmpi"])
def mpi(request, broker, tmp_path):
    """Launches four ranks of PROGRAM under MPICH's mpiexec, and under Open MPI's mpirun."""
    if request.param == "mpich":
        python, options = Path(sys.executable), ["mpiexec", "-n", "4"]
    else:
        python = request.getfixturevalue("openmpi")
        options = ["mpirun", "-n", "4", "--map-by", ":OVERSUBSCRIBE"]
    options[0] = str(python.parent / options[0])
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "TMPDIR": "/tmp"}
    all_launched = []

    def start(*how):
        arguments = ("-c", PROGRAM, *how) if len(how) == 1 else how
        all_launched.append(
            launch(
                broker.connection_file, tmp_path, str(python), *arguments, ranks=4, launcher=options,
                environment=environment,
            )
        )  # fmt: skip
        return all_launched[-1]

    yield start
    for each in all_launched:
        each.client.close()
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def ended(run):
    outcome = run.client.follow_to_end()
    status, stderr = run.end()
    assert run.left_behind() == []
    assert stderr == ""
    for rank in range(4):
        assert run.client.texts(f"rank:{rank}", "log") == [f"last words of {rank} of 4"]
    return outcome, status


def test_four_ranks_end_well(mpi):
    run = mpi("well")
    assert ended(run) == (("COMPLETED", ""), 0)
    assert [run.client.texts(f"rank:{rank}", "stdout") for rank in range(4)] == [[f"printed by {n}"] for n in range(4)]


def test_a_rank_that_crashes_ends_all_and_is_named(mpi):
    assert ended(mpi("crash")) == (("FAILED", "rank 2: killed by SIGSEGV"), 1)


def test_a_rank_that_exits_before_it_should_is_named(mpi):
    assert ended(mpi("exit")) == (("FAILED", "rank 2: exit code 3"), 1)


def test_mpi_abort_ends_all_and_the_rank_that_called_it_is_named(mpi):
    (state, reason), status = ended(mpi("abort"))
    assert (state, status) == ("FAILED", 1)
    assert reason.startswith("rank 2: exit code 7")


def test_cancel_ends_all_ranks_before_their_launcher(mpi):
    run = mpi("stay")
    run.client.follow(lambda client: len(client.events("output")) == 4)
    run.client.report({"kind": "control_requested", "time": 0, "action": "cancel", "by": "tester", "grace_s": 5})
    assert ended(run) == (("CANCELLED", "by tester"), 1)


COOPERATIVE = """
import time
from mpi4py import MPI
from theorbo.task_runtime import Task, log

class Refine(Task):
    use_mpi = cooperative = True

    def _run(self):
        world, cycles = MPI.COMM_WORLD, 0
        while not world.bcast(self.cancelled() if world.rank == 0 else None):
            cycles += 1
            if cycles == 3:
                log("going")
            time.sleep(0.01)
        world.Barrier()
        if world.rank == 0:
            self.result = {"cycles": cycles}
"""


def test_mpi_ranks_are_stopped_continued_and_end_together_when_one_of_them_sees_the_cancellation(mpi, tmp_path):
    (tmp_path / "refine.py").write_text(COOPERATIVE)
    run = mpi("-m", "theorbo.task_runtime.main", f"{tmp_path}/refine.py:Refine")
    run.client.follow(lambda client: len(client.events("log")) == 4)
    for number, (action, ranks) in enumerate((("stop", "ranks_stopped"), ("continue", "ranks_continued"))):
        request(run, action)
        run.client.follow(lambda client, number=number: len(client.events("control_done")) > number)
        assert sorted(rank for event in run.client.events(ranks) for rank in event.ranks) == [0, 1, 2, 3]
    request(run, "cancel")
    assert run.client.follow_to_end() == ("CANCELLED", "by me")
    assert len(run.client.events("result")) == 1
    assert {event.signal for event in run.client.events("rank_ended")} == {None}
    assert run.client.events("task_failed") == []
    run.end()
    assert run.left_behind() == []


def request(run, action):
    run.client.report({"kind": "control_requested", "time": time.time(), "action": action, "by": "me", "grace_s": 30.0})
