"""Numbers of streams that are missing in a journal, and the loss events that tell of them."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator

from theorbo.broker.rows import COLUMNS, decoded
from theorbo.schemas import events
from theorbo.schemas.limits import BATCH_BYTES, BATCH_EVENTS
from theorbo.schemas.names import BROKER, Channel, Source, SourceKind, Stream
from theorbo.schemas.records import encode_record, split_body

DETAIL = "damaged in the journal"

Interval = tuple[int, int]
Hole = tuple[Stream, int, int]
"""Stream, first and last number."""


def holes_of(connection: sqlite3.Connection, execution: bytes) -> list[Hole]:
    """Of each stream the numbers that are missing, and not told as lost."""
    there: dict[Stream, list[Interval]] = defaultdict(list)
    for channel, kind, index, first, count in connection.execute(
        "SELECT channel, source_kind, source_index, first, count FROM batches INDEXED BY batches_by_position"
        " WHERE execution = ?",
        (execution,),
    ):
        there[Stream(Source(SourceKind(kind), index), Channel(channel))].append((first, first + count - 1))
    ends = {stream: max(last for _, last in intervals) for stream, intervals in there.items()}
    lost = connection.execute(
        "SELECT source_kind, source_index, channel, max(first + count - 1) FROM damaged"
        " WHERE execution = ? AND first IS NOT NULL GROUP BY source_kind, source_index, channel",
        (execution,),
    ).fetchall()
    told, reported = words(signals(connection, execution))
    (ended,) = connection.execute("SELECT ended FROM executions WHERE execution = ?", (execution,)).fetchone()
    for kind, index, channel, last in lost:
        stream = Stream(Source(SourceKind(kind), index), Channel(channel))
        if ended is not None or stream.source == BROKER:
            ends[stream] = max(ends.get(stream, 0), last)
    for stream, last in reported.items():
        ends[stream] = max(ends.get(stream, 0), last)
    return [
        (stream, first, last)
        for stream, end in sorted(ends.items())
        for first, last in missing([*there[stream], *told[stream]], end)
    ]


def signals(connection: sqlite3.Connection, execution: bytes) -> Iterator[events.EventBase]:
    """The signals of an execution that are sound, in order."""
    found = connection.execute(
        f"SELECT {COLUMNS} FROM batches WHERE execution = ? AND channel = ? ORDER BY position",  # noqa: S608
        (execution, int(Channel.SIGNALS)),
    ).fetchall()
    for batch in map(decoded, found):
        if batch is not None:
            yield from map(events.decode_event, split_body(batch.body))


def words(said: Iterable[events.EventBase]) -> tuple[dict[Stream, list[Interval]], dict[Stream, int]]:
    """What was told as lost, and how many events senders that have closed had reported."""
    told: dict[Stream, list[Interval]] = defaultdict(list)
    reported: dict[Stream, int] = {}
    for event in said:
        try:
            if isinstance(event, events.Loss) and 0 < event.first <= event.last:
                told[Stream.parse(event.stream)].append((event.first, event.last))
            elif isinstance(event, events.AgentClosed):
                reported.update({Stream.parse(name): last for name, last in event.streams.items()})
        except ValueError:
            continue  # a record may say anything
    return told, reported


def missing(intervals: list[Interval], end: int) -> list[Interval]:
    """The numbers from 1 to `end` that are in none of the intervals."""
    found, following = list[Interval](), 1
    for first, last in sorted(intervals):
        if first > following:
            found.append((following, min(first - 1, end)))
        following = max(following, last + 1)
    if following <= end:
        found.append((following, end))
    return [each for each in found if each[0] <= each[1]]


def loss_record(hole: Hole, now: float) -> bytes:
    """The loss event that tells of a hole."""
    stream, first, last = hole
    event = events.Loss(time=now, stream=str(stream), first=first, last=last, count=last - first + 1, detail=DETAIL)
    return encode_record(events.record_fields(event))


def in_batches(records: list[bytes]) -> Iterator[list[bytes]]:
    """As many at once as a batch may hold."""
    at_once = min(BATCH_EVENTS, BATCH_BYTES // max(map(len, records)))
    for start in range(0, len(records), at_once):
        yield records[start : start + at_once]
