"""The options of `theorbo run` that say how a Task is launched (see `launching.Launching`)."""

from __future__ import annotations

import argparse
from typing import Any

from theorbo.executor.launching import LAUNCHERS, LISTED_FIELDS, MPI_TYPES

_TEXTS = {
    "hosts": ("H:N,…", "mpi: machines, each with its number of ranks, reached by ssh"),
    "partition": ("P", "slurm: partition"),
    "time": ("T", "slurm: its own time limit, in minutes or as [days-]hours:minutes:seconds"),
    "account": ("A", "slurm: account"),
    "reservation": ("R", "slurm: reservation"),
    "constraint": ("C", "slurm: features of the nodes"),
    "qos": ("Q", "slurm: quality of service"),
    "memory": ("SIZE", "slurm: memory of each node, such as 4G"),
    "plan_dir": ("DIR", "slurm: a directory that all machines see (default: in your state directory)"),
}
_LISTS = {
    "scheduler_options": (
        "--scheduler-option",
        "slurm: one more option of sbatch, such as --exclusive; may be repeated",
    ),
    "srun_options": (
        "--srun-option",
        "slurm, srun: one more option of the srun that starts the ranks; may be repeated",
    ),
}


def add_launching(parser: argparse.ArgumentParser) -> None:
    """All of them, in a group of their own."""
    add = parser.add_argument_group("how it is launched").add_argument
    add("--launcher", metavar="|".join(LAUNCHERS), dest="kind", help="what starts the ranks, see below")
    add("--nodes", metavar="N", type=int, help="slurm, srun: number of nodes")
    add("--ranks-per-node", metavar="N", type=int, help="slurm, srun: ranks on each node, at most")
    for name, (metavar, words) in _TEXTS.items():
        add("--" + name.replace("_", "-"), metavar=metavar, help=words)
    for name, (option, words) in _LISTS.items():
        add(option, metavar="OPT", dest=name, action="append", help=words)
    add("--mpi-type", metavar="|".join(MPI_TYPES), help="slurm, srun: how the ranks meet (default: by the Task's MPI)")


def given_launching(options: argparse.Namespace) -> dict[str, Any]:
    """What was given of them."""
    names = ("kind", "nodes", "ranks_per_node", "mpi_type", *_TEXTS, *_LISTS)
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return {name: tuple(value) if name in LISTED_FIELDS else value for name, value in given.items()}


def joined_options(argv: list[str]) -> list[str]:
    """`--scheduler-option --exclusive` as one argument: argparse would take the second for an option of ours."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] in (option for option, _ in _LISTS.values()):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
