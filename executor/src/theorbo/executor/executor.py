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
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from theorbo.executor.attaching import TakenUp, take_up
from theorbo.executor.batch import BATCH_LAUNCHER
from theorbo.executor.conversation import Conversation
from theorbo.executor.core import Supervisor
from theorbo.executor.environment import UpdatePath, checked_update_path, own_environment, sourced, updated
from theorbo.executor.execution_id import new_execution
from theorbo.executor.hooks import HOOK_NAMES
from theorbo.executor.job import SlurmLauncher
from theorbo.executor.launched import Launcher
from theorbo.executor.launcher import LocalLauncher
from theorbo.executor.launching import Launching, as_launching
from theorbo.executor.outcome import Outcome
from theorbo.executor.own_spool import OwnSpool
from theorbo.executor.preflight import did_you_mean
from theorbo.executor.preparing import Options, launch_plan, prepare, submission
from theorbo.executor.programs import BinaryProgram, Program, Ready, TaskProgram
from theorbo.executor.provenance import GitQuestion, host, user
from theorbo.executor.reported import RankPlace, Reported
from theorbo.executor.session import Session
from theorbo.executor.values import Finish, Wish
from theorbo.executor.wishes import Wishes
from theorbo.schemas.errors import UsageError
from theorbo.schemas.events import ExecutionSubmitted
from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.limits import GRACE_S, OUTCOME_RESULTS, SPOOL_BYTES
from theorbo.schemas.link import Link
from theorbo.schemas.names import EXECUTOR, Speaker, new_incarnation
from theorbo.schemas.spool import default_root

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
        spool_bytes: int = SPOOL_BYTES,
        launcher: Launching | str | None = None,
    ) -> None:
        """`task` is `path/file.py:Class` or `package.module:Class`; nothing is looked at yet.

        `name` replaces the Task's own name. `ranks`: an MPI Task without it gets as many as the allocation
        has, any other one; a Task that does not use MPI runs in so many independent copies. `launcher` says by what
        and where it is launched (see `Launching`). `python` is the interpreter of the Task, `broker` a connection file
        (else see `theorbo.schemas.link.open_link`), `work_dir` the Task's working directory, `spool_root` where spools
        are made; when more than `spool_bytes` of a Task's reports wait there for the broker, log lines, metrics and
        output are dropped and counted. When `time_limit_s` is reached, or the Task is cancelled, `grace_s` passes
        between SIGTERM and SIGKILL.

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
        self.spool_bytes = spool_bytes
        self.launcher: Launching | str | None = launcher
        self.execution = ""
        """Of the execution under way, or of the last one: 32 hexadecimal digits."""
        self.submission: ExecutionSubmitted | None = None
        """What was submitted of it."""
        self.rank_map: dict[int, RankPlace] = {}
        """By rank where it runs; of all ranks when the hooks of TASK_STARTED are called."""
        self.log = logging.getLogger("theorbo.executor")
        self._hooks: dict[str, list[Hook]] = {}
        self._changes: list[Callable[[dict[str, str]], dict[str, str]]] = []
        self._wishes: Wishes | None = None
        self._busy = threading.Lock()
        self._results: list[Reported] = []
        self._redelivered = 0

    # --- before -------------------------------------------------------------------------------------

    def add_hook(self, event: str, hook: Hook) -> None:
        """Call `hook(executor, event)` whenever `event` is reported; several hooks are called in order.

        `event` is one of `hooks.HOOK_NAMES`: TASK_STARTED, TASK_RESULT, PROGRESS …, or ANY. A hook is called in
        the thread of `execute_task`; one that raises is reported in the log and harms nothing else.

        Raises UsageError with near matches for another event.
        """
        if event not in HOOK_NAMES:
            near = difflib.get_close_matches(event.upper(), HOOK_NAMES, n=3)
            raise UsageError(f"there is no event {event!r}" + (did_you_mean(near) or f": {', '.join(HOOK_NAMES)}"))
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
        self._wish(Wish.CANCEL, reason)

    def kill(self, reason: str = "") -> None:
        """End the Task by SIGKILL."""
        self._wish(Wish.KILL, reason)

    def stop(self, reason: str = "") -> None:
        """Hold all ranks (SIGSTOP), until `continue_task`."""
        self._wish(Wish.STOP, reason)

    def continue_task(self, reason: str = "") -> None:
        """Let ranks that are held run again."""
        self._wish(Wish.CONTINUE, reason)

    def dump_stacks(self, reason: str = "") -> None:
        """Let every rank write the stacks of all its threads to its stderr."""
        self._wish(Wish.STACKS, reason)

    def let_go(self, reason: str = "") -> None:
        """End the supervision and leave the Task running."""
        self._wish(Wish.LET_GO, reason)

    def _wish(self, wish: Wish, reason: str) -> None:
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

    def attach_task(self, execution: str, *, take_over: bool = False) -> Outcome:
        """Take up the supervision of an execution that another Executor has begun; returns how it has ended.

        `execution` is its id, or enough digits of it. Results that the former Executor had confirmed are in the
        outcome; what it had not confirmed is given to the hooks again, marked `redelivered`. The Task's time limit
        goes on from its launch. Of this Executor only hooks, `broker` and `spool_root` matter. An execution that has
        ended may be attached to as well. `take_over` makes an Executor that is still alive let go.

        Raises UsageError if there is no such execution, or if its Executor is alive; Unavailable or Refused if
        another one was faster, or if the outcome cannot be learned.
        """
        if not self._busy.acquire(blocking=False):
            raise UsageError("this Executor is executing its Task already; make another one")
        try:
            return self._attach(execution, take_over)
        finally:
            self._busy.release()

    def _attach(self, execution: str, take_over: bool) -> Outcome:
        taken = take_up(self.broker, execution, self._root, take_over=take_over, notice=self._notice)
        try:
            return self._take_up(taken)
        finally:
            taken.link.close()

    @property
    def _root(self) -> Path:
        return Path(self.spool_root) if self.spool_root else default_root()

    def _execute(self, detach: bool) -> Outcome:
        options = self._options()
        options.check()
        work_dir = str(Path(self.work_dir or ".").absolute())
        if not Path(work_dir).is_dir():
            raise UsageError(f"there is no working directory {work_dir}")
        environment = self.task_environment()
        program = self._program()
        execution = new_execution()
        git = GitQuestion(program.source_directory(work_dir))
        try:
            inquiry = program.look(environment, work_dir, self.parameters)
            speaker = Speaker(execution, EXECUTOR, 1, new_incarnation())
            link, ready = prepare(inquiry, self.broker, speaker)
        except BaseException:
            git.answer()
            raise
        try:
            plan, placed = launch_plan(
                options, ready, execution, environment, work_dir, link.path,
                mpi=self._uses_mpi(ready), notice=self._notice,
            )  # fmt: skip
            submitted = submission(options, ready, plan, placed, git.answer(), speaker)
            return self._supervise(link, plan, submitted, speaker, detach)
        finally:
            link.close()

    def _options(self) -> Options:
        return Options(
            self.name, self.experiment, self.run, self.ranks, self.time_limit_s, self.grace_s, self.spool_root,
            self.spool_bytes, as_launching(self.launcher),
        )  # fmt: skip

    def _program(self) -> Program:
        return TaskProgram(self.task, self.python)

    def _uses_mpi(self, ready: Ready) -> bool:
        return ready.use_mpi

    def _supervise(
        self, link: Link, plan: LaunchPlan, submission: ExecutionSubmitted, speaker: Speaker, detach: bool
    ) -> Outcome:
        spool = OwnSpool(self._root, plan.execution)
        now = time.monotonic()
        supervisor = Supervisor(
            now, by=f"{submission.user}@{submission.host}", grace_s=self.grace_s, time_limit_s=self.time_limit_s,
            detach=detach, time_s=time.time() - now, batch=submission.launcher == BATCH_LAUNCHER,
        )  # fmt: skip
        return self._converse(link, Conversation(speaker, supervisor), spool, plan, submission)

    def _take_up(self, taken: TakenUp) -> Outcome:
        now = time.monotonic()
        supervisor = Supervisor(now, by=f"{user()}@{host()}", time_s=time.time() - now, attached=True)
        conversation = Conversation(taken.speaker, supervisor, former=taken.former, user=user(), host=host())
        return self._converse(taken.link, conversation, taken.spool)

    def _converse(
        self,
        link: Link,
        conversation: Conversation,
        spool: OwnSpool | None,
        plan: LaunchPlan | None = None,
        submission: ExecutionSubmitted | None = None,
    ) -> Outcome:
        self.execution = conversation.execution.hex()
        self.submission = submission
        self._results, self._redelivered = [], 0
        self.rank_map = {}
        wishes = self._wishes = Wishes()

        def call_hooks(names: Sequence[str], reported: Reported) -> None:
            self.submission = self.submission or conversation.submission
            self._call_hooks(names, reported)

        session = Session(
            link, conversation, spool, wishes, call_hooks=call_hooks, remember=self._remember, notice=self._notice,
            launcher=self._chosen_launcher, plan=plan,
        )  # fmt: skip
        try:
            with wishes.from_signals():
                finish = session.run(submission)
        finally:
            self._wishes = None
            session.close()
            wishes.close()
        return self._outcome(finish, conversation, link.path)

    def _chosen_launcher(self, submission: ExecutionSubmitted) -> Launcher:
        if submission.launcher != BATCH_LAUNCHER:
            return LocalLauncher()
        return SlurmLauncher(self.execution, as_launching(self.launcher), submission.task)

    def _outcome(self, finish: Finish, conversation: Conversation, broker: Path) -> Outcome:
        submitted = self.submission = self.submission or conversation.submission
        names = (submitted.task, submitted.experiment, submitted.run) if submitted else ("", "", "")
        return Outcome(
            self.execution, *names, finish.state, finish.reason, conversation.duration_s(time.time()),
            tuple(self._results), broker, finish.interrupted, finish.fenced, self._redelivered,
        )  # fmt: skip

    def _remember(self, reported: Reported) -> None:
        if reported.kind == "result" and len(self._results) < OUTCOME_RESULTS:
            self._results.append(reported)
        elif reported.kind == "rank_started" and reported.rank is not None:
            self.rank_map[reported.rank] = RankPlace(reported.host, reported.event.pid)

    def _call_hooks(self, names: Sequence[str], reported: Reported) -> None:
        self._remember(reported)
        self._redelivered += reported.redelivered
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
