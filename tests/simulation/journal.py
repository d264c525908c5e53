"""The broker's disk: a journal that tells appended from committed, keeps only the latter, and fails as disks do."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from theorbo.broker.values import (
    Append,
    Batch,
    ChunkRead,
    ChunkStored,
    Committed,
    Confirm,
    FindViews,
    JournalRead,
    JournalTrouble,
    Keep,
    Listed,
    Past,
    ReadChunk,
    ReadJournal,
    Refer,
    Reference,
    SetAside,
    StoreChunk,
)
from theorbo.schemas.errors import InternalError
from theorbo.schemas.frames import NO_EXECUTION, ErrorCode
from theorbo.schemas.names import Channel, Source

from .scheduler import Process, Scheduler

if TYPE_CHECKING:
    from .checks import Checks

RECOVERED_SEQUENCES = 1_000_000_000
"""So many sequences are left out after a recovery, as the journal does it."""


class Disk:
    """What survives the broker. One broker at a time writes (`queue`, `Writer`); everybody reads."""

    def __init__(self, scheduler: Scheduler, checks: Checks) -> None:
        self.scheduler = scheduler
        self.checks = checks
        self.identity = "journal-1"
        self.last_sequence = 0
        self.batches: list[Batch] = []
        self.damaged: set[int] = set()
        self.set_aside: dict[tuple[bytes, int], int] = {}
        """The last position of what was set aside, by execution and channel: it is not given again."""
        """Sequences of rows whose checksum is wrong."""
        self.kept: dict[bytes, Keep] = {}
        self.confirmed: dict[bytes, int] = {}
        self.references: dict[tuple[bytes, bytes], int] = {}
        self.attachments: dict[bytes, bytes] = {}
        self.parts: dict[Reference, bytes] = {}
        self.full_until = 0.0
        self.slow_until = 0.0

    # --- writing ---------------------------------------------------------------------------------

    def commit(self, items: list[Any], wall: float) -> list[Any]:
        committed: list[Any] = []
        for item in items:
            match item:
                case Append(batch):
                    batch = batch._replace(time=wall)
                    self.checks.committed(batch)
                    self.batches.append(batch)
                    self.last_sequence = batch.sequence
                    committed.append(batch)
                case Keep():
                    known = self.kept.get(item.execution)
                    if known is None or item.ended is not None:
                        submitted = known.submitted if known else item.submitted
                        self.kept[item.execution] = item._replace(submitted=submitted)
                case Refer(reference):
                    self.references[reference.execution, reference.sha256] = reference.size
                    committed.append(reference)
                case Confirm(execution, sequence):
                    self.confirmed[execution] = max(sequence, self.confirmed.get(execution, 0))
                case SetAside(sequence):
                    for batch in self.batches:
                        if batch.sequence == sequence:
                            place = batch.execution, batch.channel
                            self.set_aside[place] = max(batch.last_position, self.set_aside.get(place, 0))
                    self.batches = [batch for batch in self.batches if batch.sequence != sequence]
                    self.damaged.discard(sequence)
                case _:
                    raise InternalError(f"the journal cannot commit {item!r}")
        return committed

    def damage(self, batch: Batch) -> None:
        """Bits of the row have flipped."""
        self.damaged.add(batch.sequence)
        self.checks.damaged(batch)

    def lose_tail(self, count: int) -> list[Batch]:
        """The journal was damaged and recovered: the last batches are gone, and it is another journal now."""
        kept = max(0, len(self.batches) - count)
        lost, self.batches = self.batches[kept:], self.batches[:kept]
        self.identity = f"journal-{int(self.identity.partition('-')[2]) + 1}"
        self.last_sequence += RECOVERED_SEQUENCES
        self.set_aside.clear()  # under another identity positions may come again
        self.checks.lost(lost, self.batches)
        for execution in {batch.execution for batch in lost}:
            remaining = [batch for batch in self.batches if batch.execution == execution]
            if not remaining:
                self.kept.pop(execution, None)
            elif execution in self.kept and not any(
                b'"conservation"' in batch.body for batch in remaining if batch.channel == Channel.SIGNALS
            ):
                self.kept[execution] = self.kept[execution]._replace(ended=None, view={})
        return lost

    # --- reading ---------------------------------------------------------------------------------

    def open_executions(self) -> list[bytes]:
        return [keep.execution for keep in self.kept.values() if keep.ended is None]

    def read(self, wish: ReadJournal, through: int) -> JournalRead:
        batches: list[Batch] = []
        damaged: list[Batch] = []
        size = 0
        for batch in self.batches:
            if not (
                wish.after < batch.sequence <= through
                and wish.execution in (NO_EXECUTION, batch.execution)
                and (wish.channels is None or batch.channel in wish.channels)
                and batch.time >= wish.since
            ):
                continue
            if wish.first_position and not (
                batch.last_position >= wish.first_position and batch.position <= wish.last_position
            ):
                continue
            if batch.sequence in self.damaged:
                damaged.append(batch._replace(body=b""))
                continue
            batches.append(batch)
            size += len(batch.body)
            if size >= wish.limit_bytes:
                return JournalRead(wish.peer, wish.request, wish.after, batches, batch.sequence, "", tuple(damaged))
        return JournalRead(wish.peer, wish.request, wish.after, batches, through, "", tuple(damaged))

    def recall(self, execution: bytes) -> Past | None:
        keep = self.kept.get(execution)
        if keep is None:
            return None
        last: dict[tuple[Source, int], int] = {}
        counts = Counter[tuple[Source, int]]()
        heads = {channel: last for (each, channel), last in self.set_aside.items() if each == execution}
        signals: list[Batch] = []
        damaged: list[Batch] = []
        for batch in self.batches:
            if batch.execution == execution:
                last[batch.source, batch.channel] = batch.last
                counts[batch.source, batch.channel] += batch.count
                heads[batch.channel] = max(batch.last_position, heads.get(batch.channel, 0))
                if batch.channel == Channel.SIGNALS and (keep.ended is None or b'"loss"' in batch.body):
                    if batch.sequence in self.damaged:
                        damaged.append(batch._replace(body=b""))
                    else:
                        signals.append(batch)
        streams = [(*stream, number, counts[stream]) for stream, number in last.items()]
        view = None if keep.ended is None else keep.view
        return Past(streams, heads, signals, view, self.confirmed.get(execution, 0), tuple(damaged))

    def find(self, wish: FindViews) -> Listed:
        wanted = wish.wanted
        views = [
            keep.view
            for keep in sorted(self.kept.values(), key=lambda keep: -keep.submitted)
            if keep.ended is not None
            and wanted.execution in (NO_EXECUTION, keep.execution)
            and all(
                value is None or keep.view[name] == value
                for value, name in ((wanted.experiment, "experiment"), (wanted.run, "run"), (wanted.task, "task"))
            )
        ]
        return Listed(wish.peer, wish.request, wanted, [self._with_heads(view) for view in views[: wanted.limit]])

    def _with_heads(self, view: dict[str, Any]) -> dict[str, Any]:
        past = self.recall(bytes.fromhex(view["execution"]))
        heads = past.heads if past else {}
        return {**view, "heads": {Channel(channel).text: last for channel, last in heads.items()}}

    # --- attachments -----------------------------------------------------------------------------

    def store(self, wish: StoreChunk) -> ChunkStored:
        reference, offset, data = wish.chunk
        if reference.sha256 in self.attachments:
            return ChunkStored(wish.peer, reference, reference.size, complete=True)
        if self.scheduler.now < self.full_until:
            return ChunkStored(wish.peer, reference, 0, complete=False, refusal=(ErrorCode.JOURNAL, "no space left"))
        part = self.parts.get(reference, b"")
        if offset == len(part) and data:
            part = self.parts[reference] = (part + data)[: reference.size]
        if len(part) < reference.size:
            return ChunkStored(wish.peer, reference, len(part), complete=False)
        del self.parts[reference]
        if hashlib.sha256(part).digest() != reference.sha256:
            why = (ErrorCode.MALFORMED, "another digest")
            return ChunkStored(wish.peer, reference, 0, complete=False, refusal=why)
        self.attachments[reference.sha256] = part
        return ChunkStored(wish.peer, reference, reference.size, complete=True)

    def read_chunk(self, wish: ReadChunk) -> ChunkRead:
        size = self.references.get((wish.header.execution, wish.sha256))
        if size is None:
            return ChunkRead(wish.peer, wish.header, 0, None)
        first = wish.header.first
        return ChunkRead(wish.peer, wish.header, size, self.attachments[wish.sha256][first : first + wish.header.count])


class Writer:
    """The journal's thread in one broker's life: collects while a commit is under way, tries again when it fails."""

    def __init__(self, disk: Disk, process: Process, report: Callable[[Any], None]) -> None:
        self._disk = disk
        self._process = process
        self._report = report
        self._queue: list[Any] = []
        self._under_way: list[Any] = []
        self._told = False

    def submit(self, items: list[Any]) -> None:
        self._queue += items
        self._begin()

    def _begin(self) -> None:
        if self._queue and not self._under_way:
            self._under_way, self._queue = self._queue, []
            self._commit_later()

    def _commit_later(self) -> None:
        chance, disk = self._disk.scheduler.chance, self._disk
        slow = self._disk.scheduler.now < disk.slow_until
        self._process.after(chance.uniform(0.3, 4.0) if slow else chance.uniform(0.0005, 0.01), self._commit)

    def _commit(self) -> None:
        disk = self._disk
        if disk.scheduler.now < disk.full_until:
            if not self._told:
                self._told = True
                self._report(JournalTrouble("its journal cannot be written: no space left"))
            self._process.after(1.0, self._commit)
            return
        if self._told:
            self._told = False
            self._report(JournalTrouble(""))
        committed = disk.commit(self._under_way, self._process.wall)
        self._under_way = []
        if committed:
            self._report(Committed(committed))
        self._begin()

    def crash(self) -> None:
        """In the middle of a commit: it reached the disk or not, and nobody has heard of it."""
        disk = self._disk
        if self._under_way and disk.scheduler.now >= disk.full_until and disk.scheduler.chance.random() < 0.5:
            disk.commit(self._under_way, self._process.wall)
