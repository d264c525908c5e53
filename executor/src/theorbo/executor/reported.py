"""What an Executor hears about its Task: an event together with its place in the execution."""

from __future__ import annotations

from typing import Any, NamedTuple

from theorbo.schemas.events import EventBase
from theorbo.schemas.frames import Flag, Header
from theorbo.schemas.names import BROKER, Channel, Source
from theorbo.schemas.presentation import kind_of


class RankPlace(NamedTuple):
    """Where a rank runs."""

    host: str
    pid: int
    """Of its program."""


class Reported:
    """An event, who reported it, and where it stands in the journal. Hooks are given one of these.

    The event's own fields can be read from it directly: `event.text`, `event.done`.
    """

    __slots__ = ("event", "header", "redelivered")

    def __init__(self, header: Header, event: EventBase, *, redelivered: bool = False) -> None:
        self.header = header
        self.event = event
        self.redelivered = redelivered
        """Whether a former Executor of this execution may have had it, and did not live to confirm it."""

    @property
    def kind(self) -> str:
        """The event's kind: log, progress, result, and so on."""
        return kind_of(self.event)

    @property
    def source(self) -> Source:
        """Who reported it."""
        return self.header.source or BROKER

    @property
    def rank(self) -> int | None:
        """The rank that reported it, or None if it was no rank."""
        return self.source.rank

    @property
    def channel(self) -> Channel:
        """The channel on which it came."""
        return Channel(self.header.channel)

    @property
    def number(self) -> int:
        """Its number in its stream."""
        return self.header.first

    @property
    def position(self) -> int:
        """Its position within (execution, channel)."""
        return self.header.position

    @property
    def id(self) -> str:
        """What it is called, the same whenever it is given: `EXECUTION/rank:0/log/17`."""
        return f"{self.header.execution.hex()}/{self.source}/{self.channel.text}/{self.number}"

    @property
    def late(self) -> bool:
        """Whether it came after the final state."""
        return bool(self.header.flags & Flag.LATE)

    def __getattr__(self, name: str) -> Any:
        if name in self.__slots__:  # not set yet, while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self.event, name)

    def __repr__(self) -> str:
        return f"Reported({self.source}, {self.event!r})"
