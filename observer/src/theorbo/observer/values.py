"""What an observer is told and what its skin is to do, as closed types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.events import EventBase
from theorbo.schemas.frames import NO_EXECUTION, ErrorCode, Header
from theorbo.schemas.names import Channel

View = Mapping[str, Any]
"""Of an execution: as in LISTING, or only `execution`, `task`, `experiment` and `run`."""

Policy = Literal["complete", "latest"]
"""`complete`: what was dropped on the way is read from the journal. `latest`: it is told as `Missed`, at once."""


class Subscribe(NamedTuple):
    """An instruction to the skin."""

    topic: bytes


class Unsubscribe(NamedTuple):
    """An instruction to the skin."""

    topic: bytes


class Snapshot(NamedTuple):
    """What there is at the moment of joining: everything after it follows as events.

    With `since` the events before it have come by then. There is another one if the broker's journal is not the same
    any more: what it has lost, or has never had, cannot be told by positions.
    """

    views: tuple[View, ...]
    """Of the open executions that are wanted; of the one that was named also if it has ended."""
    sequence: int
    """The journal's last."""
    ended: tuple[View, ...] = ()
    """Of the newest executions that have ended and are not among `views`: what comes of them is late."""


class Batch(NamedTuple):
    """The next events of an execution, not filtered by kind."""

    header: Header
    view: View
    body: bytes


class Missed(NamedTuple):
    """These positions (both included) of a channel could not be had, or were not asked for; the rest goes on."""

    view: View
    channel: Channel
    first: int
    last: int
    reason: str


class Observation(NamedTuple):
    """One event: its own header (source, channel, number, position …), its execution's view, and the event."""

    header: Header
    view: View
    """`execution`, `task`, `experiment` and `run`."""
    event: EventBase


class BrokerAway(NamedTuple):
    """The broker does not answer. The iteration goes on when it is back; nothing will be missing then."""

    text: str


class BrokerBack(NamedTuple):
    """The broker answers again."""


class BrokerTrouble(NamedTuple):
    """Something hinders the broker (a full disk): nothing comes until that is over, and nothing is lost."""

    text: str
    """In the broker's own words; empty when it is over."""


Item = Snapshot | Observation | Missed | BrokerAway | BrokerBack | BrokerTrouble
"""What whoever watches gets."""


class Finished(NamedTuple):
    """With `until_ended`: all wanted executions have ended, and everything of them was handed over."""


def execution_of(view: View) -> bytes:
    """The id of the view's execution. Raises ProtocolError."""
    try:
        value = bytes.fromhex(str(view.get("execution")))
    except ValueError:
        value = b""
    if len(value) != len(NO_EXECUTION):
        raise ProtocolError(ErrorCode.MALFORMED, f"{view.get('execution')!r} is no execution")
    return value


def names_of(view: View) -> View:
    """Only what an event is shown with."""
    return {name: str(view.get(name) or "") for name in ("execution", "task", "experiment", "run")}
