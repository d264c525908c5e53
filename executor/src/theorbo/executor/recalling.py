"""What an Executor knows of an execution from the journal: of its beginning and its end, and, for one that attaches, of
what a former Executor had. Pure.
"""

from __future__ import annotations

from typing import Any

from theorbo.executor.batch import BATCH_LAUNCHER
from theorbo.schemas import events
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import ErrorCode, Header
from theorbo.schemas.limits import COUNT
from theorbo.schemas.names import BROKER, EXECUTOR, Channel, Stream
from theorbo.schemas.states import State

OWN_SIGNALS = Stream(EXECUTOR, Channel.SIGNALS)
RECALLED_CHANNELS = (Channel.SIGNALS.text, Channel.RESULTS.text)


class Recollection:
    """Filled by WELCOME and by what is read. Whoever attaches has all of it when it is `complete`."""

    def __init__(self) -> None:
        self.submission: events.ExecutionSubmitted | None = None
        self.holder = ""
        """The incarnation of the journal's last Executor."""
        self.confirmed = 0
        """The last sequence for which a former Executor has called its hooks."""
        self.given = 0
        """The last sequence that may have been given to a former Executor."""
        self.accepted = 0
        """Of our own stream, what the broker had got when it said WELCOME."""
        self.final_at = 0.0
        """When the final state was journaled; 0 if there is none yet."""
        self._submitted_at = self._launched_at = self._welcomed_at = 0.0
        self._own_number = 0

    @property
    def complete(self) -> bool:
        """Whether everything of our own stream has been read; what was not on disk at WELCOME comes somewhat later."""
        return self._own_number >= self.accepted

    @property
    def launched_ago_s(self) -> float:
        """From the launch to WELCOME, both by the broker's clock: of a batch job since it has begun."""
        return max(0.0, self._welcomed_at - (self._launched_at or self._submitted_at))

    def duration_s(self, unix: float) -> float:
        """From the submission to the final state, by the journal; to `unix` (Unix time) if there is none yet."""
        return (self.final_at or unix) - self._submitted_at if self._submitted_at else 0.0

    def welcomed(self, header: Header, said: dict[str, Any]) -> None:
        """What WELCOME says to whoever attaches. Raises ProtocolError."""
        self._welcomed_at = header.time
        self.accepted = number_in(said, "accepted")
        self.confirmed = number_in(said, "confirmed")
        self.given = max(self.given, number_in(said, "given"))

    def learn(self, header: Header, event: events.EventBase) -> None:
        """An event was read, whether it is recalled or heard."""
        match event:
            case events.ExecutionSubmitted() if self.submission is None:
                self.submission, self._submitted_at = event, header.time
                self.holder = event.incarnation
            case events.LauncherStarted() if self.submission and self.submission.launcher == BATCH_LAUNCHER:
                self._launched_at = header.time
            case events.ExecutorAttached():
                self.holder = event.incarnation
            case events.StateChanged(state=state) if header.source == BROKER:
                if state in _FINAL:
                    self.final_at = header.time
            case events.Loss(stream=stream, last=last) if stream == str(OWN_SIGNALS):
                self._own_number = max(self._own_number, last)  # damaged in the journal: it will not come
        if header.source == EXECUTOR and header.channel == Channel.SIGNALS:
            self._own_number = max(self._own_number, header.first)


_FINAL = frozenset(str(state) for state in State if state.final)


def number_in(said: dict[str, Any], name: str) -> int:
    """A number that WELCOME says. Raises ProtocolError."""
    value = said.get(name, 0)
    if not isinstance(value, int) or not 0 <= value < COUNT:
        raise ProtocolError(ErrorCode.MALFORMED, f"WELCOME: {name} {str(value)[:100]} is no number")
    return value
