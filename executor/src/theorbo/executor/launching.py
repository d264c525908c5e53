"""How a Task is to be launched: by what, on how many machines, and what a site wants to be told. Pure.

    Executor("peaks.py:Peaks", ranks=8, launcher=Launching("slurm", nodes=2, partition="main", time="30:00"))

The same words are options of `theorbo run` and keys of `launcher:` in the header of a configuration.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from theorbo.executor.preflight import did_you_mean
from theorbo.schemas.errors import UsageError

LAUNCHERS = ("local", "mpi", "slurm", "srun")
MPI_TYPES = ("pmi2", "pmix", "none")

COUNTED_FIELDS = ("nodes", "ranks", "ranks_per_node")
LISTED_FIELDS = ("scheduler_options", "srun_options")

_OF_SLURM = (
    "partition",
    "time",
    "account",
    "reservation",
    "constraint",
    "qos",
    "memory",
    "scheduler_options",
    "plan_dir",
)
_OF_SRUN = ("nodes", "ranks_per_node", "mpi_type", "srun_options")
_FIELDS_OF = {"local": (), "mpi": ("hosts",), "srun": _OF_SRUN, "slurm": (*_OF_SRUN, *_OF_SLURM)}

_TIME = re.compile(r"\d+|\d+:\d+(:\d+)?|\d+-\d+(:\d+){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
_MEMORY = re.compile(r"\d+(\.\d+)?[KMGT]?", re.IGNORECASE)
_HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*)(?::([1-9][0-9]*))?")

_ANOTHER_CLUSTER = "the queue would be asked elsewhere; set SLURM_CLUSTERS, which all of Slurm's programs heed"

_OWN_OPTIONS = {
    "--array": "one execution is one job", "-a": "one execution is one job",
    "--wrap": "the script is ours", "--test-only": "nothing would be launched",
    "--wait": "the Executor waits by itself", "-W": "the Executor waits by itself",
    "--requeue": "a Task that runs twice has two outcomes",
    "--clusters": _ANOTHER_CLUSTER, "-M": _ANOTHER_CLUSTER,
}  # fmt: skip
"""Options of sbatch that cannot be given, and why."""


@dataclasses.dataclass(frozen=True)
class Launching:
    """What is known of the launch; whatever is empty is left to the launcher, or the site."""

    kind: str = ""
    """local, mpi (mpiexec or mpirun), slurm (a batch job), srun (inside of an allocation). Empty: as the Task and its
    surroundings are: mpi for an MPI Task, srun for one inside of an allocation, else local."""
    nodes: int | None = None
    """Machines, of Slurm."""
    ranks_per_node: int | None = None
    hosts: str = ""
    """For mpi: machines that are reached by ssh, with the number of ranks on each: node1:2,node2:2."""
    partition: str = ""
    time: str = ""
    """The scheduler's own time limit: minutes, or [days-]hours:minutes:seconds."""
    account: str = ""
    reservation: str = ""
    constraint: str = ""
    qos: str = ""
    memory: str = ""
    """Of each node: 4G, 500M …"""
    scheduler_options: tuple[str, ...] = ()
    """More options of sbatch, each as one text: --exclusive, --gres=gpu:2 …"""
    srun_options: tuple[str, ...] = ()
    """More options of the srun that starts the ranks: --cpu-bind=cores …"""
    mpi_type: str = ""
    """What srun is told: pmi2 (MPICH) or pmix (Open MPI). Empty: by the MPI that stands beside the Task's Python."""
    plan_dir: str = ""
    """A directory that both this machine and the nodes see, for the launch plan and what the job says itself. Empty:
    in the state directory."""

    def __post_init__(self) -> None:
        """Lists will do for tuples, and a path for its text."""
        for name in LISTED_FIELDS:
            given = getattr(self, name)
            if not isinstance(given, (list, tuple)):
                raise UsageError(f"{name} {given!r}: a list of options is wanted")
            object.__setattr__(self, name, tuple(given))
        if isinstance(self.plan_dir, PurePath):
            object.__setattr__(self, "plan_dir", str(self.plan_dir))

    def given(self) -> list[str]:
        """The fields beside `kind` that say something."""
        return [field.name for field in dataclasses.fields(self) if field.name != "kind" and getattr(self, field.name)]

    def check(self, ranks: int | None) -> None:
        """Raises UsageError for what cannot be meant. `ranks` as the Executor has them."""
        if self.kind and self.kind not in LAUNCHERS:
            raise UsageError(f"there is no launcher {self.kind!r}" + _known(self.kind, LAUNCHERS))
        for name in self.given():
            if name not in _FIELDS_OF[self.kind or "local"]:
                raise UsageError(_misplaced(name, self.kind))
        for name in self.given():
            wanted, words = _wanted_type(name)
            if type(value := getattr(self, name)) is not wanted:
                raise UsageError(f"{_option(name)} {value!r}: {words} is wanted")
        for name in ("nodes", "ranks_per_node"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{_option(name)} {value}: at least 1 is wanted")
        if self.time and not _TIME.fullmatch(self.time):
            raise UsageError(f"--time {self.time!r}: minutes, or [days-]hours:minutes:seconds is wanted")
        if self.memory and not _MEMORY.fullmatch(self.memory):
            raise UsageError(f"--memory {self.memory!r}: a size such as 4G or 500M is wanted")
        if self.mpi_type and self.mpi_type not in MPI_TYPES:
            raise UsageError(f"there is no MPI type {self.mpi_type!r}" + _known(self.mpi_type, MPI_TYPES))
        self._check_options()
        self._check_ranks(ranks)

    def _check_options(self) -> None:
        for name in LISTED_FIELDS:
            for option in getattr(self, name):
                if not isinstance(option, str) or not option.startswith("-") or "\0" in option:
                    raise UsageError(f"{_option(name)} {option!r}: an option is wanted, such as --exclusive")
        for option in self.scheduler_options:
            if why := _why_not(option):
                raise UsageError(f"--scheduler-option {option}: cannot be given, for {why}")

    def _check_ranks(self, ranks: int | None) -> None:
        nodes = self.nodes or 1
        if self.hosts:
            slots = sum(count for _, count in parsed_hosts(self.hosts))
            if ranks is not None and ranks > slots:
                raise UsageError(f"--ranks {ranks}: --hosts {self.hosts} has room for {slots}")
        if ranks is None:
            return
        if ranks < nodes:
            raise UsageError(f"--ranks {ranks} on --nodes {nodes}: each node needs at least one rank")
        if self.nodes and self.ranks_per_node and ranks > nodes * self.ranks_per_node:
            most = nodes * self.ranks_per_node
            words = f"--nodes {nodes} with --ranks-per-node {self.ranks_per_node} have room for {most}"
            raise UsageError(f"--ranks {ranks}: {words}")

    def wanted_ranks(self, ranks: int | None) -> int | None:
        """How many ranks there are to be, if that was said."""
        if ranks is None and self.ranks_per_node:
            return self.ranks_per_node * (self.nodes or 1)
        if ranks is None and self.hosts:
            return sum(count for _, count in parsed_hosts(self.hosts))
        return ranks

    def most_per_node(self, ranks: int) -> int | None:
        """Ranks on one node at most: even numbers, unless something else was said, where Slurm would fill one first."""
        if self.ranks_per_node or not self.nodes:
            return self.ranks_per_node
        return -(-ranks // self.nodes)

    def merged(self, given: Mapping[str, Any]) -> Launching:
        """With what was given later, which wins. If that is another launcher, what only the former one knows goes."""
        base = self
        kind = given.get("kind")
        if kind in LAUNCHERS and self.kind and kind != self.kind:
            foreign = [name for name in self.given() if name not in _FIELDS_OF[kind]]
            defaults = Launching()
            base = dataclasses.replace(self, **{name: getattr(defaults, name) for name in foreign})
        return dataclasses.replace(base, **given)


def as_launching(given: object) -> Launching:
    """What an Executor was given: a Launching, the name of a launcher, a mapping, or nothing. Raises UsageError."""
    if given is None:
        return Launching()
    if isinstance(given, Launching):
        return given
    if isinstance(given, str):
        return Launching(given)
    if isinstance(given, Mapping):
        names = [field.name for field in dataclasses.fields(Launching)]
        for name in given:
            if name not in names:
                raise UsageError(f"launcher: there is no {name!r}" + _known(str(name), names))
        return Launching(**given)
    raise UsageError(f"launcher {given!r}: one of {', '.join(LAUNCHERS)}, or a Launching is wanted")


def parsed_hosts(text: str) -> list[tuple[str, int]]:
    """`node1:2,node2` as names and numbers of ranks. Raises UsageError."""
    hosts: list[tuple[str, int]] = []
    for part in text.split(","):
        match = _HOST.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"--hosts {text!r}: names with numbers of ranks are wanted, such as node1:2,node2:2")
        if match[1] in (name for name, _ in hosts):
            raise UsageError(f"--hosts {text!r}: {match[1]} is there twice")
        hosts.append((match[1], int(match[2] or 1)))
    return hosts


def _why_not(option: str) -> str | None:
    """As sbatch reads it: `-a1-3` is `-a 1-3`, and `--arr` is `--array`."""
    if not option.startswith("--"):
        return _OWN_OPTIONS.get(option[:2])
    given = option.partition("=")[0]
    return next((why for own, why in _OWN_OPTIONS.items() if own.startswith(given)), None)


def _wanted_type(name: str) -> tuple[type, str]:
    if name in COUNTED_FIELDS:
        return int, "a whole number"
    return (tuple, "a list of options") if name in LISTED_FIELDS else (str, "a text")


def _known(name: str, names: tuple[str, ...] | list[str]) -> str:
    return did_you_mean(difflib.get_close_matches(name, names, n=3)) or f"; there are {', '.join(names)}"


def _option(name: str) -> str:
    return "--" + name.removesuffix("s" if name.endswith("_options") else "").replace("_", "-")


def _misplaced(name: str, kind: str) -> str:
    takers = " or ".join(f"--launcher {each}" for each in LAUNCHERS if name in _FIELDS_OF[each])
    return f"{_option(name)} belongs to {takers}" + (f", not to --launcher {kind}" if kind else "")
