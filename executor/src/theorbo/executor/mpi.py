"""Finding the program that starts MPI ranks, and its options."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from theorbo.executor.environment import find_program
from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.limits import PROBE_S, SSH_ALIVE_S

_STARTERS = ("mpiexec", "mpirun")


def allocated_ranks(environment: Mapping[str, str]) -> int:
    """How many ranks fit: what Slurm has allocated, else the cores that this process may use. None is kept
    back for the Executor. Raises UsageError if SLURM_NTASKS is no number.
    """
    given = environment.get("SLURM_NTASKS") if "SLURM_JOB_ID" in environment else None
    if given is None:
        return cores()
    if not given.isdecimal() or int(given) < 1:
        raise UsageError(f"SLURM_NTASKS is {given!r}, expected a number of ranks; give --ranks N")
    return int(given)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def find_starter(python: str | None, environment: Mapping[str, str]) -> str:
    """The program that starts MPI ranks: the mpiexec beside the Task's Python (its MPI is the one that the Task's
    mpi4py was made for); else the one on PATH. Raises Unavailable, saying where it was looked for.
    """
    if found := _starter(python, environment):
        return found
    places = f"beside {python} nor " if python else ""
    raise Unavailable(f"there is no mpiexec or mpirun {places}on PATH; install one, such as: pip install mpich")


def _starter(python: str | None, environment: Mapping[str, str]) -> str | None:
    beside = str(Path(python).parent) if python else None
    for directory in filter(None, (beside, environment.get("PATH", os.defpath))):
        for name in _STARTERS:
            if found := find_program(name, {"PATH": directory}):
                return found
    return None


def mpi_type(python: str | None, environment: Mapping[str, str]) -> str:
    """How srun is to introduce the ranks to one another, by the MPI that stands beside the Task's Python, or on PATH:
    pmi2 for MPICH and its kin, pmix for Open MPI. Empty if there is none: then the site's default holds.
    """
    starter = _starter(python, environment)
    if starter is None:
        return ""
    return "pmix" if is_open_mpi(ask_version(starter, environment)) else "pmi2"


def is_open_mpi(version: str) -> bool:
    """By what a starter says of itself; all others are MPICH or like it."""
    return "Open MPI" in version or "OpenRTE" in version or "PRRTE" in version


def starter_command(
    starter: str, version: str, ranks: int, core_count: int, user_id: int
) -> tuple[list[str], dict[str, str]]:
    """The command up to the program, and variables to be set. `version` is what the starter says of itself."""
    command, variables = [starter, "-n", str(ranks)], dict[str, str]()
    if is_open_mpi(version):
        if ranks > core_count:
            command += ["--map-by", ":OVERSUBSCRIBE"]
        variables = _open_mpi_variables(user_id)
    return command, variables


def hosts_command(
    starter: str, version: str, ranks: int, hosts: Sequence[tuple[str, int]], user_id: int, names: Iterable[str]
) -> tuple[list[str], dict[str, str]]:
    """The same for ranks on several machines, which are reached by ssh. `names`: variables that all ranks are to
    have. Hydra takes all along, Open MPI those that are named.
    """
    listed = ",".join(f"{host}:{count}" for host, count in hosts)
    if not is_open_mpi(version):
        command = [starter, "-launcher", "ssh", "-hosts", listed, "-n", str(ranks)]
        return command, {"HYDRA_LAUNCHER_EXTRA_ARGS": " ".join(SSH_OPTIONS)}
    exported = [part for name in sorted(set(names)) if _exportable(name) for part in ("-x", name)]
    command = [starter, "--host", listed, "-n", str(ranks), *exported]
    variables = {**_open_mpi_variables(user_id), "PRTE_MCA_plm_ssh_args": " ".join(SSH_OPTIONS)}
    return command, variables


SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", f"ServerAliveInterval={SSH_ALIVE_S:.0f}")
"""Nobody is there to type a password; and a machine that has gone silently is noticed."""


def _open_mpi_variables(user_id: int) -> dict[str, str]:
    return {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if user_id == 0 else {}


def _exportable(name: str) -> bool:
    """Not what belongs to this machine or this shell, nor what mpirun itself takes care of."""
    own = ("_", "HOSTNAME", "PWD", "OLDPWD", "SHLVL", "TERM", "DISPLAY", "XDG_RUNTIME_DIR", "TMPDIR")
    return (
        name.isidentifier() and name not in own and not name.startswith(("SSH_", "OMPI_", "PMIX_", "PRTE_", "SLURM_"))
    )


def ask_version(starter: str, environment: Mapping[str, str]) -> str:
    """What the starter says of itself. Raises Unavailable if it cannot be run."""
    try:
        done = subprocess.run(
            [starter, "--version"], env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=PROBE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{starter} --version did not answer within {PROBE_S:g} s") from None
    except OSError as error:
        raise Unavailable(f"{starter} cannot be run: {error.strerror}") from None
    return done.stdout + done.stderr
