"""Retention: what has ended long ago, or has no room any more, goes. In small steps between commits.

Executions go whole, the one that ended first before the others, each in three phases that survive a
restart: it is marked (nobody sees it any more), its batches are removed some at a time, and at last its
references with the attachments that nobody else refers to.

A clock that jumps forward must not make everything look old. See `Reckoning`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Protocol

from theorbo.broker.journal_reader import LAST_SEQUENCE
from theorbo.broker.schema import is_damage
from theorbo.broker.values import Forgotten, Note
from theorbo.schemas.limits import CLOCK_JUMP_S, CLOCK_TRUST_S, RETENTION_ROWS

_VACUUM_PAGES = 1000


class Files(Protocol):
    """Where the attachments lie."""

    def digests(self) -> Iterable[bytes]:
        """Of everything that is stored."""
        ...

    def remove(self, sha256: bytes) -> None:
        """Of something to which nobody refers."""
        ...


class Reckoning:
    """The time by which age is measured: the clock's, but a jump forward is believed only once it has held.

    It begins at the journal's last commit. While the clock is more than `CLOCK_JUMP_S` ahead of what has been reckoned,
    time goes on as measured (monotonic), for `CLOCK_TRUST_S`; then the clock is believed. A jump back makes nothing
    old, and is believed at once. Pure: both clocks are arguments.
    """

    def __init__(self, last_commit: float | None, wall: float, monotonic: float) -> None:
        """`last_commit` is the journal's last, None if it is empty."""
        self._offset = (wall if last_commit is None else last_commit) - monotonic
        self._doubtful_from: float | None = None

    def now(self, wall: float, monotonic: float) -> float:
        """The time, given what both clocks say."""
        reckoned = monotonic + self._offset
        if wall > reckoned + CLOCK_JUMP_S:
            if self._doubtful_from is None:
                self._doubtful_from = monotonic
            if monotonic - self._doubtful_from < CLOCK_TRUST_S:
                return reckoned
        self._doubtful_from = None
        self._offset = wall - monotonic
        return wall


class Retention:
    """The rule, and the steps by which it is kept. Its methods run in the journal's thread."""

    def __init__(self, age_s: float, size_bytes: int, files: Files, report: Callable[[Forgotten | Note], None]) -> None:
        """Executions go `age_s` after their end, or when journal and attachments exceed `size_bytes`."""
        self._age_s = age_s
        self._size_bytes = size_bytes
        self._files = files
        self._report = report
        self._swept = False
        self._reckoning: Reckoning | None = None

    def step(self, writer: sqlite3.Connection, wall: float, monotonic: float) -> bool:
        """One small step; whether there is more to do. Raises sqlite3.Error if the journal is damaged."""
        try:
            if self._reckoning is None:
                last = writer.execute("SELECT time FROM batches ORDER BY sequence DESC LIMIT 1").fetchone()
                self._reckoning = Reckoning(last[0] if last else None, wall, monotonic)
            more = self._step(writer, self._reckoning.now(wall, monotonic))
            # Not `execute`: it takes one step only, which frees a single page.
            writer.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and is_damage(error):
                raise
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            text = "retention did not work; it is tried again in a minute"
            self._report(Note("warning", text, {"problem": str(error)}))
            return False
        return more

    def _step(self, writer: sqlite3.Connection, now: float) -> bool:
        if not self._swept:
            self._swept = True
            self._sweep(writer)
        marked = writer.execute("SELECT execution FROM executions WHERE removing LIMIT 1").fetchone()
        if marked is None:
            marked = self._next_to_go(writer, now)
            if marked is None:
                return False
            writer.execute("UPDATE executions SET removing = 1 WHERE execution = ?", marked)
            self._report(Forgotten(marked[0]))
        writer.execute("BEGIN IMMEDIATE")
        # Sequences go on from the last one, also when nothing is left of it: readers remember how far they are.
        # With every step, for what came too late (see `Journal._commit`) may be the last one too.
        writer.execute(f"INSERT OR REPLACE INTO meta VALUES ('last_sequence', ({LAST_SEQUENCE}))")  # noqa: S608
        removed = writer.execute(
            "DELETE FROM batches WHERE sequence IN (SELECT sequence FROM batches WHERE execution = ? LIMIT ?)",
            (*marked, RETENTION_ROWS),
        ).rowcount
        writer.execute("COMMIT")
        if removed == 0:
            self._let_go(writer, marked[0])
        return True

    def _next_to_go(self, writer: sqlite3.Connection, now: float) -> tuple[bytes] | None:
        """The execution that ended first, if that is too long ago or the journal too large."""
        row = writer.execute(
            "SELECT execution, ended FROM executions WHERE ended IS NOT NULL ORDER BY ended LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        too_old = row[1] < now - self._age_s
        return (row[0],) if too_old or _size(writer) > self._size_bytes else None

    def _let_go(self, writer: sqlite3.Connection, execution: bytes) -> None:
        rows = writer.execute("SELECT sha256 FROM attachments WHERE execution = ?", (execution,)).fetchall()
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM attachments WHERE execution = ?", (execution,))
        writer.execute("DELETE FROM damaged WHERE execution = ?", (execution,))
        writer.execute("DELETE FROM executions WHERE execution = ?", (execution,))
        writer.execute("COMMIT")
        for (digest,) in rows:
            self._remove_unreferenced(writer, digest)
        self._report(Note("info", "retention has removed an execution", {"execution": execution.hex()}))

    def _sweep(self, writer: sqlite3.Connection) -> None:
        """Once after the start: files to which nobody refers, left by a broker that was killed at that moment."""
        for digest in self._files.digests():
            self._remove_unreferenced(writer, digest)

    def _remove_unreferenced(self, writer: sqlite3.Connection, digest: bytes) -> None:
        if writer.execute("SELECT 1 FROM attachments WHERE sha256 = ?", (digest,)).fetchone() is None:
            self._files.remove(digest)


def _size(writer: sqlite3.Connection) -> int:
    pages, free, page = (
        writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    attached = writer.execute(
        "SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT sha256, size FROM attachments)"
    ).fetchone()[0]
    return int((pages - free) * page + attached)
