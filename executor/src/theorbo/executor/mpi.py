"""Finding the program that starts MPI ranks, and its options."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from theorbo.executor.environment import find_program
from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.limits import PROBE_S

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
    """The program that starts MPI ranks: inside a Slurm allocation srun; else the mpiexec beside the Task's
    Python (its MPI is the one that the Task's mpi4py was made for); else the one on PATH.

    Raises Unavailable, saying where it was looked for.
    """
    if "SLURM_JOB_ID" in environment and (srun := find_program("srun", environment)):
        return srun
    beside = str(Path(python).parent) if python else None
    for directory in filter(None, (beside, environment.get("PATH", os.defpath))):
        for name in _STARTERS:
            if found := find_program(name, {"PATH": directory}):
                return found
    places = f"beside {python} nor " if python else ""
    raise Unavailable(f"there is no mpiexec or mpirun {places}on PATH; install one, such as: pip install mpich")


def starter_command(
    starter: str, version: str, ranks: int, core_count: int, user_id: int
) -> tuple[list[str], dict[str, str]]:
    """The command up to the program, and variables to be set. `version` is what the starter says of itself."""
    if Path(starter).name == "srun":
        # -K: without it the other ranks wait for ever for one that has crashed.
        return [starter, "--kill-on-bad-exit=1", f"--ntasks={ranks}"], {}
    command, variables = [starter, "-n", str(ranks)], {}
    if "Open MPI" in version or "OpenRTE" in version:
        if ranks > core_count:
            command += ["--map-by", ":OVERSUBSCRIBE"]
        if user_id == 0:
            variables = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return command, variables


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
