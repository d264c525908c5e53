"""What can be read of a table of batches that may be damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from theorbo.broker.rows import Row

_AT_ONCE = 1000
_SEQUENCES = 2**62


def readable_rows(connection: sqlite3.Connection, columns: str) -> Iterator[Row]:
    """The rows of batches that can be read, with short statements, in order of sequence; some twice, where a page was
    written to a wrong place.
    """
    at: int | None = 0
    while at is not None:
        before = at
        try:
            for row in _rows_from(connection, columns, at):
                at = max(at, row[0] + 1)  # a page at a wrong place has rows out of order
                yield row
            if at == before:
                return
        except sqlite3.Error:
            at = _next_readable(connection, columns, at)


def _rows_from(connection: sqlite3.Connection, columns: str, sequence: int) -> sqlite3.Cursor:
    return connection.execute(
        f"SELECT {columns} FROM batches WHERE sequence >= ? ORDER BY sequence LIMIT {_AT_ONCE}",  # noqa: S608
        (sequence,),
    )


def _next_readable(connection: sqlite3.Connection, columns: str, bad: int) -> int | None:
    """The next sequence after `bad` at which reading works, by doubling and halving."""

    def readable(sequence: int) -> bool:
        try:
            cursor = _rows_from(connection, columns, sequence)
            cursor.fetchone()
            cursor.close()
        except sqlite3.Error:
            return False
        return True

    step = 1
    while not readable(bad + step):
        bad, step = bad + step, step * 2
        if bad > _SEQUENCES:
            return None
    good = bad + step
    while good - bad > 1:
        middle = (bad + good) // 2
        if readable(middle):
            good = middle
        else:
            bad = middle
    return good
