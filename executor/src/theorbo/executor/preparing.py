"""What is to be launched and what is submitted, from the options of an Executor and what its program says of itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from theorbo.executor.mpi import allocated_ranks, ask_version, cores, find_starter, starter_command
from theorbo.executor.programs import Inquiry, Ready
from theorbo.executor.provenance import host, selected, shown_command, user, versions
from theorbo.schemas.errors import UsageError
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

    def check(self, *, detach: bool) -> None:
        """Raises UsageError for what cannot be meant."""
        try:
            for what, text in (("experiment", self.experiment), ("run", self.run), ("task", self.name or "")):
                if text:
                    checked_name(what, text)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if self.ranks is not None and self.ranks < 1:
            raise UsageError(f"{self.ranks} ranks: at least 1 is wanted")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise UsageError(f"time limit of {self.time_limit_s} s: a positive number is wanted")
        if self.spool_bytes < 1:
            raise UsageError(f"a spool of {self.spool_bytes} bytes: a positive number is wanted")
        if not self.grace_s >= 0:
            raise UsageError(f"grace of {self.grace_s} s: a number of seconds is wanted")
        if detach and self.time_limit_s is not None:
            raise UsageError("a time limit needs an Executor that stays; give up one of time limit and detaching")


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
) -> LaunchPlan:
    """What `theorbo launch` is told. `mpi`: an MPI launcher starts the ranks. Raises UsageError or Unavailable."""
    environment = {**environment, **ready.variables}
    ranks, starter = options.ranks or 1, list[str]()
    if mpi:
        ranks = options.ranks or allocated_ranks(environment)
        path = find_starter(ready.python, environment)
        version = ask_version(path, environment)
        starter, variables = starter_command(path, version, ranks, cores(), os.getuid())
        environment = {**environment, **variables}
    elif ranks > 1:
        notice(f"{ready.name} does not say that it uses MPI: {ranks} independent copies are started")
    return LaunchPlan(
        execution=execution.hex(), broker=str(broker.absolute()), command=ready.command,
        environment=environment, work_dir=work_dir, ranks=ranks, launcher_command=starter,
        spool_root=options.spool_root, grace_s=options.grace_s, spool_bytes=options.spool_bytes,
    )  # fmt: skip


def submission(
    options: Options, ready: Ready, plan: LaunchPlan, git: dict[str, Any] | None, speaker: Speaker
) -> ExecutionSubmitted:
    """The first word of the execution: what is run, where, and with what."""
    return ExecutionSubmitted(
        time=time.time(), task=options.name or ready.name, experiment=options.experiment, run=options.run,
        ranks=plan.ranks, user=user(), host=host(), command=shown_command(plan.command),
        parameters=ready.parameters, environment=selected(plan.environment), versions=versions(), git=git,
        work_dir=plan.work_dir, time_limit_s=options.time_limit_s, grace_s=options.grace_s,
        incarnation=speaker.incarnation, launcher="mpi" if plan.launcher_command else "local",
    )  # fmt: skip
