"""A batch job as a Session sees it: a thread submits it, asks for it, and cancels it. A skin around `job_watch`.

A thread, because a scheduler's programs may take half a minute each, and the supervision goes on meanwhile. It rings a
bell (`descriptor`) when there is something new.
"""

from __future__ import annotations

import contextlib
import enum
import os
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from theorbo.executor.job_watch import JobWatch, Look, found_by_name
from theorbo.executor.launched import Launched, last_words
from theorbo.executor.launching import Launching
from theorbo.executor.scheduler import InDoubt, JobFiles, Slurm
from theorbo.executor.slurm import job_name
from theorbo.executor.values import JobTold, LauncherEnded, Notice, Withdrawn
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.events import JobSubmitted, LauncherStarted
from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.limits import JOB_FOUND_S, LOOK_S, QUEUE_POLL_S, SUBMIT_S

SCHEDULER = "slurm"


class SlurmLauncher:
    """Launches by a batch job."""

    def __init__(self, execution: str, launching: Launching, task: str = "", slurm: Slurm | None = None) -> None:
        """`task` is for people, who see it in the queue."""
        self._execution = execution
        self._launching = launching
        self._task = task
        self._slurm = slurm or Slurm()

    def launch(self, plan: LaunchPlan, spool: Path) -> Launched:  # noqa: ARG002 - as of the protocol
        """Submit the job. Raises OSError or Unavailable."""
        files = JobFiles(self._launching.plan_dir, self._execution)
        files.make()
        plan.save(files.plan)
        job = Job(self._slurm, self._execution, files)
        job.submit(self._launching, plan.ranks, job_name(self._task, self._execution))
        return job

    def find(self, launched: LauncherStarted | JobSubmitted | None) -> Launched | None:
        """The job that was submitted; where that is not known, one with the execution in its name."""
        if not self._slurm.here:
            return None
        files = JobFiles(self._launching.plan_dir, self._execution)
        number = ""
        if isinstance(launched, JobSubmitted):
            number = launched.job
            if output := launched.details.get("output"):
                files = JobFiles(str(Path(output).parent), self._execution)
        job = Job(self._slurm, self._execution, files)
        job.take_up(number)
        return job


class _Order(enum.Enum):
    WITHDRAW = "withdraw"
    TERMINATE = "terminate"
    CLOSE = "close"


class Job:
    """One job, from its submission (or its taking up) to its end."""

    local = False

    def __init__(self, slurm: Slurm, execution: str, files: JobFiles) -> None:
        self._slurm = slurm
        self._execution = execution
        self._files = files
        self._watch: JobWatch | None = None
        self._news: deque[JobTold | Withdrawn | Notice] = deque()
        self._orders: deque[_Order] = deque()
        self._ordered = threading.Condition()
        self._ended: LauncherEnded | None = None
        self._problem = ""
        self._refused = ""  # why it could not be cancelled; it is tried again
        self._thread: threading.Thread | None = None
        reader, self._bell = os.pipe()
        self.descriptor: int | None = reader
        os.set_blocking(reader, False)
        os.set_blocking(self._bell, False)

    def submit(self, launching: Launching, ranks: int, name: str) -> None:
        """Begin with a submission."""
        self._begin(lambda: self._submit(launching, ranks, name))

    def take_up(self, number: str) -> None:
        """Begin with a job that a former Executor has submitted; without a number it is looked for."""
        self._begin(lambda: self._watched(number) if number else self._look_for(None))

    # --- as of Launched ----------------------------------------------------------------------------

    def news(self) -> list[JobTold | Withdrawn | Notice]:
        """What has been learned since the last call."""
        if self.descriptor is not None:
            with contextlib.suppress(BlockingIOError):
                os.read(self.descriptor, 4096)
        taken = []
        while self._news:
            taken.append(self._news.popleft())
        return taken

    def ended(self) -> LauncherEnded | None:
        """How the job ended, if it has left the queue."""
        return None if self._news else self._ended

    def withdraw(self) -> None:
        """Cancel it if it has no nodes yet."""
        self._order(_Order.WITHDRAW)

    def terminate(self) -> None:
        """Cancel it."""
        self._order(_Order.TERMINATE)

    def close(self, *, over: bool) -> None:
        """Let go of it. A submission that is under way is waited for, and its job cancelled: it would be nobody's."""
        self._order(_Order.CLOSE)
        if self._thread:
            submitting = not self._watch and not self._ended
            self._thread.join(SUBMIT_S if submitting or _Order.TERMINATE in self._orders else LOOK_S)
        if self._watch and any(
            isinstance(news, JobTold) and isinstance(news.event, JobSubmitted) for news in self._news
        ):
            with contextlib.suppress(Unavailable):
                self._slurm.cancel(self._watch.job, waiting_only=False)
        if over:
            with contextlib.suppress(OSError):
                self._files.plan.unlink(missing_ok=True)
                self._files.output.unlink(missing_ok=True)
        if self.descriptor is not None and not (self._thread and self._thread.is_alive()):
            os.close(self.descriptor)
            os.close(self._bell)
            self.descriptor = None

    # --- the thread --------------------------------------------------------------------------------

    def _begin(self, first: Callable[[], None]) -> None:
        def run() -> None:
            first()
            while self._watch and not self._ended and not self._carried_out(self._watch):
                self._turn(self._watch)

        self._thread = threading.Thread(target=run, name="theorbo job", daemon=True)
        self._thread.start()

    @property
    def _closed(self) -> bool:
        return _Order.CLOSE in self._orders

    def _order(self, order: _Order) -> None:
        with self._ordered:
            if order not in self._orders:
                self._orders.append(order)
            self._ordered.notify()

    def _ring(self, *news: JobTold | Withdrawn | Notice) -> None:
        self._news.extend(news)
        with contextlib.suppress(OSError):  # full: it is readable anyway
            os.write(self._bell, b"\0")

    def _tell(self, text: str) -> None:
        self._ring(Notice(text))

    def _end(self, ended: LauncherEnded) -> None:
        self._ended = ended
        self._ring()

    def _submit(self, launching: Launching, ranks: int, name: str) -> None:
        details = {field: _text(getattr(launching, field)) for field in launching.given()}
        details |= {"name": name, "output": str(self._files.output)}
        since = time.time()
        try:
            number = self._slurm.submit(launching, ranks, name, self._files)
        except InDoubt as error:
            self._tell(f"{error}; looking whether the job is in the queue")
            self._look_for(error, details)
        except Unavailable as error:
            self._end(LauncherEnded(None, str(error), started=False))
        else:
            self._submitted(number, details, since)

    def _submitted(self, number: str, details: dict[str, str], since: float) -> None:
        self._watch = JobWatch(self._execution, number, since)
        self._ring(JobTold(JobSubmitted(time=time.time(), scheduler=SCHEDULER, job=number, details=details)))

    def _watched(self, number: str) -> None:
        self._watch = JobWatch(self._execution, number, 0.0)

    def _look_for(self, doubt: InDoubt | None, details: dict[str, str] | None = None) -> None:
        """A job that may be in the queue, or may not."""
        began = time.time()
        while not self._closed:
            answer = self._slurm.queue()
            long_ago = time.time() - began >= JOB_FOUND_S
            if answer and not answer.problem and answer.asked_at >= began:
                if number := found_by_name(answer, self._execution):
                    self._submitted(number, details or {"output": str(self._files.output)}, 0.0)
                    return
                if long_ago or not doubt:
                    words = f"{doubt}, and no job is there" if doubt else "no job of this execution is in the queue"
                    self._end(LauncherEnded(None, words, started=False))
                    return
            elif doubt and long_ago:
                unknown = f"whether there is a job named like {self._execution} cannot be found out"
                self._end(LauncherEnded(None, f"{doubt}; {unknown}", started=False))
                return
            with self._ordered:
                self._ordered.wait_for(lambda: self._closed, LOOK_S)

    def _carried_out(self, watch: JobWatch) -> bool:
        """Carry out what was ordered; whether that was the end."""
        for order in (_Order.TERMINATE, _Order.WITHDRAW):
            if order in self._orders and not self._ended:
                self._orders.remove(order)
                self._cancel(watch, order)
            elif order is _Order.TERMINATE and self._refused and not self._ended:
                self._cancel(watch, order)
        return self._closed or self._ended is not None

    def _turn(self, watch: JobWatch) -> None:
        pause = QUEUE_POLL_S
        try:
            if answer := self._slurm.queue():
                self._trouble(answer.problem)
                look, news = watch.queue(answer)
                if news:
                    self._ring(watch.told(news, time.time()))
                if look is Look.ASK:
                    self._ask(watch)
                pause = max(LOOK_S, answer.asked_at + QUEUE_POLL_S - time.time())
            else:
                pause = LOOK_S
        except Unavailable as error:
            self._trouble(str(error))
        if not self._ended:
            self._sleep(min(pause, QUEUE_POLL_S))

    def _ask(self, watch: JobWatch) -> None:
        """Is it over? Raises Unavailable."""
        status = self._slurm.status(watch.job)
        if status and not status.name.endswith(self._execution):
            status = None  # another job of the same number
        if status and (new := watch.learn(status)):
            self._ring(watch.told(new, time.time()))
        if status is None or status.ended:
            self._end(watch.ended(status, self._words(watch)))

    def _cancel(self, watch: JobWatch, order: _Order) -> None:
        waiting_only = order is _Order.WITHDRAW
        try:
            refused = self._slurm.cancel(watch.job, waiting_only=waiting_only)
            self._ask(watch)
        except Unavailable as error:
            refused = str(error)
        gone = self._ended is not None
        if waiting_only:
            self._ring(Withdrawn(gone and not watch.begun, "" if gone else refused))
        else:
            if refused and not gone and not self._refused:
                self._tell(f"job {watch.job} could not be cancelled, and it is tried again: {refused}")
            self._refused = refused

    def _words(self, watch: JobWatch) -> str:
        try:
            return last_words(self._files.output.read_bytes())
        except OSError:
            if not watch.begun:
                return ""
            directory = self._files.directory
            return f"it has written nothing to {directory}; --plan-dir names a directory that all machines see"

    def _trouble(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._tell(
                f"the queue cannot be asked: {problem}; the job goes on" if problem else "the queue answers again"
            )

    def _sleep(self, seconds: float) -> None:
        with self._ordered:
            if not self._orders:
                self._ordered.wait(seconds)


def _text(value: object) -> str:
    return shlex.join(value) if isinstance(value, tuple) else str(value)
