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
        self.tokens: dict[str, int] = {}
        """Of requests, with the sequence of their row."""
        self.agents: set[int] = set()
        """That have started and not closed."""
        self.given_up_agents: set[int] = set()
        """Without those that have come back in time, and closed."""
        self.lost_nodes: set[int] = set()
        self.launcher_ended = False
        self.alive: set[int] = set()
        """Ranks that have started and not ended."""
        self.stopped: set[int] = set()
        self.ended_ranks: set[int] = set()
        self.was_held = self.was_running = False
        """Whether all of `alive` were held, or one was not, at any time since the state changed."""
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
        elif kind == "agent_started":
            self.agents.add(source.index)
        elif kind == "agent_closed":
            self.agents.discard(source.index)
            self.given_up_agents.discard(source.index)
        elif kind == "node_lost":
            self.lost_nodes.add(event["node"])
        elif kind == "launcher_ended":
            self.launcher_ended = True
        elif source == BROKER and kind == "agent_given_up":
            self.given_up_agents.add(event["node"])
        elif source == BROKER and kind == "conservation":
            self.conserved = event
        elif source == BROKER and kind == "state_changed":
            self.state = State(event["state"])
            if event["previous"] != State.PENDING:  # else both may follow from the same evidence, at once
                self.was_held = self.was_running = False
        self._take_ranks(kind, source, event)

    def _take_ranks(self, kind: str, source: Source, event: dict[str, Any]) -> None:
        if kind == "rank_started" and source.index not in self.ended_ranks:
            self.alive.add(source.index)
        elif kind == "rank_ended":
            self.ended_ranks.add(source.index)
            self.alive.discard(source.index)
        elif kind == "ranks_stopped":
            self.stopped.update(event["ranks"])
        elif kind == "ranks_continued":
            self.stopped.difference_update(event["ranks"])
        self.was_held = self.was_held or bool(self.alive and self.alive <= self.stopped)
        self.was_running = self.was_running or not self.alive <= self.stopped

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
