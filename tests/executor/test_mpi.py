from __future__ import annotations

import pytest

from theorbo.executor.mpi import allocated_ranks, ask_version, cores, find_starter, starter_command
from theorbo.schemas.errors import Unavailable, UsageError

MPICH = "HYDRA build details:\n    Version: 4.3.0\n"
OPEN_MPI = "mpiexec (Open MPI) 5.0.11\n"


@pytest.fixture
def program(tmp_path):
    def make(name: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {name}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_the_starter_beside_the_tasks_python_comes_first(program, tmp_path):
    elsewhere, beside = program("elsewhere/mpiexec"), program("venv/bin/mpirun")
    environment = {"PATH": str(tmp_path / "elsewhere")}
    assert find_starter(str(tmp_path / "venv/bin/python"), environment) == beside
    assert find_starter("/usr/bin/env", environment) != beside
    assert find_starter(None, environment) == elsewhere


def test_inside_an_allocation_srun_starts_the_ranks(program, tmp_path):
    srun = program("slurm/srun")
    program("slurm/mpiexec")
    path = {"PATH": str(tmp_path / "slurm")}
    assert find_starter(None, {**path, "SLURM_JOB_ID": "1"}) == srun
    assert find_starter(None, path).endswith("mpiexec")


def test_without_any_the_places_are_named(tmp_path):
    with pytest.raises(Unavailable, match=r"no mpiexec or mpirun beside .*/bin/python nor on PATH"):
        find_starter(str(tmp_path / "bin/python"), {"PATH": str(tmp_path)})


def test_mpich_needs_nothing_but_the_number(tmp_path):
    assert starter_command("/bin/mpiexec", MPICH, 64, 2, 0) == (["/bin/mpiexec", "-n", "64"], {})


def test_open_mpi_is_told_of_root_and_of_more_ranks_than_cores():
    command, variables = starter_command("/bin/mpiexec", OPEN_MPI, 4, 2, 0)
    assert command == ["/bin/mpiexec", "-n", "4", "--map-by", ":OVERSUBSCRIBE"]
    assert variables == {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    assert starter_command("/bin/mpiexec", OPEN_MPI, 2, 2, 1000) == (["/bin/mpiexec", "-n", "2"], {})


def test_srun_ends_all_ranks_when_one_crashes():
    command, variables = starter_command("/usr/bin/srun", "slurm 22.05.8", 8, 2, 0)
    assert command == ["/usr/bin/srun", "--kill-on-bad-exit=1", "--ntasks=8"]
    assert variables == {}


def test_ranks_are_all_that_the_allocation_has():
    assert allocated_ranks({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "128"}) == 128
    assert allocated_ranks({}) == cores()
    with pytest.raises(UsageError, match="'many'"):
        allocated_ranks({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "many"})


def test_a_starter_says_what_it_is(program):
    assert ask_version(program("x/mpiexec"), {"PATH": "/bin"}) == "x/mpiexec\n"


def test_a_starter_that_cannot_be_run_is_named(tmp_path):
    with pytest.raises(Unavailable, match="nothing"):
        ask_version(str(tmp_path / "nothing"), {})
