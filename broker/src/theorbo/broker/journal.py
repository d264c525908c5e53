"""The journal: every batch on disk, in SQLite.

Three users, each with a connection of its own. The *writer* is a thread: it takes everything that is
queued, commits it in one transaction (WAL, synchronous=FULL: it has reached the disk), and reports what
was committed. While one commit is under way the next is being collected; when idle, an item is committed
at once. The *reader* (`journal_reader`) serves cursors and snapshots with short statements and holds no
transaction, for that would keep the write-ahead log from being reset. Retention works in the writer's thread in
small steps.

A failed commit (a full disk) is tried again with the same items until it succeeds: nothing is reported
committed meanwhile, so nothing is acknowledged, and the senders keep what they have. A journal that is
*damaged* is another matter, for trying again cannot help: it is marked (`recovery.mark`), `damage` says so, and nothing
more is committed.
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
from typing import TypeVar

from theorbo.broker import recovery, rows
from theorbo.broker.journal_reader import JournalReader
from theorbo.broker.retention import Retention
from theorbo.broker.schema import JournalDamaged, is_damage, open_journal
from theorbo.broker.values import (
    Append,
    Batch,
    Committed,
    Confirm,
    FindViews,
    Input,
    JournalRead,
    JournalTrouble,
    Keep,
    Listed,
    Note,
    Past,
    ReadJournal,
    Recalled,
    Refer,
    Reference,
    SetAside,
)
from theorbo.schemas.limits import COMMIT_BYTES, JOURNAL_RETRY_S, RETENTION_S

_T = TypeVar("_T")

Item = Append | Keep | Refer | Confirm | SetAside


class Journal:
    """The open journal. `report` is called from the writer's thread; it must not block."""

    def __init__(self, path: Path, retention: Retention, report: Callable[[Input | Note], None]) -> None:
        """Open the journal at `path`, made if there is none. Raises Unavailable or JournalDamaged.

        The caller holds the lock on its directory (`place.Lock`).
        """
        self.path = path
        self.damage = ""
        """What is wrong with the file, once that has been found; nothing is committed any more."""
        self._retention = retention
        self._report = report
        self._reader = JournalReader(open_journal(path), path)
        self._file = path.stat()
        try:
            self.broker = self._reader.identity()
            """Identifies this journal, until acknowledged content may be missing in it."""
            self.last_sequence = self._reader.last_sequence()
            """Also of what retention has removed: a sequence is never given twice."""
            writer = open_journal(path)
        except BaseException:
            self._reader.close()
            raise
        self._queue: deque[list[Item]] = deque()
        self._wake = threading.Condition()
        self._ending = threading.Event()
        self._clean = False
        self._thread = threading.Thread(target=self._write, args=(writer,), name="journal", daemon=True)
        self._thread.start()

    @classmethod
    def recovered(
        cls,
        path: Path,
        retention: Retention,
        report: Callable[[Input | Note], None],
        tell: Callable[[Note], None],
    ) -> tuple[Journal, list[Recalled]]:
        """The journal and its open executions, after a recovery if it is damaged. `tell` hears of that at once.

        Raises Unavailable if it cannot be opened, or nothing in it can be recovered.
        """
        if recovery.is_marked(path):
            recovery.recover(path, time.time(), tell)
        try:
            return cls._with_open_executions(path, retention, report)
        except JournalDamaged as damaged:
            recovery.mark(path, damaged.problem, time.time())
            recovery.recover(path, time.time(), tell)
        return cls._with_open_executions(path, retention, report)

    @classmethod
    def _with_open_executions(
        cls, path: Path, retention: Retention, report: Callable[[Input | Note], None]
    ) -> tuple[Journal, list[Recalled]]:
        journal = cls(path, retention, report)
        try:
            return journal, [Recalled(each, journal.recall(each)) for each in journal.open_executions()]
        except BaseException:
            journal.close(0.0)
            raise

    # --- for the broker's main thread ------------------------------------------------------------

    def submit(self, items: Iterable[Item]) -> None:
        """Queue items; those of one call are committed in one transaction."""
        with self._wake:
            self._queue.append(list(items))
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
        """Those that had no final state when they were last noted, oldest first. Raises JournalDamaged."""
        return self._watched(self._reader.open_executions)

    def recall(self, execution: bytes) -> Past | None:
        """What the core needs of an execution, or None if there is none of this id. Raises JournalDamaged."""
        return self._watched(lambda: self._reader.recall(execution))

    def read_some(self, wish: ReadJournal, last: int) -> JournalRead:
        """The next batches for a cursor, up to sequence `last` or as far as is looked in one go."""
        try:
            return self.read(wish, self._watched(lambda: self._reader.reach(wish, last)))
        except (JournalDamaged, sqlite3.Error) as error:
            return JournalRead(wish.peer, wish.request, wish.after, [], wish.after, str(error))

    def read(self, wish: ReadJournal, through: int) -> JournalRead:
        """The next batches for a cursor, up to sequence `through`."""
        try:
            return self._watched(lambda: self._reader.read(wish, through))
        except JournalDamaged as damaged:
            return JournalRead(wish.peer, wish.request, wish.after, [], wish.after, damaged.problem)

    def find(self, wish: FindViews) -> Listed:
        """Views of ended executions, newest first. Raises JournalDamaged."""
        return self._watched(lambda: self._reader.find(wish))

    def attachment_size(self, execution: bytes, sha256: bytes) -> int | None:
        """The size of an attachment, if the execution refers to it. Raises JournalDamaged."""
        return self._watched(lambda: self._reader.attachment_size(execution, sha256))

    def _watched(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except JournalDamaged as damaged:
            self._is_damaged(damaged.problem)
            raise

    def _is_damaged(self, problem: str) -> None:
        """Told once, by either thread; the mark outlasts the broker, also if the damage hides from the next one."""
        if not self.damage:
            self.damage = problem
            recovery.mark(self.path, problem, time.time())
            self._report(Note("error", "the journal is damaged", {"journal": str(self.path), "problem": problem}))

    # --- the writer's thread ---------------------------------------------------------------------

    def _write(self, writer: sqlite3.Connection) -> None:
        retention_at = time.monotonic()
        while not self.damage:
            with self._wake:
                if not self._queue and not self._ending.is_set():
                    self._wake.wait(max(0.0, retention_at - time.monotonic()))
                items = self._take()
            if items:
                if not self._commit_at_last(writer, items):
                    break
            elif self._ending.is_set():
                self._clean = self._finish(writer)
                break
            # Also under load: it comes in small steps.
            if time.monotonic() >= retention_at and not self._ending.is_set():
                retention_at = time.monotonic() + (0.0 if self._step(writer) else RETENTION_S)
        writer.close()

    def _step(self, writer: sqlite3.Connection) -> bool:
        try:
            return self._retention.step(writer, time.time(), time.monotonic())
        except sqlite3.Error as error:
            self._is_damaged(str(error))
            return False

    def _finish(self, writer: sqlite3.Connection) -> bool:
        try:
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:  # all is committed; the next broker finds it in the log
            if is_damage(error):
                self._is_damaged(str(error))
            return False
        return True

    def _take(self) -> list[Item]:
        """What goes into the next transaction; never a part of what was submitted by one call."""
        items: list[Item] = []
        size = 0
        while self._queue and size < COMMIT_BYTES:
            together = self._queue.popleft()
            items += together
            size += sum(len(item.batch.body) for item in together if isinstance(item, Append))
        return items

    def _commit_at_last(self, writer: sqlite3.Connection, items: list[Item]) -> bool:
        """Commit the items, however often it takes. False if the broker ends before that, or the file is damaged."""
        told = False
        while True:
            try:
                committed = self._commit(writer, items)
            except sqlite3.Error as error:
                if is_damage(error):
                    self._is_damaged(str(error))
                    return False
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
        new: list[rows.Row] = []
        writer.execute("BEGIN IMMEDIATE")
        for item in items:
            match item:
                case Append(batch):
                    batch = batch._replace(time=now)
                    new.append(rows.encoded(batch))
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
                case Confirm(execution, sequence):
                    writer.execute(
                        "UPDATE executions SET confirmed = max(confirmed, ?) WHERE execution = ?", (sequence, execution)
                    )
                case SetAside(sequence):
                    writer.execute(rows.SET_ASIDE, (sequence,))
                    writer.execute("DELETE FROM batches WHERE sequence = ?", (sequence,))
        writer.executemany(rows.INSERT, new)
        for execution in {row[1] for row in new}:
            # It came too late for an execution that retention has removed: a row marked for removal takes it along.
            writer.execute(
                "INSERT OR IGNORE INTO executions (execution, submitted, ended, removing, view)"
                " VALUES (?, ?, ?, 1, '{}')",
                (execution, now, now),
            )
        writer.execute("COMMIT")
        return committed
