"""Which command starts the ranks, how many there are, on which machines, and how the other nodes are reached."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Mapping
from typing import NamedTuple

from theorbo.executor.batch import BATCH_LAUNCHER
from theorbo.executor.environment import find_program
from theorbo.executor.launching import Launching, parsed_hosts
from theorbo.executor.mpi import (
    SSH_OPTIONS,
    allocated_ranks,
    ask_version,
    cores,
    find_starter,
    hosts_command,
    mpi_type,
    starter_command,
)
from theorbo.executor.slurm import node_starts, ranks_command
from theorbo.schemas.connection import KEY_VARIABLE, key_file
from theorbo.schemas.errors import UsageError
from theorbo.schemas.launch_plan import NodeStart

_RANK_VARIABLES = ("THEORBO_SPOOL", "THEORBO_EXECUTION", "THEORBO_RANKS", "PYTHONUNBUFFERED", "PYTHONPATH")
"""What `theorbo launch` adds to the environment of ranks."""


class Placement(NamedTuple):
    """Where the ranks will be."""

    kind: str
    """local, mpi, slurm or srun."""
    ranks: int
    nodes: int = 1
    command: list[str] = []  # noqa: RUF012 - never changed
    """Of the launcher, up to the program; empty: the ranks are started directly."""
    variables: Mapping[str, str] = {}
    """That the launcher wants."""
    node_starts: list[NodeStart] = []  # noqa: RUF012 - never changed

    @property
    def elsewhere(self) -> bool:
        """Whether anything of it runs on another machine."""
        return self.kind == BATCH_LAUNCHER or bool(self.node_starts)


def place(
    launching: Launching, ranks: int | None, python: str | None, environment: Mapping[str, str], *, mpi: bool
) -> Placement:
    """What follows from the options, the Task and its surroundings. `mpi`: the ranks are one MPI program.

    Raises UsageError for what cannot be launched so, Unavailable where a program is missing.
    """
    ranks = launching.wanted_ranks(ranks)
    srun = find_program("srun", environment)
    kind = launching.kind
    if not kind:
        kind = ("srun" if "SLURM_JOB_ID" in environment and srun else "mpi") if mpi else "local"
    if kind == BATCH_LAUNCHER:
        return _batch(launching, ranks, python, environment, srun or "srun", mpi=mpi)
    if kind == "srun":
        return _allocation(launching, ranks, python, environment, srun, mpi=mpi)
    if kind == "mpi":
        return _mpi(launching, ranks, python, environment)
    if mpi and launching.kind == "local" and (ranks or 1) > 1:
        raise UsageError(
            "--launcher local starts ranks that do not know of one another; an MPI Task wants --launcher mpi"
        )
    return Placement("local", ranks or 1)


def _batch(
    launching: Launching, ranks: int | None, python: str | None, environment: Mapping[str, str], srun: str, *, mpi: bool
) -> Placement:
    nodes = launching.nodes or 1
    if ranks is None and mpi:
        raise UsageError("how many ranks? --launcher slurm wants --ranks N, or --ranks-per-node N")
    ranks = ranks or nodes
    if ranks == 1 and not mpi:
        return Placement(BATCH_LAUNCHER, 1)
    command = ranks_command(srun, launching, ranks, nodes, _type(launching, python, environment, mpi=mpi))
    return Placement(BATCH_LAUNCHER, ranks, nodes, command, {}, node_starts(srun, nodes, beside=True))


def _allocation(
    launching: Launching,
    ranks: int | None,
    python: str | None,
    environment: Mapping[str, str],
    srun: str | None,
    *,
    mpi: bool,
) -> Placement:
    if "SLURM_JOB_ID" not in environment:
        raise UsageError("--launcher srun works inside of an allocation (salloc, sbatch); outside: --launcher slurm")
    if srun is None:
        raise UsageError(f"there is no srun on PATH ({environment.get('PATH', '')})")
    beside = "SLURMD_NODENAME" in environment
    if beside and environment.get("SLURM_NODEID", "0") != "0":
        raise UsageError("--launcher srun works on the first node of an allocation, this is another one")
    nodes = launching.nodes or _number(environment, "SLURM_JOB_NUM_NODES", "SLURM_NNODES")
    ranks = ranks or (allocated_ranks(environment) if mpi else 1)
    nodes = min(nodes, ranks)
    command = ranks_command(srun, launching, ranks, nodes, _type(launching, python, environment, mpi=mpi))
    return Placement("srun", ranks, nodes, command, {}, node_starts(srun, nodes, beside=beside))


def _mpi(launching: Launching, ranks: int | None, python: str | None, environment: Mapping[str, str]) -> Placement:
    starter = find_starter(python, environment)
    version = ask_version(starter, environment)
    if not launching.hosts:
        allocated = _number(environment, "SLURM_JOB_NUM_NODES", "SLURM_NNODES") if "SLURM_JOB_ID" in environment else 1
        if allocated > 1:  # the starter follows the allocation to machines that have no agent
            raise UsageError(
                f"the allocation has {allocated} nodes: use --launcher srun, or name them, "
                "--launcher mpi --hosts NODE:RANKS,…"
            )
        ranks = ranks or allocated_ranks(environment)
        command, variables = starter_command(starter, version, ranks, cores(), os.getuid())
        return Placement("mpi", ranks, 1, command, variables)
    hosts = parsed_hosts(launching.hosts)
    ranks = ranks or sum(count for _, count in hosts)
    names = [*environment, *_RANK_VARIABLES]
    command, variables = hosts_command(starter, version, ranks, hosts, os.getuid(), names)
    others = [host for host, _ in hosts if not _is_here(host)]
    key = ["env", shlex.quote(f"{KEY_VARIABLE}={key_file().absolute()}")] if _key_elsewhere() else []
    starts = [NodeStart(["ssh", *SSH_OPTIONS, host, *key], first=number) for number, host in enumerate(others, 1)]
    return Placement("mpi", ranks, len(hosts), command, variables, starts)


def _type(launching: Launching, python: str | None, environment: Mapping[str, str], *, mpi: bool) -> str:
    if not mpi:
        return launching.mpi_type or "none"
    return launching.mpi_type or mpi_type(python, environment)


def _key_elsewhere() -> bool:
    """Whether a variable says where the user's key lies; ssh does not take it along."""
    return any(os.environ.get(name) for name in (KEY_VARIABLE, "THEORBO_CONFIG", "XDG_CONFIG_HOME"))


def _number(environment: Mapping[str, str], *names: str) -> int:
    given = next((environment[name] for name in names if name in environment), "1")
    if not given.isdecimal() or int(given) < 1:
        raise UsageError(f"{names[0]} is {given!r}, expected a number of nodes; give --nodes N")
    return int(given)


def _is_here(name: str) -> bool:
    own = socket.gethostname()
    return name in ("localhost", own) or name == own.partition(".")[0] or name.partition(".")[0] == own
