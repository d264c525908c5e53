"""What the journal has, as it was seen to get there: the measure of everything that a broker says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from theorbo.broker.values import Batch
from theorbo.schemas.frames import Header
from theorbo.schemas.names import BROKER, EXECUTOR, Channel, Source, Stream
from theorbo.schemas.records import RS
from theorbo.schemas.states import State


class Known:
    """What the journal has of one execution."""

    def __init__(self) -> None:
        self.positions: dict[int, int] = {}
        """Last position by channel."""
        self.numbers: dict[Stream, int] = {}
        """Last number by stream."""
        self.missing = Counter[Stream]()
        self.given_up: dict[Stream, set[int]] = {}
        """Numbers of which a loss event says that nobody can deliver them."""
        self.executor_records: dict[bytes, int] = {}
        """By record the sequence of the last row that has it."""
        self.state = State.PENDING
        self.conserved: dict[str, Any] = {}
        self.lost_events = 0

    def next_number(self, stream: Stream, first: int) -> int:
        """What the next batch of a stream must begin with, if it is to begin with `first`."""
        number = self.numbers.get(stream, 0) + 1
        given_up = self.given_up.get(stream, ())
        while number < first and number in given_up:
            number += 1
        return number

    def take(self, batch: Batch) -> None:
        stream = Stream(batch.source, Channel(batch.channel))
        self.missing[stream] += batch.first - self.numbers.get(stream, 0) - 1
        self.positions[batch.channel] = batch.last_position
        self.numbers[stream] = batch.last
        if batch.source == EXECUTOR:
            self.executor_records.update((RS + part, batch.sequence) for part in batch.body.split(RS)[1:])

    def take_signal(self, source: Source, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "loss":
            self.lost_events += event.get("count", 0)
            if event.get("first"):
                numbers = range(event["first"], event["last"] + 1)
                self.given_up.setdefault(Stream.parse(event["stream"]), set()).update(numbers)
        elif source == BROKER and kind == "conservation":
            self.conserved = event
        elif source == BROKER and kind == "state_changed":
            self.state = State(event["state"])

    def settled_number(self, stream: Stream) -> int:
        """Up to where everything is in the journal, or given up."""
        number = self.numbers.get(stream, 0)
        given_up = self.given_up.get(stream, ())
        while number + 1 in given_up:
            number += 1
        return number


def is_part(header: Header, body: bytes, row: Batch) -> bool:
    """Whether these are events of the row, under their numbers and positions."""
    if (header.execution, header.channel, header.source) != (row.execution, row.channel, row.source):
        return False
    skipped = header.position - row.position
    if skipped < 0 or header.first - row.first != skipped or skipped + header.count > row.count:
        return False
    if skipped == 0 and header.count == row.count:
        return body == row.body
    return body == b"".join(RS + part for part in row.body.split(RS)[1 + skipped : 1 + skipped + header.count])


def batch_name(batch: Batch) -> str:
    return f"{batch.execution[:2].hex()} {batch.source}/{Channel(batch.channel).text} sequence {batch.sequence}"


def said(text: str) -> Callable[[], str]:
    return lambda: text
