"""Cursors: readers of the journal, each at its own place, each with its own credit.

A cursor is *live* when it has been given everything up to the journal's end: committed batches then reach
it from memory. When its credit is used up it is no longer live; when there is credit again it reads from
the journal until it has caught up. So a slow reader costs a slow reader's reads, and nobody waits for it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from theorbo.broker.batches import cut
from theorbo.broker.executions import Execution
from theorbo.broker.values import Batch, Instruction, JournalRead, ReadJournal, Send, Unsent
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import NO_EXECUTION, Command, ErrorCode, Header, Message, decode_json
from theorbo.schemas.limits import CREDIT_BYTES, JOURNAL_READ_BYTES, PEER_CREDIT_BYTES, READS, READS_PER_PEER
from theorbo.schemas.names import Channel


class Cursor:
    """One READ: what it wants, how far it is, what it may still be sent."""

    def __init__(self, peer: bytes, header: Header, wish: dict[str, Any], supervised: Execution | None = None) -> None:
        """Of the body of a READ. Raises ProtocolError. `supervised`: the execution, if its Executor reads."""
        self.peer = peer
        self.request = header.request
        self.execution = header.execution
        self.follow = bool(wish.get("follow", False))
        self.channels = _channels(wish)
        self.looked_to = _number(wish, "after", 0)
        """Sequence up to which everything has been given, or was not wanted."""
        self.since = _time(wish, "since")
        self.credit_bytes = min(_number(wish, "credit", CREDIT_BYTES), CREDIT_BYTES)
        self.first_position = max(1, _number(wish, "first", 1)) if "channel" in wish else 0
        self.last_position = _number(wish, "last", 2**63 - 1) if "channel" in wish else 0
        if self.first_position and (self.execution == NO_EXECUTION or self.channels is None or self.follow):
            raise ProtocolError(ErrorCode.MALFORMED, "READ of positions: one execution and one channel, no follow")
        self.live = False
        self.reading = False
        self._under_way = deque[int]()
        """Sequences that were given and are not confirmed."""
        self.supervised = supervised if self.follow and supervised and self.execution == supervised.id else None
        """What is given through this cursor goes through the hooks of the execution's Executor."""

    @property
    def key(self) -> tuple[bytes, int]:
        """The request numbers are the client's own."""
        return self.peer, self.request

    def wants(self, batch: Batch) -> bool:
        """Whether the batch is among what the READ asked for."""
        return (self.execution in (NO_EXECUTION, batch.execution)) and (
            self.channels is None or batch.channel in self.channels
        )

    def affords(self, batch: Batch) -> bool:
        """Whether credit is left for it. One batch may always be under way, else a reader whose whole credit
        is smaller than a batch would wait for ever.
        """
        return len(batch.body) <= self.credit_bytes or not self._under_way

    def give(self, batch: Batch) -> Send:
        """The batch, or what of it lies in the range of positions, on its way."""
        if self.first_position:
            batch = cut(batch, self.first_position, self.last_position)
            self.first_position = batch.last_position + 1
        self.credit_bytes -= len(batch.body)
        self._under_way.append(batch.sequence)
        if self.supervised:
            self.supervised.given = max(self.supervised.given, batch.sequence)
        return Send(self.peer, Message(Command.EVENTS, batch.header(self.request), batch.body))

    def committed(self, batch: Batch) -> Send | None:
        """A batch has been committed just now: if the cursor is live, it gets it or stops being live."""
        if not self.live or batch.sequence <= self.looked_to:
            return None
        if not self.wants(batch):
            self.looked_to = batch.sequence
            return None
        if not self.affords(batch):
            self.live = False
            return None
        self.looked_to = batch.sequence
        return self.give(batch)

    def confirm(self, more_bytes: int, sequence: int) -> None:
        """CREDIT."""
        self.credit_bytes = min(self.credit_bytes + more_bytes, CREDIT_BYTES)
        confirmed = 0
        while self._under_way and self._under_way[0] <= sequence:
            confirmed = self._under_way.popleft()
        if self.supervised and confirmed:
            self.supervised.confirm(confirmed)

    def unsent(self, message: Message) -> None:
        """An EVENTS message did not leave: it is given again, and all after it."""
        header = message.header
        self.live = False
        self.credit_bytes += len(message.body)
        self.looked_to = min(self.looked_to, header.sequence - 1)
        while self._under_way and self._under_way[-1] >= header.sequence:
            self._under_way.pop()
        if self.first_position:
            self.first_position = min(self.first_position, header.position)

    def read_on(self) -> list[Instruction]:
        """What to read next: nothing if the cursor is live, is waiting for a read, or has no credit."""
        if self.live or self.reading or (self.credit_bytes <= 0 and self._under_way):
            return []
        self.reading = True
        limit_bytes = max(1, min(self.credit_bytes, JOURNAL_READ_BYTES))
        return [
            ReadJournal(
                self.peer, self.request, self.execution, self.channels, self.looked_to,
                self.first_position, self.last_position, limit_bytes, self.since,
            )
        ]  # fmt: skip

    def end(self) -> Send:
        """END: there is no more."""
        header = Header(request=self.request, execution=self.execution, sequence=self.looked_to)
        return Send(self.peer, Message(Command.END, header))


class Cursors:
    """All readers."""

    def __init__(self) -> None:
        self._cursors: dict[tuple[bytes, int], Cursor] = {}
        self._ended: dict[tuple[bytes, int], Cursor] = {}
        """Those whose END was sent just now: it may come back as unsent."""

    def read(self, peer: bytes, message: Message, supervised: Execution | None = None) -> list[Instruction]:
        """READ, by the Executor of the execution `supervised` if that is given. Raises ProtocolError."""
        cursor = Cursor(peer, message.header, decode_json(message.body), supervised)
        if cursor.key in self._cursors:
            raise ProtocolError(
                ErrorCode.MALFORMED, f"READ {cursor.request} is under way; CLOSE it, or take a new number"
            )
        others = [other for key, other in self._cursors.items() if key[0] == peer]
        if len(others) >= READS_PER_PEER:
            raise ProtocolError(ErrorCode.BUSY, f"more than {READS_PER_PEER} READs at the same time; CLOSE some")
        if len(self._cursors) >= READS:
            raise ProtocolError(ErrorCode.BUSY, f"{READS} READs are under way; try again later")
        cursor.credit_bytes = min(cursor.credit_bytes, _left(others))
        self._cursors[cursor.key] = cursor
        return cursor.read_on()

    def credit(self, peer: bytes, message: Message) -> tuple[list[Instruction], Execution | None]:
        """CREDIT; also the execution of which more was confirmed, if that was by its Executor."""
        header = message.header
        cursor = self._cursors.get((peer, header.request))
        if cursor is None:
            return [], None  # it has ended meanwhile
        others = [other for key, other in self._cursors.items() if key[0] == peer]
        cursor.confirm(min(header.count, _left(others)), header.sequence)
        return cursor.read_on(), cursor.supervised

    def waits(self, wish: ReadJournal) -> bool:
        """Whether a reader waits for this."""
        cursor = self._cursors.get((wish.peer, wish.request))
        return cursor is not None and cursor.reading

    def adopt(self, execution: Execution) -> None:
        """An execution is in memory again: it goes on with what its Executor was given and has confirmed since."""
        for cursor in self._cursors.values():
            if cursor.supervised and cursor.supervised.id == execution.id:
                execution.confirmed = max(execution.confirmed, cursor.supervised.confirmed)
                cursor.supervised = execution

    def close(self, peer: bytes, message: Message) -> list[Instruction]:
        """CLOSE."""
        self._cursors.pop((peer, message.header.request), None)
        return []

    def drop(self, peer: bytes) -> None:
        """A peer has gone, and with it what it was reading."""
        for key in [key for key in self._cursors if key[0] == peer]:
            del self._cursors[key]

    def committed(self, batches: list[Batch]) -> list[Instruction]:
        """Batches are on disk: live cursors get them, as far as their credit goes."""
        out: list[Instruction] = []
        for cursor in self._cursors.values():
            if cursor.live:
                out += [send for batch in batches if (send := cursor.committed(batch))]
                out += cursor.read_on()
        return out

    def journal_read(self, it: JournalRead, committed_sequence: int) -> list[Instruction]:
        """Batches were read for a cursor. At the journal's end it becomes live, or has its END.

        Raises ProtocolError if the journal could not be read; the cursor is closed then.
        """
        cursor = self._cursors.get((it.peer, it.request))
        if cursor is None or not cursor.reading:
            return []
        cursor.reading = False
        if it.problem:
            del self._cursors[cursor.key]
            raise ProtocolError(ErrorCode.JOURNAL, f"the journal cannot be read: {it.problem}")
        if it.after != cursor.looked_to:
            return cursor.read_on()  # it was set back meanwhile
        out: list[Instruction] = []
        for batch in it.batches:
            if not cursor.affords(batch):
                return out
            cursor.looked_to = batch.sequence
            out.append(cursor.give(batch))
        cursor.looked_to = it.looked_to
        if cursor.looked_to < committed_sequence:
            return out + cursor.read_on()
        if cursor.follow:
            cursor.live = True
            return out
        self._ended = {cursor.key: self._cursors.pop(cursor.key)}
        return [*out, cursor.end()]

    def unsent(self, it: Unsent) -> None:
        """A message to a reader did not leave, for its queue is full. It reads on at the next tick."""
        if it.message.command not in (Command.EVENTS, Command.END):
            return
        key = it.peer, it.message.header.request
        if key in self._ended:
            self._cursors[key] = self._ended.pop(key)
        cursor = self._cursors.get(key)
        if cursor and it.message.command == Command.EVENTS:
            cursor.unsent(it.message)

    def tick(self) -> list[Instruction]:
        """Whoever could read on and does not, reads on."""
        return [read for cursor in self._cursors.values() for read in cursor.read_on()]


def _number(wish: dict[str, Any], name: str, default: int) -> int:
    value = wish.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ProtocolError(ErrorCode.MALFORMED, f"READ: {name} {value!r} is no number from 0 to 2^63 - 1")
    return value


def _time(wish: dict[str, Any], name: str) -> float:
    value = wish.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 2**63:
        raise ProtocolError(ErrorCode.MALFORMED, f"READ: {name} {str(value)[:40]} is no Unix time")
    return float(value)


def _left(cursors: list[Cursor]) -> int:
    """Credit that may still be granted to the peer of these."""
    return max(0, PEER_CREDIT_BYTES - sum(max(0, cursor.credit_bytes) for cursor in cursors))


def _channels(wish: dict[str, Any]) -> frozenset[int] | None:
    names = [wish["channel"]] if "channel" in wish else wish.get("channels")
    if names is None:
        return None
    try:
        return frozenset(int(Channel[name.upper()]) for name in names)
    except (KeyError, AttributeError, TypeError):
        known = ", ".join(channel.text for channel in Channel)
        raise ProtocolError(ErrorCode.MALFORMED, f"READ: channels {names!r}; known are {known}") from None
