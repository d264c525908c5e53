"""Getting what stands in a spool into the journal: the sender's half of the delivery protocol, pure.

The other half is the broker's. The rules:

1. Everything read from the spool has a number in its stream; it is kept here until the broker has
   acknowledged it, which it does only when it is on disk.
2. At most `window_bytes` are under way. `room_bytes` tells how much more may be read from the spool.
3. Batches of all streams go by age: in the order in which their first records were offered. So people read
   things about in the order in which they were done; exact order holds within a stream alone, for a batch of
   log lines also has those that came after something on another stream. Not so signals and results: what was
   offered before them goes before them. Nothing waits behind more than a window.
4. After WELCOME (a new connection, or a broker that restarted) and after an ACK that says REWIND, all
   that is not acknowledged is sent again, from the oldest on. The broker drops what it has already.
5. A batch that names attachments waits until the broker has stored them; so does all behind it in its
   stream, and nothing else.
6. Acknowledgements are one journal's word. Once the broker has another journal (see `welcomed`), every stream is
   asked after: PUT with a count of 0, to which ACK says how far the journal is. Numbers that it has not, and that
   are not here any more, are `Missing`; the owner tells that as a loss, and what follows goes on. The same journal
   never goes back: an ACK below what it has acknowledged is an old one.
7. If nothing of a stream, or of an attachment, has been acknowledged for `RESEND_S` although something is under
   way, it is sent again: an acknowledgement may have been lost between two live peers (a full queue, a full disk).

Nothing here opens a socket or a file, or asks for the time.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import NamedTuple, Union

from theorbo.schemas.frames import Command, Flag, Header, Message
from theorbo.schemas.limits import BATCH_BYTES, BATCH_EVENTS, CHUNK_BYTES, RESEND_S, WINDOW_BYTES
from theorbo.schemas.names import Channel, Source, Stream
from theorbo.schemas.records import Attachment, attachments_of

_NEVER_EARLY = (Channel.SIGNALS, Channel.RESULTS)
"""Channels whose records join a batch only if nothing of another stream was offered since."""


class SendChunk(NamedTuple):
    """An instruction to the skin: send these bytes of an attachment as an ATTACH message."""

    attachment: Attachment
    offset: int
    length: int


Instruction = Union[Message, SendChunk]


class Missing(NamedTuple):
    """Numbers of a stream that the journal has not, and that nobody here can deliver any more."""

    stream: Stream
    first: int
    last: int


class _Batch:
    __slots__ = ("age", "attachments", "count", "first", "last", "records", "size")

    def __init__(self, first: int, age: int) -> None:
        self.first = first
        self.age = age  # which of all records offered its first one is
        self.last = age  # and its last one
        self.count = 0
        self.size = 0
        self.records: list[bytes] = []
        self.attachments: list[Attachment] = []


class _Queue:
    """What one stream has read and not yet had acknowledged."""

    def __init__(self, acknowledged: int) -> None:
        self.acknowledged = acknowledged
        self.journaled = 0  # the highest number that the broker has named; an earlier sender may have been further
        self.asked = False  # how far the journal is: nothing of the stream is sent before that is known
        self.asked_at = -math.inf
        self.next_number = acknowledged + 1
        self.batches: deque[_Batch] = deque()
        self.sent = 0  # how many of `batches`, from the left, are under way
        self.progress_at = 0.0  # when something was last sent for the first time, or acknowledged


class Delivery:
    """The unacknowledged part of all streams of one execution that one sender is responsible for."""

    def __init__(self, execution: bytes, window_bytes: int = WINDOW_BYTES, journal: str = "") -> None:
        """`journal` is the identity of the one whose acknowledgements are known (from a checkpoint), if there are."""
        self.journal = journal
        """The identity of the broker's journal, as last heard in WELCOME; empty before the first."""
        self._execution = execution
        self._window_bytes = window_bytes
        self._queues: dict[Stream, _Queue] = {}
        self._held_bytes = 0
        self._offered = 0
        self._stored: set[str] = set()  # attachments the broker has, of batches still held
        self._given_up: set[str] = set()  # and those that nobody has
        self._chunk_at: dict[str, int] = {}  # offset of the chunk under way, per attachment
        self._chunk_sent_at: dict[str, float] = {}
        self._connected = False

    @property
    def room_bytes(self) -> int:
        """How much more may be offered now; 0 when the window is full."""
        return max(0, self._window_bytes - self._held_bytes)

    @property
    def idle(self) -> bool:
        """Whether everything offered has been acknowledged, and nothing asked is unanswered."""
        return self._held_bytes == 0 and not self.asking

    def acknowledged(self, stream: Stream) -> int:
        """The last number of a stream that is in the journal."""
        queue = self._queues.get(stream)
        return queue.acknowledged if queue else 0

    def journaled(self, stream: Stream) -> int:
        """The highest number of a stream of which the broker has said that it is in the journal."""
        queue = self._queues.get(stream)
        return queue.journaled if queue else 0

    @property
    def asking(self) -> bool:
        """Whether the broker has been asked about any stream, and has not answered."""
        return any(queue.asked for queue in self._queues.values())

    def asked(self, stream: Stream) -> bool:
        """Whether the broker has been asked how far the journal is in a stream, and has not answered."""
        queue = self._queues.get(stream)
        return queue.asked if queue else False

    def counts(self) -> dict[Stream, int]:
        """The last number read of each stream."""
        return {stream: queue.next_number - 1 for stream, queue in self._queues.items()}

    def start(self, stream: Stream, acknowledged: int, *, ask: bool = False) -> None:
        """Begin a stream, or begin it anew, after the number `acknowledged`; what was held of it is forgotten.

        With `ask` it is not known whether the journal has these numbers: the broker is asked first.
        """
        former = self._queues.get(stream)
        if former:
            self._held_bytes -= sum(batch.size for batch in former.batches)
        queue = self._queues[stream] = _Queue(acknowledged)
        queue.asked = ask

    def offer(self, source: Source, channel: Channel, record: bytes) -> int:
        """Take over the next record of a stream; its number is returned."""
        queue = self._queues.setdefault(Stream(source, channel), _Queue(0))
        attachments = attachments_of(record)
        batch = queue.batches[-1] if len(queue.batches) > queue.sent else None
        self._offered += 1
        if (
            batch is None
            or attachments
            or batch.attachments
            or batch.count >= BATCH_EVENTS
            or batch.size + len(record) > BATCH_BYTES
            or (channel in _NEVER_EARLY and batch.last != self._offered - 1)
        ):
            batch = _Batch(queue.next_number, self._offered)
            batch.attachments = attachments
            queue.batches.append(batch)
        batch.records.append(record)
        batch.count += 1
        batch.last = self._offered
        batch.size += len(record)
        self._held_bytes += len(record)
        number = queue.next_number
        queue.next_number += 1
        return number

    def outgoing(self, now: float) -> list[Instruction]:
        """What is to be sent now. `now` (Unix time) goes into the headers."""
        if not self._connected:
            return []
        for queue in self._queues.values():
            if queue.sent == 0 or _overdue(queue.progress_at, now):
                queue.sent, queue.progress_at = 0, now
        out: list[Instruction] = self._questions(now)
        for sha256 in [key for key in self._chunk_at if _overdue(self._chunk_sent_at[key], now)]:
            del self._chunk_at[sha256]
        waiting = [
            (queue.batches[queue.sent].age, stream)
            for stream, queue in self._queues.items()
            if queue.sent < len(queue.batches) and not queue.asked
        ]
        heapq.heapify(waiting)
        while waiting:
            _, stream = heapq.heappop(waiting)
            queue = self._queues[stream]
            if self._send(stream, queue, now, out) and queue.sent < len(queue.batches):
                heapq.heappush(waiting, (queue.batches[queue.sent].age, stream))
        return out

    def _questions(self, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for stream, queue in self._queues.items():
            if queue.asked and _overdue(queue.asked_at, now):
                queue.asked_at = now
                header = Header(
                    execution=self._execution, channel=stream.channel, source=stream.source, first=1, time=now
                )
                out.append(Message(Command.PUT, header))
        return out

    def _send(self, stream: Stream, queue: _Queue, now: float, out: list[Instruction]) -> bool:
        """Send the next batch of a stream; False if it has to wait for an attachment."""
        batch = queue.batches[queue.sent]
        missing = [item for item in batch.attachments if item.sha256 not in self._stored | self._given_up]
        if missing:
            item = missing[0]
            if item.sha256 not in self._chunk_at:
                self._chunk_at[item.sha256], self._chunk_sent_at[item.sha256] = 0, now
                out.append(SendChunk(item, 0, min(CHUNK_BYTES, item.size)))
            return False
        header = Header(
            execution=self._execution, channel=stream.channel, source=stream.source,
            first=batch.first, count=batch.count, time=now,
        )  # fmt: skip
        out.append(Message(Command.PUT, header, b"".join(batch.records)))
        queue.sent += 1
        return True

    def give_up(self, attachment: Attachment) -> None:
        """Neither we nor the broker have the bytes: the records that name them go without."""
        self._chunk_at.pop(attachment.sha256, None)
        self._chunk_sent_at.pop(attachment.sha256, None)
        self._given_up.add(attachment.sha256)

    def welcomed(self, journal: str = "") -> bool:
        """The broker has answered HELLO: send everything that is not acknowledged, again.

        `journal` is the identity in WELCOME. True if it is not the one whose acknowledgements are known: then all
        streams are asked after, and the owner had better `start` them anew and offer again what it still has.
        """
        self._connected = True
        self._rewind()
        another = bool(self.journal and journal and journal != self.journal)
        self.journal = journal or self.journal
        if another:
            self._stored.clear()  # it may know of less
        for queue in self._queues.values():
            queue.asked = queue.asked or another
            queue.asked_at = -math.inf
            if another:
                queue.journaled = 0
        return another

    def _rewind(self) -> None:
        self._chunk_at.clear()
        self._chunk_sent_at.clear()
        for queue in self._queues.values():
            queue.sent = 0

    def disconnected(self) -> None:
        """Nothing is sent until the next `welcomed`."""
        self._connected = False

    def handle_ack(self, header: Header, now: float) -> list[Missing]:
        """ACK: numbers up to `header.first` of the stream are in the journal. Tells what will never get there."""
        if header.source is None or not header.channel:
            return []
        stream = Stream(header.source, Channel(header.channel))
        queue = self._queues.get(stream)
        if queue is None:
            return []
        queue.progress_at = now
        queue.journaled = max(queue.journaled, header.first)
        before = queue.batches[0].first - 1 if queue.batches else queue.next_number - 1
        missing = []
        if queue.asked:
            queue.asked = False
            if header.first < before:
                missing.append(Missing(stream, header.first + 1, before))
        while queue.batches and queue.batches[0].first + queue.batches[0].count - 1 <= header.first:
            batch = queue.batches.popleft()
            queue.sent = max(0, queue.sent - 1)
            self._held_bytes -= batch.size
            for item in batch.attachments:
                self._stored.discard(item.sha256)
                self._given_up.discard(item.sha256)
        queue.acknowledged = max(queue.acknowledged, min(header.first, queue.next_number - 1))
        if header.flags & Flag.REWIND:
            queue.sent = 0
        return missing

    def refused(self, header: Header) -> Missing | None:
        """REFUSED, for a PUT that no sending again makes better: its numbers are given up. None if it is not held."""
        if header.source is None or not header.channel:
            return None
        stream = Stream(header.source, Channel(header.channel))
        queue = self._queues.get(stream)
        if queue is None or not queue.batches or queue.batches[0].first != header.first:
            return None  # what is behind it is sent, and refused, again
        last = header.first + queue.batches[0].count - 1
        self.handle_ack(Header(source=stream.source, channel=stream.channel, first=last), queue.progress_at)
        return Missing(stream, header.first, last)

    def handle_stored(self, attachment: Attachment, received: int, now: float) -> list[Instruction]:
        """STORED: the broker has `received` bytes of the attachment; the next chunk follows."""
        asked = self._chunk_at.get(attachment.sha256)
        if asked is None or asked >= received > 0:
            return []  # an answer to what was sent before the last rewind: a second train would double the rest
        if received >= attachment.size:
            self._stored.add(attachment.sha256)
            del self._chunk_at[attachment.sha256], self._chunk_sent_at[attachment.sha256]
            return []
        self._chunk_at[attachment.sha256], self._chunk_sent_at[attachment.sha256] = received, now
        return [SendChunk(attachment, received, min(CHUNK_BYTES, attachment.size - received))]


def _overdue(since: float, now: float) -> bool:
    """Whether it is time to send again; also if the clock was set back, for nobody knows how long it was then."""
    return not 0.0 <= now - since <= RESEND_S
