"""Reading the journal: short statements, no transaction held, every row checked against its checksum.

For the broker's cursors and snapshots, and for commands that read a journal without a broker.

A row whose checksum is wrong is never given. If the indexes, which lie elsewhere in the file, confirm its place
(execution, stream, numbers, position), it is its body that is damaged, and the place is told. If not, the file is
not to be trusted any more, as when SQLite itself says so: JournalDamaged.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from theorbo.broker.rows import COLUMNS, PLACE, Row, decoded, placed
from theorbo.broker.schema import JournalDamaged, is_damage
from theorbo.broker.values import Batch, FindViews, JournalRead, Listed, Past, ReadJournal
from theorbo.schemas.frames import NO_EXECUTION
from theorbo.schemas.limits import SCAN_SEQUENCES
from theorbo.schemas.names import Channel, Source, SourceKind

LAST_SEQUENCE = (
    "SELECT max(coalesce((SELECT max(sequence) FROM batches), 0),"
    " coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'last_sequence'), 0))"
)
"""Also of what retention has removed: a sequence is never given twice."""

_LAST_POSITION = (
    "SELECT max(last) FROM ("
    " SELECT * FROM (SELECT position + count - 1 AS last FROM batches WHERE execution = :execution AND"
    " channel = :channel ORDER BY position DESC LIMIT 1)"
    " UNION ALL SELECT * FROM (SELECT position + count - 1 FROM damaged WHERE execution = :execution AND"
    " channel = :channel ORDER BY position DESC LIMIT 1))"
)
"""Also of what was taken out because it is damaged: a position is never given twice."""


class JournalReader:
    """A connection that only reads. Raises JournalDamaged where the file is."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """`path` is for words only."""
        self._connection = connection
        self._path = path

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @contextlib.contextmanager
    def _noticing(self) -> Iterator[None]:
        """What SQLite says of a damaged file becomes JournalDamaged, and so does what cannot have been written: an
        index with a source that there is not, a view that is no JSON.
        """
        try:
            yield
        except ValueError as error:
            raise JournalDamaged(self._path, str(error)) from None
        except sqlite3.Error as error:
            if is_damage(error):
                raise JournalDamaged(self._path, str(error)) from None
            raise

    def identity(self) -> str:
        """Identifies this journal, until acknowledged content may be missing in it."""
        with self._noticing():
            row = self._connection.execute("SELECT value FROM meta WHERE name = 'broker'").fetchone()
        if row is None:
            raise JournalDamaged(self._path, "it has no identity")
        return str(row[0])

    def last_sequence(self) -> int:
        """The last sequence that was ever given."""
        with self._noticing():
            return int(self._connection.execute(LAST_SEQUENCE).fetchone()[0])

    def open_executions(self) -> list[bytes]:
        """Those that had no final state when they were last noted, oldest first."""
        with self._noticing():
            rows = self._connection.execute("SELECT execution FROM executions WHERE ended IS NULL ORDER BY submitted")
            return [row[0] for row in rows.fetchall()]

    def recall(self, execution: bytes) -> Past | None:
        """What the core needs of an execution, or None if there is none of this id."""
        with self._noticing():
            row = self._connection.execute(
                "SELECT ended, view, confirmed FROM executions WHERE execution = ? AND NOT removing", (execution,)
            ).fetchone()
            if row is None:
                return None
            ended, view, confirmed = row
            streams = self._connection.execute(
                "SELECT source_kind, source_index, channel, max(first + count - 1), sum(count) FROM batches"
                " INDEXED BY batches_by_position WHERE execution = ? GROUP BY channel, source_kind, source_index",
                (execution,),
            ).fetchall()
            signals: list[Batch] = []
            damaged: list[Batch] = []
            wanted = "" if ended is None else " AND instr(body, CAST('\"loss\"' AS BLOB))"
            for found in self._connection.execute(
                f"SELECT {COLUMNS} FROM batches WHERE execution = ? AND channel = ?{wanted} ORDER BY position",  # noqa: S608
                (execution, int(Channel.SIGNALS)),
            ):
                self._sort(found, signals, damaged)
            return Past(
                [(Source(SourceKind(kind), index), *counted) for kind, index, *counted in streams],
                self._heads(execution),
                signals,
                None if ended is None else json.loads(view),
                confirmed,
                tuple(damaged),
            )

    def _heads(self, execution: bytes) -> dict[int, int]:
        found = {}
        for channel in map(int, Channel):
            (last,) = self._connection.execute(_LAST_POSITION, {"execution": execution, "channel": channel}).fetchone()
            if last is not None:
                found[channel] = last
        return found

    def reach(self, wish: ReadJournal, last: int) -> int:
        """How far to look in one go for a cursor that finds little; `last` is the last sequence it may see.

        Sequences that were skipped by a recovery take no turns.
        """
        if wish.first_position:
            return last  # found by an index
        with self._noticing():
            begin = self._begin(wish, last)
            (following,) = self._connection.execute(
                "SELECT min(sequence) FROM batches WHERE sequence > ?", (begin,)
            ).fetchone()
        return min(last, (following or last) + SCAN_SEQUENCES)

    def read(self, wish: ReadJournal, through: int) -> JournalRead:
        """The next batches for a cursor, up to sequence `through`."""
        try:
            with self._noticing():
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
            values.append(self._begin(wish, through))
        rows = self._connection.execute(
            f"SELECT {COLUMNS} FROM batches WHERE {' AND '.join(where)} ORDER BY {order}",  # noqa: S608 - no text of others
            values,
        )
        batches: list[Batch] = []
        damaged: list[Batch] = []
        size, looked_to = 0, through
        for row in rows:
            self._sort(row, batches, damaged)
            size += len(row[-1]) if isinstance(row[-1], bytes) else 0
            if size >= wish.limit_bytes:
                looked_to = row[0]
                break
        rows.close()
        return JournalRead(wish.peer, wish.request, wish.after, batches, looked_to, damaged=tuple(damaged))

    def _begin(self, wish: ReadJournal, through: int) -> int:
        """The sequence after which the wish begins."""
        if not wish.since:
            return wish.after
        following = self._sound_from(wish.after + 1, through)
        if following is None or following.time >= wish.since:
            return wish.after
        return max(wish.after, self.last_before(wish.since, through))

    def last_before(self, since: float, through: int) -> int:
        """The last sequence, up to `through`, that was committed before `since`: by bisection, some forty looks.

        Commits follow the broker's clock. Where that was set back, times are not in order, and one of the
        sequences is found at which they pass `since`.
        """
        low, high = 0, through  # the answer is in between
        while low < high:
            middle = (low + high + 1) // 2
            found = self._sound_from(middle, high)
            if found is None:
                high = middle - 1
            elif found.time < since:
                low = found.sequence
            else:
                high = middle - 1
        return low

    def _sound_from(self, sequence: int, through: int) -> Batch | None:
        """The first undamaged batch of these sequences."""
        rows = self._connection.execute(
            f"SELECT {COLUMNS} FROM batches WHERE sequence BETWEEN ? AND ? ORDER BY sequence",  # noqa: S608
            (sequence, through),
        )
        found = next((batch for row in rows if (batch := decoded(row))), None)
        rows.close()
        return found

    def _sort(self, row: Row, sound: list[Batch], damaged: list[Batch]) -> None:
        batch = decoded(row)
        if batch is None:
            damaged.append(self._confirmed_place(row))
        else:
            sound.append(batch)

    def _confirmed_place(self, row: Row) -> Batch:
        """The place of a row with a wrong checksum, without a body, if the index agrees. Raises JournalDamaged."""
        sequence, execution, channel, position, kind, index, first, count, *_ = row
        found = self._connection.execute(
            "SELECT 1 FROM batches INDEXED BY batches_by_position WHERE execution = ? AND channel = ? AND position = ?"
            " AND count = ? AND source_kind = ? AND source_index = ? AND first = ? AND sequence = ?",
            (execution, channel, position, count, kind, index, first, sequence),
        ).fetchone()
        # Read again by its key: the columns of the row at hand may have come from an index.
        own = self._connection.execute(
            f"SELECT {PLACE} FROM batches NOT INDEXED WHERE sequence = ?",  # noqa: S608
            (sequence,),
        ).fetchone()
        batch = placed(own) if found and own and own[:8] == row[:8] else None
        if batch is None:
            raise JournalDamaged(self._path, f"row {sequence} contradicts an index")
        return batch

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
        with self._noticing():
            rows = self._connection.execute(
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
        with self._noticing():
            row = self._connection.execute(
                "SELECT size FROM attachments WHERE execution = ? AND sha256 = ?", (execution, sha256)
            ).fetchone()
        return row[0] if row else None
