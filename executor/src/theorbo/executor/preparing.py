"""What is to be launched and what is submitted, from the options of an Executor and what its program says of itself."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from theorbo.executor.batch import BATCH_LAUNCHER
from theorbo.executor.environment import find_program
from theorbo.executor.launching import Launching
from theorbo.executor.placement import Placement, place
from theorbo.executor.programs import Inquiry, Ready
from theorbo.executor.provenance import host, selected, shown_command, user, versions
from theorbo.schemas.connection import Connection
from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.events import ExecutionSubmitted
from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.link import Link, open_link
from theorbo.schemas.names import Speaker, checked_name


class Options(NamedTuple):
    """Of an Executor, as it has them when it executes its Task."""

    name: str | None
    experiment: str
    run: str
    ranks: int | None
    time_limit_s: float | None
    grace_s: float
    spool_root: str | None
    spool_bytes: int
    launching: Launching

    def check(self) -> None:
        """Raises UsageError for what cannot be meant."""
        try:
            for what, text in (("experiment", self.experiment), ("run", self.run), ("task", self.name or "")):
                if text:
                    checked_name(what, text)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if self.ranks is not None and self.ranks < 1:
            raise UsageError(f"{self.ranks} ranks: at least 1 is wanted")
        if self.time_limit_s is not None and not 0 < self.time_limit_s < math.inf:
            raise UsageError(f"time limit of {self.time_limit_s} s: a positive number is wanted")
        if self.spool_bytes < 1:
            raise UsageError(f"a spool of {self.spool_bytes} bytes: a positive number is wanted")
        if not 0 <= self.grace_s < math.inf:
            raise UsageError(f"grace of {self.grace_s} s: a number of seconds is wanted")
        self.launching.check(self.ranks)


def prepare(inquiry: Inquiry, broker: str | None, speaker: Speaker) -> tuple[Link, Ready]:
    """Both take time: the look at the program goes on while the broker is found or started."""
    try:
        link = open_link(broker, speaker)
    except BaseException:
        inquiry.abandon()
        raise
    try:
        return link, inquiry.answer()
    except BaseException:
        inquiry.abandon()
        link.close()
        raise


def launch_plan(
    options: Options,
    ready: Ready,
    execution: bytes,
    environment: Mapping[str, str],
    work_dir: str,
    broker: Path,
    *,
    mpi: bool,
    notice: Callable[[str], None],
) -> tuple[LaunchPlan, Placement]:
    """What `theorbo launch` is told. `mpi`: an MPI launcher starts the ranks. Raises UsageError or Unavailable."""
    environment = {**environment, **ready.variables}
    placed = place(options.launching, options.ranks, ready.python, environment, mpi=mpi)
    if placed.kind == BATCH_LAUNCHER and find_program("sbatch", os.environ) is None:
        raise Unavailable(
            "there is no sbatch on PATH; --launcher slurm works where jobs are submitted, on a login node"
        )
    if placed.ranks > 1 and not mpi:
        notice(f"{ready.name} does not say that it uses MPI: {placed.ranks} independent copies are started")
    plan = LaunchPlan(
        execution=execution.hex(), broker=str(broker.absolute()), command=ready.command,
        environment={**environment, **placed.variables}, work_dir=work_dir, ranks=placed.ranks,
        launcher_command=placed.command, spool_root=options.spool_root, grace_s=options.grace_s,
        spool_bytes=options.spool_bytes, time_limit_s=options.time_limit_s, nodes=placed.node_starts,
        connection=_connection(broker, notice) if placed.elsewhere else None,
    )  # fmt: skip
    return plan, placed


def _connection(broker: Path, notice: Callable[[str], None]) -> dict[str, Any]:
    """For machines that do not see the file."""
    connection = Connection.load(broker)
    if all(
        address.startswith(("ipc:", "tcp://127.", "tcp://localhost", "tcp://[::1]")) for address in connection.router
    ):
        notice(
            f"the broker of {broker} listens on this machine only: nodes that are other machines cannot reach it; "
            "start one by theorbo broker --bind tcp://0.0.0.0:PORT, and name its file by --broker"
        )
    return connection._asdict()


def submission(
    options: Options, ready: Ready, plan: LaunchPlan, placed: Placement, git: dict[str, Any] | None, speaker: Speaker
) -> ExecutionSubmitted:
    """The first word of the execution: what is run, where, and with what."""
    return ExecutionSubmitted(
        time=time.time(), task=options.name or ready.name, experiment=options.experiment, run=options.run,
        ranks=plan.ranks, user=user(), host=host(), command=shown_command(plan.command),
        parameters=ready.parameters, environment=selected(plan.environment), versions=versions(), git=git,
        work_dir=plan.work_dir, time_limit_s=options.time_limit_s, grace_s=options.grace_s,
        incarnation=speaker.incarnation, launcher=placed.kind, nodes=placed.nodes,
    )  # fmt: skip
