"""What goes into the core and what comes out of it, as closed types.

Inputs say what has happened, instructions what the skin is to do. Where an instruction asks for something
(a read of the journal, say) the skin does it and hands the answer in as another input.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from theorbo.schemas.frames import Header, Message
from theorbo.schemas.names import Source


class Batch(NamedTuple):
    """Events of one stream that were sent together: one row of the journal."""

    sequence: int
    execution: bytes
    channel: int
    position: int
    """Of the first event, in (execution, channel)."""
    source: Source
    first: int
    """Number of the first event in its stream."""
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    flags: int
    time: float
    """Of the commit (Unix time); 0 before it."""
    body: bytes

    @property
    def last(self) -> int:
        """Number of the last event."""
        return self.first + self.count - 1

    @property
    def last_position(self) -> int:
        """Position of the last event."""
        return self.position + self.count - 1

    def header(self, request: int = 0) -> Header:
        """The header under which the batch leaves the broker."""
        return Header(
            request, self.execution, self.channel, self.source, self.first, self.count,
            self.position, self.sequence, self.time, self.flags,
        )  # fmt: skip


class Reference(NamedTuple):
    """An execution refers to an attachment that is on disk."""

    execution: bytes
    sha256: bytes
    size: int


class Chunk(NamedTuple):
    """A piece of an attachment, or (with `length` 0) the question how much of it is there."""

    reference: Reference
    offset: int
    data: bytes = b""


class Past(NamedTuple):
    """What the journal holds of an execution, as far as the core needs it to go on."""

    streams: list[tuple[Source, int, int, int]]
    """Source, channel, last number, and how many events are there: less than that number if some are lost."""
    heads: dict[int, int]
    """Last position by channel."""
    signals: list[Batch]
    """All batches of channel signals, in order of sequence; of an ended execution those that tell of losses."""
    ended_view: dict[str, Any] | None
    """The view of an ended execution; None of an open one."""
    confirmed: int = 0
    """Sequence up to which an Executor has called its hooks."""
    damaged: tuple[Batch, ...] = ()
    """Rows of signals whose checksum is wrong, as in JournalRead."""


# --- inputs ----------------------------------------------------------------------------------------


class Received(NamedTuple):
    """A message has arrived at the ROUTER."""

    peer: bytes
    """Routing id."""
    principal: str
    """Whose key the connection has."""
    frames: list[bytes]
    """Without the routing id."""


class Unsent(NamedTuple):
    """A message could not be handed to libzmq."""

    peer: bytes
    message: Message
    gone: bool
    """Whether the connection has gone; else its queue is full."""


class Subscribed(NamedTuple):
    """Somebody has subscribed to a topic."""

    topic: bytes


class Committed(NamedTuple):
    """These are on disk now, in the order in which they were appended."""

    items: list[Batch | Reference]


class JournalRead(NamedTuple):
    """The answer to ReadJournal: batches in order, and how far the journal was looked through."""

    peer: bytes
    request: int
    after: int
    """As in ReadJournal."""
    batches: list[Batch]
    looked_to: int
    problem: str = ""
    """Why the journal could not be read."""
    damaged: tuple[Batch, ...] = ()
    """Rows in between whose checksum is wrong, with empty bodies; stream, numbers and position are confirmed."""


class Listed(NamedTuple):
    """The answer to FindViews."""

    peer: bytes
    request: int
    wanted: Wanted
    views: list[dict[str, Any]]


class Recalled(NamedTuple):
    """The answer to Recall (and at start for each open execution); `past` is None if there is none."""

    execution: bytes
    past: Past | None
    retry: Received | None = None


class ChunkStored(NamedTuple):
    """The answer to StoreChunk: how much is there without a gap; `complete`: all, checked and on disk."""

    peer: bytes
    reference: Reference
    received: int
    complete: bool
    refusal: tuple[str, str] | None = None
    """Error code and sentence."""


class ChunkRead(NamedTuple):
    """The answer to ReadChunk; `data` is None if the execution has no such attachment."""

    peer: bytes
    header: Header
    size: int
    data: bytes | None


class Forgotten(NamedTuple):
    """Retention has removed an execution."""

    execution: bytes


class Tick(NamedTuple):
    """A second has passed, as far as the skin can tell."""


class Ending(NamedTuple):
    """The broker is about to end; everything accepted has been committed."""


class JournalTrouble(NamedTuple):
    """The journal cannot be written (`problem`), or can be again (empty)."""

    problem: str


Input = (
    Received | Unsent | Subscribed | Committed | JournalRead | Listed | Recalled
    | ChunkStored | ChunkRead | Forgotten | JournalTrouble | Tick | Ending
)  # fmt: skip


# --- instructions ----------------------------------------------------------------------------------


class Send(NamedTuple):
    """Send a message to a peer."""

    peer: bytes
    message: Message


class Publish(NamedTuple):
    """Publish on the XPUB."""

    topic: bytes
    header: Header
    body: bytes


class Append(NamedTuple):
    """Append a batch to the journal; Committed follows when it is on disk."""

    batch: Batch


class Keep(NamedTuple):
    """Note an execution in the journal's table of executions, with its view. Open while `ended` is None."""

    execution: bytes
    submitted: float
    ended: float | None
    view: dict[str, Any]


class Refer(NamedTuple):
    """Note that an execution refers to an attachment; Committed follows."""

    reference: Reference


class Confirm(NamedTuple):
    """Note that an Executor has called its hooks for everything up to a sequence."""

    execution: bytes
    sequence: int


class SetAside(NamedTuple):
    """Take a damaged row out of the journal's batches; it is kept beside them."""

    sequence: int


class ReadJournal(NamedTuple):
    """Read the next committed batches for a cursor: those after a sequence, or a range of positions."""

    peer: bytes
    request: int
    execution: bytes
    """NO_EXECUTION for all."""
    channels: frozenset[int] | None
    after: int
    first_position: int
    """With `last_position` the range; 0: no range."""
    last_position: int
    limit_bytes: int
    """Stop after the batch with which this is reached."""
    since: float = 0.0
    """Unix time: only what was committed then or later. With `after`, the later of the two holds."""


class Wanted(NamedTuple):
    """Which executions a LIST asks for."""

    execution: bytes
    """NO_EXECUTION for all."""
    ended: bool
    experiment: str | None
    run: str | None
    task: str | None
    limit: int


class FindViews(NamedTuple):
    """Read the views of ended executions, newest first."""

    peer: bytes
    request: int
    wanted: Wanted


class Recall(NamedTuple):
    """Read what the journal holds of an execution, then hand in `retry` again (before anything else)."""

    execution: bytes
    retry: Received | None


class StoreChunk(NamedTuple):
    """Write a piece of an attachment."""

    peer: bytes
    chunk: Chunk


class ReadChunk(NamedTuple):
    """Read a piece of an attachment; offset and length are `first` and `count` of the header."""

    peer: bytes
    header: Header
    sha256: bytes


class Note(NamedTuple):
    """Write to the broker's log."""

    level: Literal["debug", "info", "warning", "error"]
    text: str
    fields: dict[str, Any]


Instruction = (
    Send | Publish | Append | Keep | Confirm | SetAside | Refer | ReadJournal
    | FindViews | Recall | StoreChunk | ReadChunk | Note
)  # fmt: skip
