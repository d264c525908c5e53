"""The batch scheduler's queue as a user's Executors see it: asked once for all of them. A skin.

Whoever finds the answer older than `QUEUE_POLL_S` asks, under a lock, and leaves the new answer in a file of the user's
state directory; all others read that. A failure is an answer, too: it is not asked again at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from theorbo.executor.slurm import JobStatus
from theorbo.schemas.connection import write_whole
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.limits import QUEUE_LOCK_S, QUEUE_POLL_S


class Answer(NamedTuple):
    """What the queue was when it was asked."""

    asked_at: float
    """Unix time before the question."""
    jobs: dict[str, JobStatus]
    problem: str = ""
    """Why there is no answer; then nothing is known."""


class QueueCache:
    """One cluster's queue, for one user."""

    def __init__(self, file: Path, ask: Callable[[], dict[str, JobStatus]]) -> None:
        """`ask` puts the question; it raises Unavailable if there is no answer."""
        self._file = file
        self._ask = ask
        self._own: Answer | None = None  # where the disk does not take it
        self._waiting_since = 0.0

    def look(self, now: float) -> Answer | None:
        """The last answer, which is a new one if the last was too old. `now` is Unix time.

        None: somebody else is asking for the first time.
        """
        answer = self._read()
        if _fresh(answer, now):
            self._waiting_since = 0.0
            return answer
        with self._locked() as mine:
            if not mine:
                self._waiting_since = self._waiting_since or now
                if now - self._waiting_since < QUEUE_LOCK_S:
                    return answer
            self._waiting_since = 0.0
            answer = self._read()  # somebody may just have asked
            return answer if _fresh(answer, now) else self._asked(now)

    def _asked(self, now: float) -> Answer:
        try:
            answer = Answer(now, self._ask())
        except Unavailable as error:
            answer = Answer(now, {}, str(error))
        self._own = answer
        with contextlib.suppress(Unavailable):  # a full disk: then each asks for itself, as rarely
            write_whole(self._file, json.dumps(answer), 0o600)
        return answer

    def _read(self) -> Answer | None:
        try:
            asked_at, jobs, problem = json.loads(self._file.read_text())
            return Answer(float(asked_at), {str(job): JobStatus(*status) for job, status in jobs.items()}, str(problem))
        except (OSError, ValueError, TypeError, AttributeError):
            return self._own

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether we may ask. Where nothing can be locked each asks for itself."""
        try:
            descriptor = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            yield True
            return
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            except OSError:
                yield True
            else:
                yield True
        finally:
            os.close(descriptor)


def _fresh(answer: Answer | None, now: float) -> bool:
    """An answer from the future (another machine's clock) is believed as long as one from the past."""
    return answer is not None and abs(now - answer.asked_at) < QUEUE_POLL_S
