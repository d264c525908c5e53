"""What an Executor makes of what the scheduler says about its job. Pure.

Statuses go in, news come out. A job that is not listed is asked for by its number before anything is concluded: an old
answer, or one that was cut short, is no end.
"""

from __future__ import annotations

import enum

from theorbo.executor.queue_cache import Answer
from theorbo.executor.slurm import WAITING, JobStatus
from theorbo.executor.values import JobTold, LauncherEnded
from theorbo.schemas.events import JobChanged


class Look(enum.Enum):
    """What is to be done next."""

    WAIT = "wait"
    """For the next answer of the queue."""
    ASK = "ask"
    """For this job alone."""
    ENDED = "ended"


class JobWatch:
    """Follows one job, known by its number and by the execution in its name."""

    def __init__(self, execution: str, job: str, since: float) -> None:
        """`since` is when it was submitted (Unix time); answers from before that say nothing of it."""
        self.job = job
        self.last = JobStatus("")
        self.begun = False
        """Whether it was ever given nodes."""
        self._execution = execution
        self._since = since

    def queue(self, answer: Answer) -> tuple[Look, JobStatus | None]:
        """What an answer of the queue says of it; the status is new, or None."""
        if answer.problem or answer.asked_at < self._since:
            return Look.WAIT, None
        status = answer.jobs.get(self.job)
        if status is None or not status.name.endswith(self._execution):
            return Look.ASK, None
        if status.ended:
            return Look.ASK, None  # the last word has the exit code, too
        return Look.WAIT, self.learn(status)

    def learn(self, status: JobStatus) -> JobStatus | None:
        """The status, if it is new."""
        self.begun = self.begun or bool(status.nodes) or (status.state not in WAITING and not status.ended)
        if status[:3] == self.last[:3]:
            return None
        self.last = status
        return status

    def told(self, status: JobStatus, unix: float) -> JobTold:
        """As an event."""
        return JobTold(
            JobChanged(time=unix, job=self.job, state=status.state, reason=status.reason, nodes=status.nodes)
        )

    def ended(self, status: JobStatus | None, words: str) -> LauncherEnded:
        """It is over; None: the scheduler has forgotten it."""
        state, reason = (status.state, status.reason) if status else ("", "")
        return LauncherEnded(None, words, self.begun or status is None, state, reason)


def found_by_name(answer: Answer, execution: str) -> str:
    """The number of the job with this execution in its name; empty if there is none."""
    return next((job for job, status in answer.jobs.items() if status.name.endswith(f".{execution}")), "")
