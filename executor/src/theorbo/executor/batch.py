"""What an Executor knows and does about the batch job that is to launch its Task. Pure; a part of `core.Supervisor`.

While the job waits in the queue nobody but the Executor can carry out an end: it cancels the job there, and gives the
receipts that an agent would give. A job that has begun is left to its agents.
"""

from __future__ import annotations

from typing import NamedTuple

from theorbo.executor.slurm import WAITING
from theorbo.executor.values import Decision, JobTold, LauncherEnded, Report, Withdraw, Withdrawn
from theorbo.schemas import events
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import QUEUE_ANSWER_S
from theorbo.schemas.names import EXECUTOR

BATCH_LAUNCHER = "slurm"
"""Of a submission that a batch scheduler launches."""

END_ACTIONS = ("cancel", "kill")
"""Requests that mean an end; stop, continue and stacks do not."""


class _Asked(NamedTuple):
    """An end that was requested, and for which we owe a receipt."""

    action: str
    position: int


class Batch:
    """The job of one execution, from before its submission to its end."""

    def __init__(self) -> None:
        self.submitted: events.JobSubmitted | None = None
        self.begun = False
        """Whether the launcher was heard: there are agents, or will be."""
        self._gone = False
        self._end_wanted = False
        self._withdrawing = False
        self._owed: list[_Asked] = []
        self._accepted: set[int] = set()
        self._settled: set[int] = set()  # positions of requests that have had our receipt, or needed none

    @property
    def waits(self) -> bool:
        """Whether only the scheduler can end it."""
        return not self.begun and not self._gone

    @property
    def lives(self) -> bool:
        """Whether there is, or may be, a job in the queue."""
        return not self._gone

    def told(self, told: JobTold) -> list[Decision]:
        """By the scheduler."""
        if isinstance(told.event, events.JobSubmitted):
            if self.submitted and self.submitted.job == told.event.job:
                return []  # a former Executor has reported it
            self.submitted = told.event
            return [Report(told.event), *self._withdraw()]
        stale = told.event.state in WAITING and self.begun  # of before it began
        return [] if stale else [Report(told.event)]

    def learn(self, header: Header, event: events.EventBase) -> None:
        """A signal was heard or recalled, in whatever order, perhaps twice."""
        match event:
            case events.JobSubmitted():
                self.submitted = event
            case events.LauncherStarted():
                self.begun = True
            case events.LauncherEnded() | events.LauncherGone():
                self._gone = True
            case events.ControlDone() if header.source == EXECUTOR:
                self._settled.add(event.request)
                self._owed = [asked for asked in self._owed if asked.position != event.request]
            case events.ControlRequested() if event.action in END_ACTIONS:
                known = header.position in self._settled or header.position in [each.position for each in self._owed]
                if self.waits and not known:
                    self._owed.append(_Asked(event.action, header.position))

    def end_requested(self) -> list[Decision]:
        """By us, now: the broker need not be there for it."""
        self._end_wanted = True
        return self._withdraw()

    def heard(self, header: Header, event: events.EventBase, unix: float) -> list[Decision]:
        """What follows from a signal that `learn` has had."""
        if isinstance(event, events.ControlRequested) and _Asked(event.action, header.position) in self._owed:
            return [*self._accept(event.action, header.position, unix), *self.end_requested()]
        return []

    def rebuilt(self, unix: float) -> list[Decision]:
        """All that was recalled: what a former Executor owed is ours."""
        out: list[Decision] = []
        for asked in self._owed if self.waits else ():
            out += self._accept(*asked, unix)
        return [*out, *self.end_requested()] if out else []

    def withdrawn(self, withdrawn: Withdrawn, unix: float) -> list[Decision]:
        """The scheduler has answered."""
        self._withdrawing = False
        job = self.submitted.job if self.submitted else "?"
        if withdrawn.done:
            return self._receipts(unix, detail=f"job {job} was cancelled in the queue")
        if self.begun or not withdrawn.words:
            return self._receipts(unix, detail=f"job {job} has nodes by now: its agents carry it out")
        return self._receipts(unix, refused=f"job {job} could not be cancelled in the queue: {withdrawn.words}")

    def ended(self, ended: LauncherEnded, unix: float) -> list[Decision]:
        """It has left the queue."""
        self._gone = True
        how = f"ended as {ended.scheduler_state}" if ended.scheduler_state else "is not in the queue"
        return self._receipts(unix, detail=f"job {self.submitted.job} {how}" if self.submitted else "there is no job")

    def how_it_went(self, ended: LauncherEnded) -> str:
        """Why there is no word from the launcher."""
        words = f": {ended.words}" if ended.words else ""
        if self.submitted is None:
            return ended.words or "no job was submitted"
        job = f"job {self.submitted.job}"
        if not ended.scheduler_state:
            return f"{job} is no longer known to the scheduler, and its launcher has not said how it ended{words}"
        how = f"{job} ended as {ended.scheduler_state}"
        if ended.scheduler_reason:
            how += f" ({ended.scheduler_reason})"
        return how + (" without a word of its launcher" if ended.started else " before it had begun") + words

    def _withdraw(self) -> list[Decision]:
        if not self._end_wanted or not self.submitted or not self.waits or self._withdrawing:
            return []
        self._withdrawing = True
        return [Withdraw()]

    def _accept(self, action: str, position: int, unix: float) -> list[Decision]:
        if position in self._accepted:
            return []
        self._accepted.add(position)
        deadline = unix + QUEUE_ANSWER_S
        return [Report(events.ControlAccepted(time=unix, action=action, request=position, deadline=deadline))]

    def _receipts(self, unix: float, *, detail: str = "", refused: str = "") -> list[Decision]:
        owed, self._owed = self._owed, []
        self._settled.update(asked.position for asked in owed)
        return [
            Report(
                events.ControlDone(
                    time=unix, action=asked.action, request=asked.position, detail=detail, refused=refused
                )
            )
            for asked in owed
        ]
