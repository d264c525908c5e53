"""Deliveries: from PUT to ACK. The broker's half of what `schemas.delivery.Delivery` is the sender's half of.

A batch is accepted if it begins with the next number of its stream. What is there already is dropped, the
overlap of a batch that begins too early is cut off, a gap is answered by REWIND. What is accepted gets its
place in the journal; it is acknowledged when it is on disk, one ACK per stream and commit.
"""

from __future__ import annotations

from theorbo.broker import batches
from theorbo.broker.executions import Execution, StreamHead
from theorbo.broker.sessions import Session
from theorbo.broker.values import Append, Batch, Send
from theorbo.schemas import events
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import Command, ErrorCode, Flag, Header, Message
from theorbo.schemas.limits import BATCH_BYTES, PENDING_JOURNAL_BYTES, REWIND_S
from theorbo.schemas.names import BROKER, EXECUTOR, Channel, Source, checked_name
from theorbo.schemas.records import drop_first, split_body


class Deliveries:
    """What is on its way to the disk."""

    def __init__(self, last_sequence: int) -> None:
        """`last_sequence` is the journal's last."""
        self._sequence = last_sequence
        self._pending_bytes = 0
        self._starved: list[tuple[Execution, Source, int]] = []

    def put(
        self, session: Session, execution: Execution, header: Header, body: bytes, now: float
    ) -> Append | Send | None:
        """A batch that passed `batches.check` has come: it is appended, answered at once, or (if it is on its way
        already, or there is no room) answered later.
        """
        source, channel = header.source, header.channel
        assert source is not None  # checked
        head = execution.stream(source, channel)
        head.sender = session.peer
        if header.last <= head.committed:
            return acknowledgement(execution, source, channel, now)
        if header.last <= head.accepted or head.starved:
            return None
        if header.first > head.accepted + 1:
            if now - head.rewound_at < REWIND_S:
                return None  # it has been told, and this was under way
            head.rewound_at = now
            return acknowledgement(execution, source, channel, now, Flag.REWIND)
        if self._pending_bytes + len(body) > PENDING_JOURNAL_BYTES:
            head.starved = True
            self._starved.append((execution, source, channel))
            return None
        known = head.accepted + 1 - header.first
        head.rewound_at = 0.0
        return self.append(execution, source, channel, header.count - known, drop_first(body, known) if known else body)

    def append(self, execution: Execution, source: Source, channel: int, count: int, body: bytes) -> Append:
        """The next events of a stream get their place in the journal."""
        self._sequence += 1
        self._pending_bytes += len(body)
        return Append(execution.accept(self._sequence, source, channel, count, body))

    def own(self, execution: Execution, records: list[bytes]) -> list[Append]:
        """Events of the broker's own, if there are any; in several batches where one would be too large."""
        out: list[Append] = []
        group: list[bytes] = []
        for record in records:
            if group and sum(map(len, group)) + len(record) > BATCH_BYTES:
                out.append(self.append(execution, BROKER, Channel.SIGNALS, len(group), b"".join(group)))
                group = []
            group.append(record)
        if group:
            out.append(self.append(execution, BROKER, Channel.SIGNALS, len(group), b"".join(group)))
        return out

    def committed(self, execution: Execution, batch: Batch) -> StreamHead:
        """A batch is on disk."""
        self._pending_bytes -= len(batch.body)
        return execution.committed(batch)

    def feed_starved(self, now: float) -> list[Send]:
        """When there is room again, those whose batches were dropped are told to send them again."""
        if not self._starved or self._pending_bytes > PENDING_JOURNAL_BYTES // 2:
            return []
        starved, self._starved = self._starved, []
        for execution, source, channel in starved:
            execution.stream(source, channel).starved = False
        return [acknowledgement(*stream, now, Flag.REWIND) for stream in starved]


def acknowledgement(execution: Execution, source: Source, channel: int, now: float, flags: int = 0) -> Send:
    """ACK, to whoever delivered last for the stream."""
    head = execution.stream(source, channel)
    header = Header(execution=execution.id, channel=channel, source=source, first=head.committed, time=now, flags=flags)
    return Send(head.sender, Message(Command.ACK, header))


def check_speaker(session: Session, header: Header) -> None:
    """Who reports must be allowed to, and for itself. Raises ProtocolError."""
    if session.role == "observer":
        raise ProtocolError(ErrorCode.NOT_ALLOWED, "an observer may not report")
    if header.execution != session.execution:
        raise ProtocolError(ErrorCode.NOT_ALLOWED, f"this peer has said HELLO for {session.execution.hex()}")


def check_put(session: Session, header: Header, body: bytes) -> None:
    """Everything that can be said of a PUT without opening its body. Raises ProtocolError."""
    check_speaker(session, header)
    batches.check(header, body)


def submission(header: Header, body: bytes) -> events.ExecutionSubmitted:
    """The first event of a new execution. Raises ProtocolError if this batch cannot be the first one."""
    unknown = unknown_execution(header.execution)
    if header.source != EXECUTOR or header.channel != Channel.SIGNALS or header.first != 1:
        raise unknown
    event = events.decode_event(split_body(body)[0])
    if isinstance(event, events.InvalidEvent):
        raise ProtocolError(ErrorCode.MALFORMED, f"execution_submitted: {event.problem}")
    if not isinstance(event, events.ExecutionSubmitted):
        raise unknown
    try:
        checked_name("task", event.task)
        for what, text in (("experiment", event.experiment), ("run", event.run)):
            if text:
                checked_name(what, text)
    except ValueError as error:
        raise ProtocolError(ErrorCode.MALFORMED, str(error)) from None
    return event


def unknown_execution(execution: bytes) -> ProtocolError:
    """The refusal of what is about an execution that nobody knows."""
    return ProtocolError(
        ErrorCode.UNKNOWN_EXECUTION, f"execution {execution.hex()} was never submitted, or retention has removed it"
    )
