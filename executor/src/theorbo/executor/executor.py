"""The Executor: launches one Task, supervises it, and calls hooks for what it reports.

    executor = Executor("tasks/peaks.py:FindPeaks", parameters={"threshold": 5}, experiment="mfx1", run="7")
    executor.add_hook("TASK_RESULT", lambda executor, event: print(event.rank, event.summary))
    outcome = executor.execute_task()

All state belongs to the instance: two Executors of one process, in threads of their own, do not know of
each other. Importing this module does nothing.
"""

from __future__ import annotations

import difflib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from theorbo.executor import core
from theorbo.executor.environment import UpdatePath, checked_update_path, own_environment, sourced, updated
from theorbo.executor.execution_id import new_execution
from theorbo.executor.mpi import allocated_ranks, ask_version, cores, find_starter, starter_command
from theorbo.executor.outcome import Outcome
from theorbo.executor.preflight import did_you_mean
from theorbo.executor.programs import BinaryProgram, Inquiry, Program, Ready, TaskProgram
from theorbo.executor.provenance import GitQuestion, host, selected, shown_command, user, versions
from theorbo.executor.reported import Reported
from theorbo.executor.session import Session
from theorbo.executor.wishes import Wishes
from theorbo.schemas.errors import UsageError
from theorbo.schemas.events import ExecutionSubmitted
from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.limits import GRACE_S, OUTCOME_RESULTS
from theorbo.schemas.link import Link, open_link
from theorbo.schemas.names import EXECUTOR, Speaker, checked_name, new_incarnation
from theorbo.schemas.spool import default_root, make_spool

Hook = Callable[["Executor", Reported], object]


class Executor:
    """Runs a Task: one process, or several ranks. The attributes may be changed until `execute_task`."""

    def __init__(
        self,
        task: str,
        *,
        name: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        ranks: int | None = None,
        python: str | None = None,
        broker: str | None = None,
        experiment: str = "",
        run: str = "",
        work_dir: str | None = None,
        time_limit_s: float | None = None,
        grace_s: float = GRACE_S,
        spool_root: str | None = None,
    ) -> None:
        """`task` is `path/file.py:Class` or `package.module:Class`; nothing is looked at yet.

        `name` replaces the Task's own name. `ranks`: an MPI Task without it gets as many as the allocation
        has, any other one; a Task that does not use MPI runs in so many independent copies. `python` is the
        interpreter of the Task, `broker` a connection file (else see `theorbo.schemas.link.open_link`),
        `work_dir` the Task's working directory, `spool_root` where spools are made. When `time_limit_s` is
        reached, or the Task is cancelled, `grace_s` passes between SIGTERM and SIGKILL.

        Raises UsageError if `task` is no text.
        """
        if not isinstance(task, str):
            raise UsageError(
                f"Executor({task!r}): a SPEC is wanted, path/file.py:Class or package.module:Class; "
                "for a program and its arguments there is BinaryExecutor"
            )
        self.task = task
        self.name = name
        self.parameters = dict(parameters or {})
        self.ranks = ranks
        self.python = python
        self.broker = broker
        self.experiment = experiment
        self.run = run
        self.work_dir = work_dir
        self.time_limit_s = time_limit_s
        self.grace_s = grace_s
        self.spool_root = spool_root
        self.execution = ""
        """Of the execution under way, or of the last one: 32 hexadecimal digits."""
        self.log = logging.getLogger("theorbo.executor")
        self._hooks: dict[str, list[Hook]] = {}
        self._changes: list[Callable[[dict[str, str]], dict[str, str]]] = []
        self._wishes: Wishes | None = None
        self._busy = threading.Lock()
        self._results: list[Reported] = []

    # --- before -------------------------------------------------------------------------------------

    def add_hook(self, event: str, hook: Hook) -> None:
        """Call `hook(executor, event)` whenever `event` is reported; several hooks are called in order.

        `event` is one of `core.HOOK_NAMES`: TASK_STARTED, TASK_RESULT, PROGRESS …, or ANY. A hook is called in
        the thread of `execute_task`; one that raises is reported in the log and harms nothing else.

        Raises UsageError with near matches for another event.
        """
        if event not in core.HOOK_NAMES:
            near = difflib.get_close_matches(event.upper(), core.HOOK_NAMES, n=3)
            raise UsageError(f"there is no event {event!r}" + (did_you_mean(near) or f": {', '.join(core.HOOK_NAMES)}"))
        self._hooks.setdefault(event, []).append(hook)

    def update_environment(self, changes: Mapping[str, str], update_path: UpdatePath = "prepend") -> None:
        """Set variables of the Task's environment; what happens to PATH says `update_path`.

        The Executor's own environment stays as it is. Raises UsageError.
        """
        checked_update_path(update_path)
        updated({}, changes, update_path)
        kept = dict(changes)
        self._changes.append(lambda environment: updated(environment, kept, update_path))

    def shell_source(self, path: str) -> None:
        """Let bash source a script for the Task's environment; changes are made in the order of these calls.

        It is sourced when the Task is executed; a script that fails then raises UsageError.
        """
        script = Path(path)
        self._changes.append(lambda environment: sourced(environment, script))

    def task_environment(self) -> dict[str, str]:
        """The environment that the Task would get now. Raises UsageError or Unavailable."""
        environment = own_environment()
        for change in self._changes:
            environment = change(environment)
        return environment

    # --- meanwhile, from any thread and from hooks ------------------------------------------------------

    def cancel(self, reason: str = "") -> None:
        """End the Task: SIGTERM, and SIGKILL after the grace."""
        self._wish(core.Wish.CANCEL, reason)

    def kill(self, reason: str = "") -> None:
        """End the Task by SIGKILL."""
        self._wish(core.Wish.KILL, reason)

    def let_go(self, reason: str = "") -> None:
        """End the supervision and leave the Task running."""
        self._wish(core.Wish.LET_GO, reason)

    def _wish(self, wish: core.Wish, reason: str) -> None:
        wishes = self._wishes  # may become None meanwhile, for this is called from any thread
        if wishes is None:
            raise UsageError("nothing is being executed")
        wishes.add(wish, reason)

    # --- the execution ------------------------------------------------------------------------------------

    def execute_task(self, *, detach: bool = False) -> Outcome:
        """Run the Task and return how it has ended. With `detach`, return as soon as it runs (see core.py).

        In the main thread SIGINT and SIGTERM cancel (a second SIGINT kills) and SIGHUP lets go, unless the
        program handles these signals itself.

        Raises UsageError, Unavailable or Refused, and has then launched nothing; Unavailable or Refused also
        if the outcome cannot be learned any more because the broker has gone.
        """
        if not self._busy.acquire(blocking=False):
            raise UsageError("this Executor is executing its Task already; make another one")
        try:
            return self._execute(detach)
        finally:
            self._busy.release()

    def _execute(self, detach: bool) -> Outcome:
        self._check(detach)
        work_dir = str(Path(self.work_dir or ".").absolute())
        if not Path(work_dir).is_dir():
            raise UsageError(f"there is no working directory {work_dir}")
        environment = self.task_environment()
        program = self._program()
        execution = new_execution()
        git = GitQuestion(program.source_directory(work_dir))
        try:
            inquiry = program.look(environment, work_dir, self.parameters)
            link, ready = self._prepare(inquiry, execution)
        except BaseException:
            git.answer()
            raise
        try:
            plan = self._plan(ready, execution, environment, work_dir, link)
            submission = self._submission(ready, plan, git.answer())
            return self._supervise(link, plan, submission, detach)
        finally:
            link.close()

    def _check(self, detach: bool) -> None:
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
        if not self.grace_s >= 0:
            raise UsageError(f"grace of {self.grace_s} s: a number of seconds is wanted")
        if detach and self.time_limit_s is not None:
            raise UsageError("a time limit needs an Executor that stays; give up one of time limit and detaching")

    def _program(self) -> Program:
        return TaskProgram(self.task, self.python)

    def _prepare(self, inquiry: Inquiry, execution: bytes) -> tuple[Link, Ready]:
        """Both take time: the look at the program goes on while the broker is found or started."""
        try:
            link = open_link(self.broker, Speaker(execution, EXECUTOR, 1, new_incarnation()))
        except BaseException:
            inquiry.abandon()
            raise
        try:
            return link, inquiry.answer()
        except BaseException:
            inquiry.abandon()
            link.close()
            raise

    def _uses_mpi(self, ready: Ready) -> bool:
        return ready.use_mpi

    def _plan(
        self, ready: Ready, execution: bytes, environment: dict[str, str], work_dir: str, link: Link
    ) -> LaunchPlan:
        environment = {**environment, **ready.variables}
        ranks, starter = self.ranks or 1, list[str]()
        if self._uses_mpi(ready):
            ranks = self.ranks or allocated_ranks(environment)
            path = find_starter(ready.python, environment)
            version = ask_version(path, environment)
            starter, variables = starter_command(path, version, ranks, cores(), os.getuid())
            environment = {**environment, **variables}
        elif ranks > 1:
            self._notice(f"{ready.name} does not say that it uses MPI: {ranks} independent copies are started")
        return LaunchPlan(
            execution=execution.hex(), broker=str(link.path.absolute()), command=ready.command,
            environment=environment, work_dir=work_dir, ranks=ranks, launcher_command=starter,
            spool_root=self.spool_root, grace_s=self.grace_s,
        )  # fmt: skip

    def _submission(self, ready: Ready, plan: LaunchPlan, git: dict[str, Any] | None) -> ExecutionSubmitted:
        return ExecutionSubmitted(
            time=time.time(), task=self.name or ready.name, experiment=self.experiment, run=self.run,
            ranks=plan.ranks, user=user(), host=host(), command=shown_command(plan.command),
            parameters=ready.parameters, environment=selected(plan.environment), versions=versions(), git=git,
            work_dir=plan.work_dir, time_limit_s=self.time_limit_s,
            launcher="mpi" if plan.launcher_command else "local",
        )  # fmt: skip

    def _supervise(self, link: Link, plan: LaunchPlan, submission: ExecutionSubmitted, detach: bool) -> Outcome:
        self.execution = plan.execution
        self._results = []
        spool = make_spool(Path(self.spool_root) if self.spool_root else default_root(), f"{plan.execution}-executor")
        now = time.monotonic()
        supervisor = core.Supervisor(
            now, by=f"{submission.user}@{submission.host}", grace_s=self.grace_s, time_limit_s=self.time_limit_s,
            detach=detach, time_s=time.time() - now,
        )  # fmt: skip
        wishes = self._wishes = Wishes()
        session = Session(link, plan, spool, supervisor, wishes, call_hooks=self._call_hooks, notice=self._notice)
        try:
            with wishes.from_signals():
                finish = session.run(submission)
        finally:
            self._wishes = None
            session.close()
            wishes.close()
        return Outcome(
            plan.execution, submission.task, submission.experiment, submission.run, finish.state, finish.reason,
            time.time() - submission.time, tuple(self._results), link.path, finish.interrupted,
        )  # fmt: skip

    def _call_hooks(self, names: Sequence[str], reported: Reported) -> None:
        if reported.kind == "result" and len(self._results) < OUTCOME_RESULTS:
            self._results.append(reported)
        for name in names:
            for hook in self._hooks.get(name, ()):
                try:
                    hook(self, reported)
                except Exception:  # whatever a hook does wrong, the Task goes on
                    self.log.exception("hook %r for %s failed; the Task goes on", hook, name)

    def _notice(self, text: str) -> None:
        self.log.warning("%s", text)


class MPIExecutor(Executor):
    """Runs a Task, or a program, as MPI ranks, whatever it says of itself."""

    def __init__(self, task: str | Sequence[str], **options: Any) -> None:
        """`task` as for `Executor`; a list is a program with its arguments. `options` as for `Executor`."""
        super().__init__(task if isinstance(task, str) else "", **options)
        self._binary = None if isinstance(task, str) else BinaryProgram(task)

    def _program(self) -> Program:
        return self._binary or super()._program()

    def _uses_mpi(self, _ready: Ready) -> bool:
        return True


class BinaryExecutor(Executor):
    """Runs any program: `BinaryExecutor(command=["/opt/my tools/peaks", "--in", "run 7.cxi"])`."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        """`command` is the program and its arguments, never a line for a shell. `options` as for `Executor`."""
        super().__init__("", **options)
        self._binary = BinaryProgram(command)

    def _program(self) -> Program:
        return self._binary
