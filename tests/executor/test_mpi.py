from __future__ import annotations

import pytest

from theorbo.executor.mpi import (
    allocated_ranks,
    ask_version,
    cores,
    find_starter,
    hosts_command,
    mpi_type,
    starter_command,
)
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


def test_several_machines_are_reached_by_ssh_without_a_password():
    hosts = [("node1", 2), ("node2", 1)]
    command, variables = hosts_command("/bin/mpiexec", MPICH, 3, hosts, 0, ["PATH"])
    assert command == ["/bin/mpiexec", "-launcher", "ssh", "-hosts", "node1:2,node2:1", "-n", "3"]
    assert "BatchMode=yes" in variables["HYDRA_LAUNCHER_EXTRA_ARGS"]


def test_open_mpi_takes_along_what_is_named_but_nothing_of_this_machine():
    names = ["PATH", "THEORBO_SPOOL", "HOSTNAME", "SSH_TTY", "BASH_FUNC_x%%", "OMPI_MCA_x", "TMPDIR"]
    command, variables = hosts_command("/bin/mpirun", OPEN_MPI, 3, [("a", 2), ("b", 1)], 1000, names)
    assert command == ["/bin/mpirun", "--host", "a:2,b:1", "-n", "3", "-x", "PATH", "-x", "THEORBO_SPOOL"]
    assert "BatchMode=yes" in variables["PRTE_MCA_plm_ssh_args"]


def test_srun_is_told_by_which_mpi_the_ranks_meet(program, tmp_path):
    assert mpi_type(program("open/python"), {"PATH": str(tmp_path)}) == ""
    (tmp_path / "open/mpiexec").write_text("#!/bin/sh\necho 'mpiexec (Open MPI) 5.0.11'\n")
    (tmp_path / "open/mpiexec").chmod(0o755)
    assert mpi_type(str(tmp_path / "open/python"), {"PATH": "/bin"}) == "pmix"
    program("other/mpiexec")
    assert mpi_type(str(tmp_path / "other/python"), {"PATH": "/bin"}) == "pmi2"


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
