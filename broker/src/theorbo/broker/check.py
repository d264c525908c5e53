"""`theorbo journal check`: whether a journal is as it was written, and what is missing in it.

Four looks, of which each can find what the others cannot: the structure (SQLite's own check, indexes included), every
row's checksum, positions without gaps in each (execution, channel), and the numbers of each stream, which must be
there once or be told as lost, up to the last one that its agent has named when it closed.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from theorbo.broker import rows
from theorbo.broker.holes import Interval, missing, signals, words
from theorbo.broker.readable import readable_rows
from theorbo.schemas.names import Channel, Source, SourceKind, Stream
from theorbo.schemas.presentation import visible
from theorbo.schemas.records import RS

STRUCTURE, CHECKSUMS, POSITIONS, NUMBERS = "structure", "checksums", "positions", "numbers"
_STRUCTURE_PROBLEMS = 20


class Problem(NamedTuple):
    """Something that is not as it should be."""

    look: str
    text: str
    execution: str = ""


class Checked(NamedTuple):
    """What a check has found."""

    batches: int
    events: int
    without_checksum: int
    """Of these, how many were written by schema version 1."""
    executions: int
    set_aside: int
    """Rows taken out as damaged before; their loss was told then."""
    problems: list[Problem]


def check(connection: sqlite3.Connection, progress: Callable[[str, int], None]) -> Checked:
    """Look at all of a journal as it is now, whatever a broker writes or removes meanwhile. `progress` is told which
    look it is and how many rows or executions it has done.
    """
    connection.execute("BEGIN")
    try:
        return _looked_at(connection, progress)
    finally:
        if connection.in_transaction:  # an error of the disk may have ended it
            connection.execute("ROLLBACK")


def _looked_at(connection: sqlite3.Connection, progress: Callable[[str, int], None]) -> Checked:
    problems = _structure(connection, progress)
    batches = counted = unknown = 0
    expected = 0
    for row in readable_rows(connection, rows.COLUMNS):
        batches += 1
        batch = rows.decoded(row)
        unknown += row[10] is None
        if batch is None or batch.body.count(RS) != batch.count:
            problems.append(Problem(CHECKSUMS, f"batch {row[0]}: its checksum is wrong", _hex(row[1])))
        else:
            counted += batch.count
        if batches % 1000 == 0:
            progress(CHECKSUMS, batches)
    executions = aside = 0
    try:
        expected = connection.execute("SELECT count(*) FROM batches").fetchone()[0]
        aside = connection.execute("SELECT count(*) FROM damaged").fetchone()[0]
        for (execution,) in connection.execute("SELECT execution FROM executions WHERE NOT removing").fetchall():
            executions += 1
            problems += _of_execution(connection, execution)
            progress(NUMBERS, executions)
        problems += _without_execution(connection) + _without_view(connection)
    except sqlite3.Error as error:
        problems.append(Problem(STRUCTURE, f"cannot be read: {error}"))
    if batches < expected:
        problems.append(Problem(STRUCTURE, f"{expected - batches} of {expected} batches cannot be read"))
    return Checked(batches, counted, unknown, executions, aside, problems)


def _structure(connection: sqlite3.Connection, progress: Callable[[str, int], None]) -> list[Problem]:
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        progress(STRUCTURE, steps)
        return 0

    connection.set_progress_handler(step, 10_000_000)
    try:
        found = connection.execute(f"PRAGMA integrity_check({_STRUCTURE_PROBLEMS})").fetchall()
    except sqlite3.Error as error:
        return [Problem(STRUCTURE, str(error))]
    finally:
        connection.set_progress_handler(None, 0)
    return [Problem(STRUCTURE, line) for (text,) in found if text != "ok" for line in text.splitlines()]


def _without_execution(connection: sqlite3.Connection) -> list[Problem]:
    found = connection.execute(
        "SELECT DISTINCT execution FROM batches WHERE execution NOT IN (SELECT execution FROM executions)"
    ).fetchall()
    return [Problem(STRUCTURE, "has batches and no row in executions", _hex(row[0])) for row in found]


def _without_view(connection: sqlite3.Connection) -> list[Problem]:
    found = connection.execute("SELECT execution FROM executions WHERE NOT json_valid(view)").fetchall()
    return [Problem(STRUCTURE, "its view is no JSON", _hex(row[0])) for row in found]


def _of_execution(connection: sqlite3.Connection, execution: bytes) -> list[Problem]:
    places = connection.execute(
        "SELECT channel, position, count, source_kind, source_index, first FROM batches WHERE execution = ?",
        (execution,),
    ).fetchall()
    aside = connection.execute(
        "SELECT channel, position, count FROM damaged WHERE execution = ?", (execution,)
    ).fetchall()
    positions: dict[int, list[Interval]] = defaultdict(list)
    taken_out: dict[int, list[Interval]] = defaultdict(list)
    numbers: dict[Stream, list[Interval]] = defaultdict(list)
    for channel, position, count, kind, index, first in places:
        try:
            stream = Stream(Source(SourceKind(kind), index), Channel(channel))
            positions[channel].append((position, position + count - 1))
        except (ValueError, TypeError):
            continue  # its checksum is wrong as well, or an index is, and that is told
        numbers[stream].append((first, first + count - 1))
    for channel, position, count in aside:
        taken_out[channel].append((position, position + count - 1))
    problems = []
    for channel, there in positions.items():
        name, whole = Channel(channel).text, [*there, *taken_out[channel]]
        problems += [f"{name}: position {_span(each)} is given twice" for each in twice(there)]
        problems += [f"{name}: position {_span(each)} is missing" for each in missing(whole, _end(whole))]
    found = [Problem(POSITIONS, text, _hex(execution)) for text in problems]
    problems = [
        f"{stream}: number {_span(each)} is there twice" for stream in numbers for each in twice(numbers[stream])
    ]
    told, reported = words(signals(connection, execution))
    for stream in sorted(numbers.keys() | reported.keys()):
        there = numbers[stream]
        end = max([reported.get(stream, 0), *(last for _, last in there)])
        untold = missing([*there, *told[stream]], end)
        problems += [f"{stream}: number {_span(each)} is neither there nor told as lost" for each in untold]
    return found + [Problem(NUMBERS, text, _hex(execution)) for text in problems]


def twice(intervals: list[Interval]) -> list[Interval]:
    """Where intervals overlap."""
    found, end = list[Interval](), 0
    for first, last in sorted(intervals):
        if first <= end:
            found.append((first, min(last, end)))
        end = max(end, last)
    return found


def _end(intervals: list[Interval]) -> int:
    return max(last for _, last in intervals)


def _span(interval: Interval) -> str:
    first, last = interval
    return str(first) if first == last else f"{first} to {last}"


def _hex(execution: object) -> str:
    return execution.hex() if isinstance(execution, bytes) else ""


_SHOWN = 20


def report(path: Path, found: Checked) -> list[str]:
    """A table for people, the first problems, and the verdict."""
    lines = []
    problems = Counter(each.look for each in found.problems)
    looked = {
        STRUCTURE: "tables and indexes",
        CHECKSUMS: f"{found.batches} batches, {found.events} events"
        + (f" ({found.without_checksum} of before there were checksums)" if found.without_checksum else ""),
        POSITIONS: f"{found.executions} executions",
        NUMBERS: f"{found.executions} executions",
    }
    for look, what in looked.items():
        count = problems[look]
        good = "good" if found.batches or not found.problems else "nothing could be looked at"
        lines.append(f"{look:<10}  {what:<44}  {good if not count else f'{count} problem' + 's' * (count > 1)}")
    for each in found.problems[:_SHOWN]:
        whose = f"execution {each.execution}: " if each.execution else ""
        lines.append(f"  {each.look}: {whose}{visible(each.text)}")
    if len(found.problems) > _SHOWN:
        lines.append(f"  … and {len(found.problems) - _SHOWN} more; --json lists all")
    if found.set_aside:
        lines.append(f"  {found.set_aside} damaged batches were set aside before, and told as lost")
    if found.problems:
        lines.append(f"{path} is damaged; end its broker, then: theorbo journal recover {path}")
    else:
        lines.append(f"{path} is sound")
    return lines
