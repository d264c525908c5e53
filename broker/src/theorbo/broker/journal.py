"""The journal: every batch on disk, in SQLite.

Three users, each with a connection of its own. The *writer* is a thread: it takes everything that is
queued, commits it in one transaction (WAL, synchronous=FULL: it has reached the disk), and reports what
was committed. While one commit is under way the next is being collected; when idle, an item is committed
at once. The *reader* serves cursors and snapshots with short statements and holds no transaction, for that
would keep the write-ahead log from being reset. Retention works in the writer's thread in small steps.

A failed commit (a full disk) is tried again with the same items until it succeeds: nothing is reported
committed meanwhile, so nothing is acknowledged, and the senders keep what they have.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from theorbo.broker.retention import Retention
from theorbo.broker.schema import open_journal
from theorbo.broker.values import (
    Append,
    Batch,
    Committed,
    FindViews,
    Input,
    JournalRead,
    JournalTrouble,
    Keep,
    Listed,
    Note,
    Past,
    ReadJournal,
    Refer,
    Reference,
)
from theorbo.schemas.frames import NO_EXECUTION
from theorbo.schemas.limits import COMMIT_BYTES, JOURNAL_RETRY_S, RETENTION_S
from theorbo.schemas.names import Channel, Source, SourceKind

_COLUMNS = "sequence, execution, channel, position, source_kind, source_index, first, count, flags, time, body"
_SOURCE_KINDS = {int(kind): kind for kind in SourceKind}

Item = Append | Keep | Refer


class Journal:
    """The open journal. `report` is called from the writer's thread; it must not block."""

    def __init__(self, path: Path, retention: Retention, report: Callable[[Input | Note], None]) -> None:
        """Open the journal at `path`, made if there is none. Raises Unavailable.

        The caller holds the lock on its directory (`place.Lock`).
        """
        self.path = path
        self._retention = retention
        self._report = report
        self._reader = open_journal(path)
        self._file = path.stat()
        self.broker: str = self._reader.execute("SELECT value FROM meta WHERE name = 'broker'").fetchone()[0]
        """Identifies this journal for ever."""
        self.last_sequence: int = self._reader.execute(
            "SELECT max(coalesce((SELECT max(sequence) FROM batches), 0),"
            " coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'last_sequence'), 0))"
        ).fetchone()[0]
        """Also of what retention has removed: a sequence is never given twice."""
        self._queue: deque[Item] = deque()
        self._wake = threading.Condition()
        self._ending = threading.Event()
        self._clean = False
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    # --- for the broker's main thread ------------------------------------------------------------

    def submit(self, items: Iterable[Item]) -> None:
        """Queue items; those of one call are committed in one transaction."""
        with self._wake:
            self._queue.extend(items)
            self._wake.notify()

    def close(self, timeout_s: float) -> bool:
        """Commit what is queued, put the log into the database, and close. False if that was not possible."""
        with self._wake:
            self._ending.set()
            self._wake.notify()
        self._thread.join(timeout_s)
        self._reader.close()
        return self._clean

    @property
    def alive(self) -> bool:
        """Whether anything will still be committed."""
        return self._thread.is_alive()

    @property
    def in_place(self) -> bool:
        """Whether the open file is still the one at its path; what is written to a removed one is lost."""
        try:
            return os.path.samestat(self._file, self.path.stat())
        except OSError:
            return False

    def open_executions(self) -> list[bytes]:
        """Those that had no final state when they were last noted, oldest first."""
        rows = self._reader.execute("SELECT execution FROM executions WHERE ended IS NULL ORDER BY submitted")
        return [row[0] for row in rows.fetchall()]

    def recall(self, execution: bytes) -> Past | None:
        """What the core needs of an execution, or None if there is none of this id."""
        read = self._reader.execute
        row = read("SELECT ended, view FROM executions WHERE execution = ? AND NOT removing", (execution,)).fetchone()
        if row is None:
            return None
        streams = read(
            "SELECT source_kind, source_index, channel, max(first + count - 1), sum(count) FROM batches"
            " INDEXED BY batches_by_position WHERE execution = ? GROUP BY channel, source_kind, source_index",
            (execution,),
        ).fetchall()
        signals = []
        if row[0] is None:
            signals = read(
                f"SELECT {_COLUMNS} FROM batches WHERE execution = ? AND channel = ? ORDER BY position",  # noqa: S608
                (execution, int(Channel.SIGNALS)),
            ).fetchall()
        return Past(
            [(Source(_SOURCE_KINDS[kind], index), *counted) for kind, index, *counted in streams],
            self._heads(execution),
            [_batch(signal) for signal in signals],
            None if row[0] is None else json.loads(row[1]),
        )

    def _heads(self, execution: bytes) -> dict[int, int]:
        last = (
            "SELECT position + count - 1 FROM batches WHERE execution = ? AND channel = ?"
            " ORDER BY position DESC LIMIT 1"
        )
        found = {int(channel): self._reader.execute(last, (execution, int(channel))).fetchone() for channel in Channel}
        return {channel: row[0] for channel, row in found.items() if row}

    def read(self, wish: ReadJournal, through: int) -> JournalRead:
        """The next batches for a cursor, up to sequence `through`."""
        try:
            return self._read(wish, through)
        except sqlite3.Error as error:
            return JournalRead(wish.peer, wish.request, wish.after, [], wish.after, str(error))

    def _read(self, wish: ReadJournal, through: int) -> JournalRead:
        if wish.first_position > wish.last_position:  # all of the range has been given
            return JournalRead(wish.peer, wish.request, wish.after, [], through)
        where, values = ["sequence <= ?"], list[Any]([through])
        order = "sequence"
        if wish.execution != NO_EXECUTION:
            where.append("execution = ?")
            values.append(wish.execution)
        if wish.channels is not None:
            where.append(f"channel IN ({', '.join(str(int(channel)) for channel in sorted(wish.channels))})")
        if wish.first_position:
            begin = "SELECT max(position) FROM batches WHERE execution = ? AND channel = ? AND position <= ?"
            (channel,) = wish.channels or (0,)
            where += [f"position >= coalesce(({begin}), 0)", "position + count > ?", "position <= ?"]
            values += [wish.execution, channel, wish.first_position, wish.first_position, wish.last_position]
            order = "position"
        else:
            where.append("sequence > ?")
            values.append(wish.after)
        rows = self._reader.execute(
            f"SELECT {_COLUMNS} FROM batches WHERE {' AND '.join(where)} ORDER BY {order}",  # noqa: S608 - no text of others
            values,
        )
        batches: list[Batch] = []
        size = 0
        for row in rows:
            batches.append(_batch(row))
            size += len(row[-1])
            if size >= wish.limit_bytes:
                rows.close()
                return JournalRead(wish.peer, wish.request, wish.after, batches, batches[-1].sequence)
        return JournalRead(wish.peer, wish.request, wish.after, batches, through)

    def find(self, wish: FindViews) -> Listed:
        """Views of ended executions, newest first."""
        wanted = wish.wanted
        where, values = ["ended IS NOT NULL", "NOT removing"], list[Any]()
        if wanted.execution != NO_EXECUTION:
            where.append("execution = ?")
            values.append(wanted.execution)
        for name, value in (("experiment", wanted.experiment), ("run", wanted.run), ("task", wanted.task)):
            if value is not None:
                where.append(f"json_extract(view, '$.{name}') = ?")
                values.append(value)
        rows = self._reader.execute(
            f"SELECT execution, view FROM executions WHERE {' AND '.join(where)} ORDER BY submitted DESC LIMIT ?",  # noqa: S608
            [*values, wanted.limit],
        ).fetchall()
        views = []
        for execution, text in rows:
            heads = {Channel(channel).text: last for channel, last in self._heads(execution).items()}
            views.append({**json.loads(text), "heads": heads})
        return Listed(wish.peer, wish.request, wanted, views)

    def attachment_size(self, execution: bytes, sha256: bytes) -> int | None:
        """The size of an attachment, if the execution refers to it."""
        row = self._reader.execute(
            "SELECT size FROM attachments WHERE execution = ? AND sha256 = ?", (execution, sha256)
        ).fetchone()
        return row[0] if row else None

    # --- the writer's thread ---------------------------------------------------------------------

    def _write(self) -> None:
        writer = open_journal(self.path)
        retention_at = time.monotonic()
        while True:
            with self._wake:
                if not self._queue and not self._ending.is_set():
                    self._wake.wait(max(0.0, retention_at - time.monotonic()))
                items = self._take()
            if items:
                if not self._commit_at_last(writer, items):
                    break
            elif self._ending.is_set():
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._clean = True
                break
            if (
                time.monotonic() >= retention_at and not self._ending.is_set()
            ):  # also under load: it comes in small steps
                retention_at = time.monotonic() + (0.0 if self._retention.step(writer) else RETENTION_S)
        writer.close()

    def _take(self) -> list[Item]:
        """What goes into the next transaction."""
        items: list[Item] = []
        size = 0
        while self._queue and size < COMMIT_BYTES:
            item = self._queue.popleft()
            items.append(item)
            size += len(item.batch.body) if isinstance(item, Append) else 0
        return items

    def _commit_at_last(self, writer: sqlite3.Connection, items: list[Item]) -> bool:
        """Commit the items, however often it takes. False if the broker ends before that."""
        told = False
        while True:
            try:
                committed = self._commit(writer, items)
            except sqlite3.Error as error:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                if not told:
                    told = True
                    fields = {"journal": str(self.path), "problem": str(error), "waiting": len(items)}
                    text = "cannot write the journal; nothing is acknowledged until it works again (is the disk full?)"
                    self._report(Note("error", text, fields))
                    self._report(JournalTrouble(f"its journal cannot be written: {error}"))
                if self._ending.wait(JOURNAL_RETRY_S):
                    return False
                continue
            if told:
                self._report(Note("info", "the journal can be written again", {"journal": str(self.path)}))
                self._report(JournalTrouble(""))
            if committed:
                self._report(Committed(committed))
            return True

    def _commit(self, writer: sqlite3.Connection, items: list[Item]) -> list[Batch | Reference]:
        now = time.time()
        committed: list[Batch | Reference] = []
        rows: list[tuple[Any, ...]] = []
        writer.execute("BEGIN IMMEDIATE")
        for item in items:
            match item:
                case Append(batch):
                    batch = batch._replace(time=now)
                    source = batch.source
                    rows.append((*batch[:4], int(source.kind), source.index, *batch[5:]))
                    committed.append(batch)
                case Keep():
                    writer.execute(
                        "INSERT INTO executions (execution, submitted, ended, view) VALUES (?, ?, ?, ?)"
                        " ON CONFLICT (execution) DO UPDATE SET ended = excluded.ended, view = excluded.view"
                        " WHERE excluded.ended IS NOT NULL",
                        (item.execution, item.submitted, item.ended, json.dumps(item.view)),
                    )
                case Refer(reference):
                    writer.execute("INSERT OR IGNORE INTO attachments VALUES (?, ?, ?)", reference)
                    committed.append(reference)
        writer.executemany(f"INSERT INTO batches ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)  # noqa: S608
        writer.execute("COMMIT")
        return committed


def _batch(row: tuple[Any, ...]) -> Batch:
    sequence, execution, channel, position, kind, index, first, count, flags, committed, body = row
    source = Source(_SOURCE_KINDS[kind], index)
    return Batch(sequence, execution, channel, position, source, first, count, flags, committed, body)
