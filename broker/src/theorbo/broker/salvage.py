"""What can be read of a damaged journal goes into a new one; what cannot is told, stream by stream.

`salvage` works on two open databases and takes the time as an argument; files are `recovery`'s. The way:

1. Rows of batches, in order of sequence. Where SQLite cannot go on, the next sequence from which it can is searched
   by doubling and halving. A row with a wrong checksum is not taken.
2. The index by position lies on other pages: it names the place of every row. One that was not found yet is tried by
   itself; if it cannot be read, its place is noted in the table `damaged`, so that its positions are not given again.
   So are positions of which the index has lost the place too.
3. Executions and references to attachments, from both ends. What is missing is made from the records.
4. Loss events, as the broker, for the numbers that are missing in each stream and were not told as lost before. What
   is missing at the end of a stream of an open execution is no loss yet: its sender may have it, and is asked for
   it, since the new journal has a new identity. It is a loss if the sender has closed.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from theorbo.broker import rows
from theorbo.broker.executions import Execution
from theorbo.broker.holes import Hole, Interval, holes_of, in_batches, loss_record, missing
from theorbo.broker.journal_reader import JournalReader
from theorbo.broker.readable import readable_rows
from theorbo.broker.rows import Row
from theorbo.broker.values import Batch, Past
from theorbo.broker.views import view as view_of
from theorbo.schemas.limits import RECOVERED_SEQUENCES
from theorbo.schemas.names import BROKER, Channel, Stream
from theorbo.schemas.records import RS, attachments_of, split_body

_COMMIT_ROWS = 1000
_OF_INDEX = "sequence, execution, channel, position, source_kind, source_index, first, count"


class Salvaged(NamedTuple):
    """What became of a damaged journal."""

    rows: int
    """Batches that were kept."""
    lost_rows: int
    """Batches of which only the place is known."""
    executions: int
    rebuilt: int
    """Executions whose own row was lost, and that were made from their signals."""
    lost_events: int
    """Events that loss events tell of, over all executions."""
    holes: int
    """Loss events written."""
    something: bool
    """Whether there was anything to be read; an empty journal has its identity."""


def salvage(old: sqlite3.Connection, new: sqlite3.Connection, now: float, progress: Callable[[int], None]) -> Salvaged:
    """Fill `new`, which has empty tables, from `old`. `progress` is told now and then how many rows are kept."""
    return _Salvage(old, new, now, progress).run()


class _Salvage:
    def __init__(
        self, old: sqlite3.Connection, new: sqlite3.Connection, now: float, progress: Callable[[int], None]
    ) -> None:
        self._old = old
        self._new = new
        self._now = now
        self._progress = progress
        self._kept = 0
        self._lost: set[int] = set()
        version = _value(old, "PRAGMA user_version", 0)
        self._columns = rows.COLUMNS if version != 1 else rows.COLUMNS.replace("checksum", "NULL")
        self._confirmed = "confirmed" if version != 1 else "0"

    def run(self) -> Salvaged:
        old, new = self._old, self._new
        new.execute("BEGIN")
        for row in readable_rows(old, self._columns):
            self._take(row)
        for place in self._places():
            self._look_for(place)
        self._copy_tables()
        rebuilt = self._rebuild_executions()
        sequence = self._jump()
        holes = lost_events = 0
        for execution in self._executions():
            self._note_positions(execution)
            found = holes_of(new, execution)
            if found:
                holes += len(found)
                lost_events += sum(last - first + 1 for _, first, last in found)
                sequence = self._tell(execution, found, sequence)
        new.execute("COMMIT")
        executions = _value(new, "SELECT count(*) FROM executions", 0)
        identity = _value(self._old, "SELECT value FROM meta WHERE name = 'broker'", None)
        something = bool(self._kept or executions or identity)
        return Salvaged(self._kept, len(self._lost), executions, rebuilt, lost_events, holes, something)

    # --- rows ------------------------------------------------------------------------------------

    def _take(self, row: Row) -> bool:
        """Keep a row, if it is sound; once."""
        batch = rows.decoded(row)
        if batch is None or batch.body.count(RS) != batch.count:  # the latter for rows without a checksum
            return False
        if self._new.execute("SELECT 1 FROM batches WHERE sequence = ?", row[:1]).fetchone():
            return True
        self._new.execute(rows.INSERT, row)
        self._kept += 1
        if self._kept % _COMMIT_ROWS == 0:
            self._new.execute("COMMIT")
            self._new.execute("BEGIN")
            self._progress(self._kept)
        return True

    def _places(self) -> Iterator[Row]:
        """What the index says of all rows; from both ends if it is broken in the middle."""
        for order in ("", "DESC"):
            try:
                yield from self._old.execute(
                    f"SELECT {_OF_INDEX} FROM batches INDEXED BY batches_by_position"  # noqa: S608
                    f" ORDER BY execution {order}, channel {order}, position {order}"
                )
                return
            except sqlite3.Error:
                continue

    def _look_for(self, place: Row) -> None:
        """A row of which the index tells, by itself; if it is not to be had, its place is noted."""
        sequence = place[0]
        if (
            sequence in self._lost
            or self._new.execute("SELECT 1 FROM batches WHERE sequence = ?", place[:1]).fetchone()
        ):
            return
        try:
            row = self._old.execute(
                f"SELECT {self._columns} FROM batches WHERE sequence = ?",  # noqa: S608
                (sequence,),
            ).fetchone()
        except sqlite3.Error:
            row = None
        if (row is None or not self._take(row)) and rows.placed((*place, 0, 0.0)):
            self._lost.add(sequence)
            self._new.execute(f"INSERT INTO damaged ({_OF_INDEX}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", place)  # noqa: S608

    # --- the other tables ------------------------------------------------------------------------

    def _copy_tables(self) -> None:
        executions = "execution, submitted, ended, removing, view"
        self._copy(
            f"SELECT {executions}, {self._confirmed} FROM executions", "execution",  # noqa: S608
            f"INSERT OR IGNORE INTO executions ({executions}, confirmed)"
            " SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE json_valid(?5)",  # else it is made again from the records
        )  # fmt: skip
        whole = self._copy(
            "SELECT execution, sha256, size FROM attachments", "execution, sha256",
            "INSERT OR IGNORE INTO attachments VALUES (?, ?, ?)",
        )  # fmt: skip
        if not whole:
            self._refer_again()
        columns = rows.COLUMNS
        try:
            aside = self._old.execute(f"SELECT {columns} FROM damaged").fetchall()  # noqa: S608
        except sqlite3.Error:
            aside = []  # a journal of version 1 has none; else their loss events are what remains
        for row in aside:
            self._new.execute(f"INSERT INTO damaged ({columns}) VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608

    def _copy(self, select: str, key: str, insert: str) -> bool:
        """A table from both ends; whether all of it could be read."""
        for order in ("ASC", "DESC"):
            try:
                for row in self._old.execute(f"{select} ORDER BY {key.replace(',', f' {order},')} {order}"):
                    try:
                        self._new.execute(insert, row)
                    except sqlite3.IntegrityError:
                        return False  # nothing that a whole table would hold
                return order == "ASC"
            except sqlite3.Error:
                continue
        return False

    def _refer_again(self) -> None:
        """References that the table has lost, from the records that name them: else retention would sweep the files."""
        for execution, body in self._new.execute(
            "SELECT execution, body FROM batches WHERE instr(body, CAST('\"attachments\"' AS BLOB))"
        ):
            named = [each for record in split_body(body) for each in attachments_of(record)]
            for each in named:
                self._new.execute(
                    "INSERT OR IGNORE INTO attachments VALUES (?, ?, ?)",
                    (execution, bytes.fromhex(each.sha256), each.size),
                )

    def _rebuild_executions(self) -> int:
        """Executions whose row was lost, from their signals."""
        missing = self._new.execute(
            "SELECT execution, min(time) FROM batches WHERE execution NOT IN (SELECT execution FROM executions)"
            " GROUP BY execution"
        ).fetchall()
        for execution, time in missing:
            self._new.execute(
                "INSERT INTO executions (execution, submitted, view) VALUES (?, ?, '{}')", (execution, time)
            )
            past = self._recall(execution)
            rebuilt = Execution.recalled(execution, past, last_sequence=0, now=self._now)
            view = view_of(rebuilt, self._now)
            if rebuilt.state.final:
                self._new.execute(
                    "UPDATE executions SET submitted = ?, ended = ?, view = ? WHERE execution = ?",
                    (view["submitted"] or time, view["ended"] or self._now, json.dumps(view), execution),
                )
        return len(missing)

    def _recall(self, execution: bytes) -> Past:
        past = JournalReader(self._new, Path()).recall(execution)
        assert past is not None  # its row was inserted just now, or found
        return past

    def _jump(self) -> int:
        """The last sequence that counts as given: far beyond any that can have been given before."""
        last = max(
            _value(self._new, "SELECT max(sequence) FROM batches", 0) or 0,
            _value(self._new, "SELECT max(sequence) FROM damaged", 0) or 0,
            _value(self._new, "SELECT max(confirmed) FROM executions", 0) or 0,
            _value(self._old, "SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'last_sequence'", 0) or 0,
        )
        jumped: int = last + RECOVERED_SEQUENCES
        self._new.execute("INSERT INTO meta VALUES ('last_sequence', ?)", (str(jumped),))
        return jumped

    # --- what is missing ---------------------------------------------------------------------------

    def _executions(self) -> list[bytes]:
        found = self._new.execute("SELECT execution FROM executions WHERE NOT removing")
        return [row[0] for row in found.fetchall()]

    def _note_positions(self, execution: bytes) -> None:
        """Positions of which neither rows nor index know any more are noted as damaged, in a row for each gap."""
        places: dict[int, list[Interval]] = defaultdict(list)
        for channel, position, count in self._new.execute(
            "SELECT channel, position, count FROM batches WHERE execution = :execution"
            " UNION ALL SELECT channel, position, count FROM damaged WHERE execution = :execution",
            {"execution": execution},
        ):
            places[channel].append((position, position + count - 1))
        for channel, there in places.items():
            for first, last in missing(there, max(end for _, end in there)):
                self._new.execute(
                    "INSERT INTO damaged (execution, channel, position, count) VALUES (?, ?, ?, ?)",
                    (execution, channel, first, last - first + 1),
                )

    def _tell(self, execution: bytes, holes: list[Hole], sequence: int) -> int:
        """Loss events, behind all that the execution has; the last sequence that is given now."""
        past = self._recall(execution)
        position = past.heads.get(Channel.SIGNALS, 0) + 1
        own = Stream(BROKER, Channel.SIGNALS)
        number = 1 + max(
            [last for source, channel, last, _ in past.streams if (source, channel) == own]
            + [last for stream, _, last in holes if stream == own],
            default=0,
        )
        for records in in_batches([loss_record(hole, self._now) for hole in holes]):
            sequence += 1
            batch = Batch(
                sequence, execution, Channel.SIGNALS, position, BROKER, number, len(records), 0, self._now,
                b"".join(records),
            )  # fmt: skip
            self._new.execute(rows.INSERT, rows.encoded(batch))
            position, number = position + batch.count, number + batch.count
        lost = sum(last - first + 1 for _, first, last in holes)
        self._new.execute(
            "UPDATE executions SET view = json_set(view, '$.lost', coalesce(json_extract(view, '$.lost'), 0) + ?)"
            " WHERE execution = ? AND ended IS NOT NULL",
            (lost, execution),
        )
        return sequence


def _value(connection: sqlite3.Connection, query: str, otherwise: Any) -> Any:
    try:
        row = connection.execute(query).fetchone()
    except sqlite3.Error:
        return otherwise
    return row[0] if row else otherwise
