"""Joining late is joining whole: live batches, a snapshot and repairs become one stream. Pure.

The broker gives each event of one (execution, channel) a position: 1, 2, 3 … A live stream may lose
batches (a slow subscriber), and begins somewhere in the middle. The rules:

1. The snapshot tells the *head*, the last position, of every channel of the executions that it lists. What
   is at or before the head is part of the snapshot. Live batches that come before the snapshot wait for it.
2. After that, each (execution, channel) has a *cursor*: all up to it was delivered. A batch that begins just
   behind the cursor is delivered, one that overlaps it is cut, one that ends before it is dropped.
3. A batch that begins later leaves a gap, and so does a beacon whose head is beyond the cursor. The gap is
   asked for: READ with first and last. What came too early is held back meanwhile.
4. What is held back is bounded (`HELD_BYTES`). A batch that has no room is forgotten, but not its last
   position: the journal has it, and it will be asked for like anything else that is missing.
5. At most `REPAIRS_AT_ONCE` ranges are asked for at a time. One without any answer for `ANSWER_S` is asked for
   again, for ever: silence is no loss. One that is answered `REPAIR_TRIES` times without its beginning, or
   refused, is told as a `Gap`, and the stream goes on behind it.
6. An execution that the snapshot did not list begins at position 1. If a batch of it has a sequence not
   beyond the snapshot's, it is older than the snapshot, which is bounded and left it out: it is not news.
7. At most `OBSERVED_EXECUTIONS` are remembered; the oldest that the beacon no longer names are forgotten.
   Should something still come of one, rule 6 applies with the sequence it had reached.

8. Without `repairs` nothing is ever asked for: a gap is told at once. What a beacon names and has not come by then
   was dropped, for it came the same way. A LISTING of a later joining came another way: what it names counts as
   dropped only when a beacon follows that the broker made after it.
   (Of an execution that rules 6 and 7 are about, what is told to be missing may be older than the snapshot.)

Hence: each event after the snapshot is delivered at most once and in the order of its position, and
nothing is left out without a `Gap` that says so.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from theorbo.schemas.frames import Header
from theorbo.schemas.limits import (
    ANSWER_S,
    HELD_BYTES,
    HELD_OVERHEAD_BYTES,
    OBSERVED_EXECUTIONS,
    REPAIR_TRIES,
    REPAIRS_AT_ONCE,
)
from theorbo.schemas.names import Channel
from theorbo.schemas.records import drop_first


class Deliver(NamedTuple):
    """These events are next. The header's first, count and position fit the body."""

    header: Header
    body: bytes


class Ask(NamedTuple):
    """Read these positions (both included) from the journal."""

    execution: bytes
    channel: Channel
    first: int
    last: int


class Gap(NamedTuple):
    """These positions (both included) could not be had; the stream goes on behind them."""

    execution: bytes
    channel: Channel
    first: int
    last: int
    reason: str


SKIPPED = "they were dropped on the way, and with the policy latest nothing is read from the journal"
"""The reason of a `Gap` without repairs."""

Instruction = Deliver | Ask | Gap
Heads = Mapping[bytes, Mapping[Channel, int]]
"""The last position of each channel of each execution."""


class _Held(NamedTuple):
    position: int
    header: Header
    body: bytes

    @property
    def cost_bytes(self) -> int:
        return len(self.body) + HELD_OVERHEAD_BYTES


@dataclass
class _Repair:
    first: int
    last: int
    heard_at: float


@dataclass
class _Cursor:
    execution: bytes
    channel: Channel
    delivered: int = 0
    head: int = 0  # the highest position that was heard of
    sequence: int = 0  # of what was delivered last
    tries: int = 0
    repair: _Repair | None = None
    held: list[_Held] = field(default_factory=list)  # by position

    @property
    def missing_last(self) -> int:
        """The last position of the first gap; not beyond `delivered` if there is none."""
        return self.held[0].position - 1 if self.held else self.head


@dataclass
class _Execution:
    floor: int  # batches up to this sequence are not news (rules 6 and 7)
    cursors: dict[Channel, _Cursor] = field(default_factory=dict)


class Splice:
    """All streams that one observer follows. Every method returns what is to be done, in order."""

    def __init__(
        self, held_bytes: int = HELD_BYTES, executions: int = OBSERVED_EXECUTIONS, *, repairs: bool = True
    ) -> None:
        self._repairing = repairs
        self._held_limit_bytes = held_bytes
        self._executions_limit = executions
        self._executions: dict[bytes, _Execution] = {}
        self._waiting: dict[tuple[bytes, Channel], None] = {}  # cursors with a gap and no repair yet, in order
        self._repairs: dict[tuple[bytes, Channel], _Cursor] = {}
        self._listed: dict[bytes, Mapping[Channel, int]] = {}  # heads for which a beacon is awaited (rule 8)
        self._listed_at = 0.0
        self._joined = False
        self._floor = 0
        self.held_bytes = 0

    @property
    def joined(self) -> bool:
        """Whether there was a snapshot."""
        return self._joined

    def knows(self, execution: bytes) -> bool:
        """Whether the execution is remembered."""
        return execution in self._executions

    def caught_up(self, execution: bytes, heads: Mapping[Channel, int]) -> bool:
        """Whether everything of an execution up to these heads was delivered."""
        return all(self._cursor(execution, channel).delivered >= head for channel, head in heads.items())

    def snapshot(self, heads: Heads, sequence: int, now: float) -> list[Instruction]:
        """The first LISTING: what is up to these heads is known. `sequence` is the journal's last."""
        self._joined = True
        self._floor = sequence
        for known in self._executions.values():
            known.floor = sequence
        for execution, channels in heads.items():
            self._execution(execution).floor = 0  # its heads are exact
            for channel, head in channels.items():
                cursor = self._cursor(execution, channel)
                cursor.delivered, cursor.head = head, max(cursor.head, head)
        out: list[Instruction] = []
        for known in self._executions.values():
            for cursor in known.cursors.values():
                self._advance(cursor, out)
        self._start_repairs(now, out)
        return out

    def listed(self, heads: Heads, now: float, made_at: float) -> list[Instruction]:
        """The LISTING of a later joining, made by the broker at `made_at` of its clock."""
        if self._repairing:
            return self._reached(heads, now)
        for execution in heads:
            self._execution(execution)
        self._listed.update(heads)
        self._listed_at = max(self._listed_at, made_at)
        return []

    def beacon(self, heads: Heads, now: float, made_at: float = math.inf) -> list[Instruction]:
        """What the broker had at `made_at` of its clock. Shows what was dropped."""
        out: list[Instruction] = []
        if self._listed and made_at > self._listed_at:
            out += self._reached(self._listed, now)
            self._listed, self._listed_at = {}, 0.0
        out += self._reached(heads, now)
        self._forget(heads)
        return out

    def _reached(self, heads: Heads, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for execution, channels in heads.items():
            for channel, head in channels.items():
                cursor = self._cursor(execution, channel)
                cursor.head = max(cursor.head, head)
                self._advance(cursor, out)
        self._start_repairs(now, out)
        return out

    def live(self, header: Header, body: bytes, now: float) -> list[Instruction]:
        """A published batch."""
        out: list[Instruction] = []
        self._accept(self._cursor(header.execution, Channel(header.channel)), header, body, out)
        self._start_repairs(now, out)
        return out

    def repaired(self, header: Header, body: bytes, now: float) -> list[Instruction]:
        """A batch of EVENTS, the answer to an `Ask`; it may reach beyond the range on either side."""
        out: list[Instruction] = []
        cursor = self._cursor(header.execution, Channel(header.channel))
        if cursor.repair:
            cursor.repair.heard_at = now
        self._accept(cursor, header, body, out)
        if cursor.repair and cursor.delivered >= cursor.repair.last:  # no need to wait for END
            self._end_repair(cursor)
            self._advance(cursor, out)
        self._start_repairs(now, out)
        return out

    def repair_ended(self, execution: bytes, channel: Channel, now: float) -> list[Instruction]:
        """END of the answer to an `Ask`: what did not come is asked for again, or given up."""
        cursor = self._cursor(execution, channel)
        repair = self._end_repair(cursor)
        out: list[Instruction] = []
        if repair is not None:
            cursor.tries = 0 if cursor.delivered >= repair.first else cursor.tries + 1
            if cursor.tries >= REPAIR_TRIES:
                last = min(repair.last, cursor.missing_last)
                self._give_up(cursor, last, "the broker's journal does not have them", out)
            self._advance(cursor, out)
        self._start_repairs(now, out)
        return out

    def repair_refused(self, execution: bytes, channel: Channel, reason: str, now: float) -> list[Instruction]:
        """REFUSED instead of an answer to an `Ask`."""
        cursor = self._cursor(execution, channel)
        repair = self._end_repair(cursor)
        out: list[Instruction] = []
        if repair is not None:
            self._give_up(cursor, min(repair.last, cursor.missing_last), reason, out)
            self._advance(cursor, out)
        self._start_repairs(now, out)
        return out

    def reconnected(self, now: float) -> list[Instruction]:
        """The broker forgot what it was asked: ask again."""
        for cursor in list(self._repairs.values()):
            self._end_repair(cursor)
            self._advance(cursor, [])
        out: list[Instruction] = []
        self._start_repairs(now, out)
        return out

    def tick(self, now: float) -> list[Instruction]:
        """To be called about every second: asks again where there was no answer."""
        for cursor in list(self._repairs.values()):
            if cursor.repair and now - cursor.repair.heard_at > ANSWER_S:
                self._end_repair(cursor)
                self._advance(cursor, [])
        out: list[Instruction] = []
        self._start_repairs(now, out)
        return out

    # --- one cursor --------------------------------------------------------------------------------

    def _execution(self, execution: bytes) -> _Execution:
        known = self._executions.get(execution)
        if known is None:
            known = self._executions[execution] = _Execution(self._floor)
        return known

    def _cursor(self, execution: bytes, channel: Channel) -> _Cursor:
        cursors = self._execution(execution).cursors
        cursor = cursors.get(channel)
        if cursor is None:
            cursor = cursors[channel] = _Cursor(execution, channel, sequence=self._floor)
        return cursor

    def _accept(self, cursor: _Cursor, header: Header, body: bytes, out: list[Instruction]) -> None:
        last = header.position + header.count - 1
        cursor.head = max(cursor.head, last)
        if self._joined and header.position <= cursor.delivered + 1:
            self._deliver(cursor, header, body, out)
        elif last > cursor.delivered:
            self._hold(cursor, _Held(header.position, header, body))
        self._advance(cursor, out)

    def _hold(self, cursor: _Cursor, batch: _Held) -> None:
        at = bisect.bisect_left(cursor.held, batch.position, key=lambda held: held.position)
        if at < len(cursor.held) and cursor.held[at].position == batch.position:
            return  # the same again; should it be longer than the one we have, the rest is a gap
        if self.held_bytes + batch.cost_bytes <= self._held_limit_bytes:
            cursor.held.insert(at, batch)
            self.held_bytes += batch.cost_bytes

    def _advance(self, cursor: _Cursor, out: list[Instruction]) -> None:
        """Deliver what is held and fits now; ask for what is missing before the rest, or tell it."""
        if not self._joined:
            return
        self._deliver_held(cursor, out)
        while not self._repairing and cursor.delivered < cursor.missing_last:
            self._give_up(cursor, cursor.missing_last, SKIPPED, out)
            self._deliver_held(cursor, out)
        key = (cursor.execution, cursor.channel)
        if cursor.delivered < cursor.missing_last:
            if cursor.repair is None:
                self._waiting.setdefault(key)
        else:
            self._waiting.pop(key, None)

    def _deliver_held(self, cursor: _Cursor, out: list[Instruction]) -> None:
        while cursor.held and cursor.held[0].position <= cursor.delivered + 1:
            batch = cursor.held.pop(0)
            self.held_bytes -= batch.cost_bytes
            self._deliver(cursor, batch.header, batch.body, out)

    def _deliver(self, cursor: _Cursor, header: Header, body: bytes, out: list[Instruction]) -> None:
        known = cursor.delivered + 1 - header.position
        if known >= header.count:
            return
        cursor.delivered = header.position + header.count - 1
        cursor.sequence = max(cursor.sequence, header.sequence)
        if header.sequence <= self._executions[cursor.execution].floor:
            return
        if known:
            body = drop_first(body, known)
            header = header._replace(
                first=header.first + known, position=header.position + known, count=header.count - known
            )
        out.append(Deliver(header, body))

    def _give_up(self, cursor: _Cursor, last: int, reason: str, out: list[Instruction]) -> None:
        if last > cursor.delivered:
            out.append(Gap(cursor.execution, cursor.channel, cursor.delivered + 1, last, reason))
            cursor.delivered = last
        cursor.tries = 0

    # --- all together ------------------------------------------------------------------------------

    def _start_repairs(self, now: float, out: list[Instruction]) -> None:
        while self._waiting and len(self._repairs) < REPAIRS_AT_ONCE:
            key = next(iter(self._waiting))
            del self._waiting[key]
            cursor = self._executions[key[0]].cursors[key[1]]
            cursor.repair = _Repair(cursor.delivered + 1, cursor.missing_last, now)
            self._repairs[key] = cursor
            out.append(Ask(cursor.execution, cursor.channel, cursor.repair.first, cursor.repair.last))

    def _end_repair(self, cursor: _Cursor) -> _Repair | None:
        repair, cursor.repair = cursor.repair, None
        self._repairs.pop((cursor.execution, cursor.channel), None)
        return repair

    def _forget(self, named: Heads) -> None:
        surplus = len(self._executions) - self._executions_limit
        if surplus <= 0:
            return
        for execution in [item for item in self._executions if item not in named][:surplus]:
            cursors = self._executions[execution].cursors.values()
            if any(cursor.held or cursor.delivered < cursor.head for cursor in cursors):
                continue
            self._floor = max([self._floor, *(cursor.sequence for cursor in cursors)])
            del self._executions[execution]
