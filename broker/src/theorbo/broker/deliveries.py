"""Deliveries: from PUT to ACK. The broker's half of what `schemas.delivery.Delivery` is the sender's half of.

A batch is accepted if it begins with the next number of its stream. What is there already is dropped, the
overlap of a batch that begins too early is cut off, a gap is answered by REWIND. What is accepted gets its
place in the journal; it is acknowledged when it is on disk, one ACK per stream and commit.
"""

from __future__ import annotations

from theorbo.broker import batches
from theorbo.broker.executions import Execution
from theorbo.broker.sessions import Session
from theorbo.broker.values import Append, Batch, Send
from theorbo.schemas import events
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import Command, ErrorCode, Flag, Header, Message
from theorbo.schemas.limits import BATCH_BYTES, HELD_OVERHEAD_BYTES, PENDING_JOURNAL_BYTES, REWIND_S, REWINDS_REMEMBERED
from theorbo.schemas.names import BROKER, EXECUTOR, Channel, Source, Stream, checked_name
from theorbo.schemas.records import drop_first, encode_record, split_body


class Deliveries:
    """What is on its way to the disk."""

    def __init__(self, last_sequence: int) -> None:
        """`last_sequence` is the journal's last."""
        self._sequence = last_sequence
        self._pending_bytes = 0
        self._starved: list[tuple[Execution, Source, int]] = []
        self._rewound: dict[tuple[bytes, Source, int], float] = {}
        """When a gap was last told, so that each of many batches behind one gap does not bring all of them again."""

    @property
    def full(self) -> bool:
        """Whether nothing more should wait for the journal now."""
        return self._pending_bytes > PENDING_JOURNAL_BYTES

    def put(
        self, session: Session, execution: Execution, header: Header, body: bytes, now: float
    ) -> list[Append | Send]:
        """A batch that passed `check_put` has come: it is appended, answered at once, or (if it is on its way
        already, or there is no room) answered later. Raises ProtocolError if it would begin one stream too many.
        """
        source, channel = header.source, header.channel
        assert source is not None  # checked
        head = execution.streams.get((source, channel))
        committed, accepted = (head.committed, head.accepted) if head else (0, 0)
        if head:
            head.sender = session.peer
        if not header.count:
            if accepted > committed:
                return []  # the commit that is under way will tell
            return [acknowledgement(execution, source, channel, now, peer=session.peer)]
        if header.last <= committed:
            return [acknowledgement(execution, source, channel, now)]
        if header.last <= accepted or (head and head.starved):
            return []
        if header.first > accepted + 1 and not self._begins_anew(session, header, body):
            return self._rewind(session, execution, header, now)
        head = execution.stream(source, channel)
        head.sender = session.peer
        if self._pending_bytes + len(body) + HELD_OVERHEAD_BYTES > PENDING_JOURNAL_BYTES:
            head.starved = True
            self._starved.append((execution, source, channel))
            return []
        self._rewound.pop((execution.id, source, channel), None)
        lost = self._close_gap(execution, header.first, now) if header.first > accepted + 1 else []
        known = head.accepted + 1 - header.first
        rest = drop_first(body, known) if known else body
        return [*lost, self.append(execution, source, channel, header.count - known, rest)]

    def _rewind(self, session: Session, execution: Execution, header: Header, now: float) -> list[Append | Send]:
        """A gap: the sender is told, unless it has been, and this was under way meanwhile."""
        source, channel = header.source, header.channel
        assert source is not None
        stream = execution.id, source, channel
        if 0.0 <= now - self._rewound.get(stream, 0.0) < REWIND_S:  # a clock that was set back is no reason to wait
            return []
        if len(self._rewound) >= REWINDS_REMEMBERED:
            self._rewound.clear()
        self._rewound[stream] = now
        return [acknowledgement(execution, source, channel, now, Flag.REWIND, session.peer)]

    def gap_closed(self, execution: Execution, source: Source, channel: int) -> int:
        """A loss has closed a gap: the flags of its ACK. What was dropped behind it is to come again."""
        return Flag.REWIND if self._rewound.pop((execution.id, source, channel), None) is not None else 0

    def _begins_anew(self, session: Session, header: Header, body: bytes) -> bool:
        """Whether an attached Executor begins with a number that is beyond what is there."""
        if session.source != EXECUTOR or header.source != EXECUTOR or header.channel != Channel.SIGNALS:
            return False
        event = events.decode_event(split_body(body)[0])
        return isinstance(event, events.ExecutorAttached) and (event.number, event.epoch) == (
            header.first,
            session.epoch,
        )

    def _close_gap(self, execution: Execution, first: int, now: float) -> list[Append]:
        """What an attached Executor never had and the journal has no more (it was recovered): it cannot report this
        loss itself, for its report would stand behind the gap. So the broker does.
        """
        head = execution.stream(EXECUTOR, Channel.SIGNALS)
        loss = events.Loss(
            time=now,
            stream=str(Stream(EXECUTOR, Channel.SIGNALS)),
            count=first - 1 - head.accepted,
            first=head.accepted + 1,
            last=first - 1,
            detail="reported by a former Executor; not in the journal any more",
        )
        head.lose(loss.first, loss.last)
        return self.own(execution, [encode_record(events.record_fields(loss))])

    def append(self, execution: Execution, source: Source, channel: int, count: int, body: bytes) -> Append:
        """The next events of a stream get their place in the journal."""
        self._sequence += 1
        self._pending_bytes += len(body) + HELD_OVERHEAD_BYTES
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

    def committed(self, execution: Execution, batch: Batch) -> None:
        """A batch is on disk."""
        self._pending_bytes -= len(batch.body) + HELD_OVERHEAD_BYTES
        execution.committed(batch)

    def feed_starved(self, now: float) -> list[Send]:
        """When there is room again, those whose batches were dropped are told to send them again."""
        if not self._starved or self._pending_bytes > PENDING_JOURNAL_BYTES // 2:
            return []
        starved, self._starved = self._starved, []
        for execution, source, channel in starved:
            execution.stream(source, channel).starved = False
        return [acknowledgement(*stream, now, Flag.REWIND) for stream in starved]


def acknowledgement(
    execution: Execution, source: Source, channel: int, now: float, flags: int = 0, peer: bytes = b""
) -> Send:
    """ACK, to the `peer`, or to whoever delivered last for the stream."""
    head = execution.streams.get((source, channel))
    first = head.committed if head else 0
    header = Header(execution=execution.id, channel=channel, source=source, first=first, time=now, flags=flags)
    return Send(peer or (head.sender if head else b""), Message(Command.ACK, header))


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
    if header.source and not session.may_report(header.source):
        raise ProtocolError(ErrorCode.NOT_ALLOWED, f"{session.source} may not report for {header.source}")


def submission(header: Header, body: bytes) -> events.ExecutionSubmitted:
    """The first event of a new execution. Raises ProtocolError if this batch cannot be the first one."""
    unknown = unknown_execution(header.execution)
    if header.source != EXECUTOR or header.channel != Channel.SIGNALS or header.first != 1 or not header.count:
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
