from __future__ import annotations

import os
import signal
import subprocess
import sys

from theorbo.task_runtime.processes import (
    Process,
    RankProcess,
    members,
    process_table,
    send_signal,
    users_of_spool,
)

# A direct rank: thin parent 10 leads the group, program 11, its child 12, and 13 in a group of its own.
RANK = RankProcess(0, pid=11, parent_pid=10, process_group=10, start_ticks=100)
PARENT, PROGRAM = Process(10, 1, 10, 99), Process(11, 10, 10, 100)
CHILD, DAUGHTER = Process(12, 11, 10, 101), Process(13, 12, 13, 102)
ORPHAN = Process(14, 1, 10, 103)
STRANGER = Process(20, 1, 20, 50)


def pids(ranks, *table):
    return {rank: sorted(process.pid for process in found) for rank, found in members(ranks, list(table)).items()}


def test_a_rank_is_its_program_with_all_descendants_and_orphans_of_its_group_but_not_its_thin_parent():
    assert pids([RANK], PARENT, PROGRAM, CHILD, DAUGHTER, ORPHAN, STRANGER) == {0: [11, 12, 13, 14]}


def test_a_group_that_is_the_launchers_is_not_a_ranks():
    mpiexec, sibling = Process(5, 1, 5, 10), Process(30, 5, 5, 90)
    rank = RANK._replace(process_group=5)
    program = PROGRAM._replace(group=5)
    assert pids([rank], mpiexec, sibling, PARENT._replace(group=5), program, CHILD._replace(group=5)) == {0: [11, 12]}


def test_a_later_process_with_the_number_of_the_program_is_not_meant():
    assert pids([RANK], Process(11, 1, 77, 500), Process(12, 11, 77, 501)) == {0: []}


def test_thin_parents_of_other_ranks_are_never_members():
    other = RankProcess(1, pid=15, parent_pid=12, process_group=12, start_ticks=104)
    assert 12 not in pids([RANK, other], PROGRAM, CHILD, Process(15, 12, 12, 104))[0]


def test_the_table_has_living_processes_only():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert any(process.pid == child.pid and process.parent_pid == os.getpid() for process in process_table())
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert not any(process.pid == child.pid for process in process_table())
    child.communicate()


def test_a_signal_reaches_just_the_process_that_is_meant():
    child = subprocess.Popen(["sleep", "60"])
    (process,) = [process for process in process_table() if process.pid == child.pid]
    send_signal(process._replace(start_ticks=process.start_ticks - 1), signal.SIGKILL)  # an earlier one
    assert child.poll() is None
    send_signal(process, signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM
    send_signal(process, signal.SIGTERM)  # it has gone: nothing happens


def test_the_users_of_a_spool_are_found_by_their_environment(tmp_path):
    assert users_of_spool(tmp_path) == []
    child = subprocess.Popen(["sleep", "60"], env={**os.environ, "THEORBO_SPOOL": str(tmp_path)})
    assert users_of_spool(tmp_path) == [child.pid]
    assert users_of_spool(tmp_path.parent) == []
    child.kill()
    child.wait()
