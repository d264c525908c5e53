"""The proof that nothing is missing and nothing came twice: every batch that is handed over is counted. Pure.

Two independent counts are kept. *Numbers* are the writer's: those of one stream (execution, source, channel) go on
without gap or double, wherever they begin. *Positions* are the broker's: those of one (execution, channel) go on from
the head in the snapshot; of an execution whose beginning was seen, both begin with 1. A conservation record says
how many events each stream had.

A gap is in order if a loss event tells it: its numbers nobody can deliver. With the policy latest what was told as
missed is in order as well. Memory is constant for a stream: of gaps and losses the last `VERIFIED_GAPS` are known
exactly, further gaps count as not told.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from theorbo.observer.values import Missed, Snapshot, View, execution_of
from theorbo.schemas.events import Conservation, Loss
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import VERIFIED_GAPS, VERIFIED_STREAMS
from theorbo.schemas.names import Channel, Stream
from theorbo.schemas.presentation import single_events

_Range = tuple[int, int]


class StreamCount(NamedTuple):
    """What was seen of one stream."""

    execution: str
    source: str
    channel: str
    first: int
    """Number; 0 if nothing came."""
    last: int
    events: int
    gaps: int
    """Numbers that are missing, told or not."""
    told: int
    """Of these, told by a loss event."""
    duplicates: int
    reported: int | None
    """Last number by the conservation record, once it was seen."""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.gaps == self.told and not self.duplicates


class ChannelCount(NamedTuple):
    """What was seen of one channel of an execution, by the broker's positions."""

    execution: str
    channel: str
    first: int
    last: int
    missing: int
    skipped: int
    """Told as missed, with the policy latest."""
    duplicates: int


class Verification(NamedTuple):
    """All counts, and the verdict."""

    streams: tuple[StreamCount, ...]
    channels: tuple[ChannelCount, ...]
    events: int
    unchecked: int
    """Events of streams beyond `VERIFIED_STREAMS`."""
    problems: tuple[str, ...]
    """Sentences; empty if nothing is missing or double but what was told."""

    @property
    def verdict(self) -> str:
        """One line."""
        told, skipped = sum(item.told for item in self.streams), sum(item.skipped for item in self.channels)
        counted = f"{self.events} events of {len(self.streams)} streams"
        counted += f", {told} told as lost" * bool(told) + f", {skipped} skipped as wished" * bool(skipped)
        if self.problems:
            return f"NOT verified: {counted}: {'; '.join(self.problems)}"
        return f"verified: {counted}, gaps 0, duplicates 0" if not told + skipped else f"verified: {counted}, no others"


@dataclass
class _Numbers:
    following: int | None = None  # the number that must come next; None: any
    whole: bool = False  # whether 1 must have come
    first: int = 0
    last: int = 0
    events: int = 0
    duplicates: int = 0
    missing: int = 0
    beyond: int = 0  # missing numbers of gaps for which there is no room
    gaps: list[_Range] = field(default_factory=list)  # not told (yet)
    losses: list[_Range] = field(default_factory=list)
    reported: int | None = None

    def took(self, first: int, count: int) -> None:
        last = first + count - 1
        if self.following is not None:
            self.lacks(first - 1)
            self.duplicates += max(0, min(count, self.following - first))
        else:
            self.whole |= first == 1
        self.first = self.first or first
        self.last = max(self.last, last)
        self.events += count
        self.following = max(self.following or 0, last + 1)

    def lacks(self, through: int) -> None:
        """What comes next has a number behind `through`."""
        if self.following is None or through < self.following:
            return
        self.missing += through + 1 - self.following
        rest: list[_Range] = [(self.following, through)]
        for loss in self.losses:
            rest = _without(rest, loss)
        self._remember([*self.gaps, *rest])
        self.following = through + 1

    def told(self, first: int, last: int) -> None:
        """A loss event names these."""
        self._remember(_without(self.gaps, (first, last)))
        self.losses = [*self.losses, (first, last)][-VERIFIED_GAPS:]

    def _remember(self, gaps: list[_Range]) -> None:
        self.gaps = gaps[:VERIFIED_GAPS]
        self.beyond += sum(last - first + 1 for first, last in gaps[VERIFIED_GAPS:])

    @property
    def untold(self) -> int:
        return self.beyond + sum(last - first + 1 for first, last in self.gaps)


def _from(number: int) -> _Numbers:
    return _Numbers(number, whole=number == 1)


def _without(ranges: list[_Range], taken: _Range) -> list[_Range]:
    below = [(first, min(last, taken[0] - 1)) for first, last in ranges]
    above = [(max(first, taken[1] + 1), last) for first, last in ranges]
    return sorted({(first, last) for first, last in (*below, *above) if first <= last})


@dataclass
class _Execution:
    streams: dict[Stream, _Numbers] = field(default_factory=dict)
    positions: dict[Channel, _Numbers] = field(default_factory=dict)
    skipped: dict[Channel, int] = field(default_factory=dict)
    told: dict[Channel, int] = field(default_factory=dict)  # numbers that loss events name
    unaccounted: int = 0  # reported, but not delivered, by the conservation record
    lost: int = 0  # by the conservation record
    told_lost: int = 0  # by loss events


class Tally:
    """Counts what is handed over of the `channels` that are followed."""

    def __init__(self, channels: Set[Channel], *, whole: bool = False, skips: bool = False) -> None:
        """`whole`: everything has to begin with 1, as in a replay. `skips`: what is told as missed is in order."""
        self._channels = channels
        self._whole = whole
        self._skips = skips
        self._joined = whole
        self._executions: dict[bytes, _Execution] = {}
        self._streams = 0
        self._events = 0
        self._unchecked = 0

    def snapshot(self, it: Snapshot) -> None:
        """The seam between what was and what follows; a second one begins anew."""
        if self._joined:
            for known in self._executions.values():
                known.positions.clear()
                for numbers in known.streams.values():
                    numbers.following = None
        self._joined = True
        for view in (*it.views, *it.ended):
            self.heads(view)

    def heads(self, view: View) -> None:
        """All of an execution up to its heads was handed over, or was before the beginning."""
        heads, execution = view.get("heads"), self._execution(execution_of(view))
        for channel in self._channels:
            head = heads.get(channel.text, 0) if isinstance(heads, dict) else 0
            if channel not in execution.positions:
                execution.positions[channel] = _from(1 if self._whole else head + 1)
            execution.positions[channel].lacks(head)

    def batch(self, header: Header, body: bytes) -> None:
        """The next events that were handed over."""
        self._events += header.count
        if header.source is None:
            return
        execution, channel = self._execution(header.execution), Channel(header.channel)
        positions = execution.positions.get(channel)
        if positions is None:
            new = header.position == 1 or self._is_new(execution)
            positions = execution.positions[channel] = _from(1) if new else _Numbers()
        positions.took(header.position, header.count)
        stream = self._stream(execution, Stream(header.source, channel))
        if stream is None:
            self._unchecked += header.count
        else:
            stream.took(header.first, header.count)
        if channel == Channel.SIGNALS and (b'"loss"' in body or b'"conservation"' in body):
            for _, event in single_events(header, body):
                if isinstance(event, Loss):
                    self._lost(execution, event)
                elif isinstance(event, Conservation):
                    self._conserved(execution, event)

    def missed(self, it: Missed) -> None:
        """What was told to be missing."""
        execution = self._execution(execution_of(it.view))
        positions = execution.positions.setdefault(it.channel, _from(it.first))
        positions.lacks(it.last)
        if self._skips:
            positions.told(it.first, it.last)
            execution.skipped[it.channel] = execution.skipped.get(it.channel, 0) + it.last + 1 - it.first

    def verification(self, *, complete: bool) -> Verification:
        """The counts so far. `complete`: everything was handed over, so that what is not there is missing."""
        streams: list[StreamCount] = []
        channels: list[ChannelCount] = []
        problems: list[str] = []
        for key, execution in self._executions.items():
            streams += [self._counted(key, stream, numbers, complete) for stream, numbers in execution.streams.items()]
            channels += [
                self._of_channel(key, channel, it, execution.skipped.get(channel, 0))
                for channel, it in execution.positions.items()
                if it.events or it.missing
            ]
        allowed = {(item.execution, item.channel): item.skipped for item in channels}
        for (execution_id, name), skipped in allowed.items():
            mine = [item for item in streams if (item.execution, item.channel) == (execution_id, name)]
            untold = sum(item.gaps - item.told for item in mine)
            if untold > skipped:
                problems.append(f"{untold} numbers missing on {name} of {execution_id}")
        for item in channels:
            told = self._executions[bytes.fromhex(item.execution)].told.get(Channel[item.channel.upper()], 0)
            if item.missing > told:
                problems.append(f"{item.missing} positions missing on {item.channel} of {item.execution}")
        double = sum(item.duplicates for item in streams), sum(item.duplicates for item in channels)
        if max(double):
            problems.append(f"{max(double)} events came twice or out of order")
        for key, execution in self._executions.items():
            if execution.unaccounted > max(execution.lost, execution.told_lost):
                problems.append(f"{execution.unaccounted} events of {key.hex()} were reported and not delivered")
        if self._unchecked:
            problems.append(f"{self._unchecked} events of streams beyond the first {VERIFIED_STREAMS} were not checked")
        return Verification(tuple(streams), tuple(channels), self._events, self._unchecked, tuple(problems))

    def _of_channel(self, key: bytes, channel: Channel, it: _Numbers, skipped: int) -> ChannelCount:
        return ChannelCount(key.hex(), channel.text, it.first, it.last, it.untold, skipped, it.duplicates)

    def _counted(self, key: bytes, stream: Stream, it: _Numbers, complete: bool) -> StreamCount:
        behind: list[_Range] = []
        if complete and it.reported is not None and it.following is not None and it.reported >= it.following:
            behind = [(it.following, it.reported)]
        gaps = it.missing + sum(last - first + 1 for first, last in behind)
        for loss in it.losses:
            behind = _without(behind, loss)
        untold = it.untold + sum(last - first + 1 for first, last in behind)
        return StreamCount(
            key.hex(), str(stream.source), stream.channel.text,
            it.first, it.last, it.events, gaps, gaps - untold, it.duplicates, it.reported,
        )  # fmt: skip

    def _is_new(self, execution: _Execution) -> bool:
        """Whether all of it has to come, for its beginning has."""
        signals = execution.positions.get(Channel.SIGNALS)
        return self._whole or (signals is not None and signals.whole)

    def _execution(self, execution: bytes) -> _Execution:
        return self._executions.setdefault(execution, _Execution())

    def _stream(self, execution: _Execution, stream: Stream) -> _Numbers | None:
        numbers = execution.streams.get(stream)
        if numbers is None:
            if self._streams >= VERIFIED_STREAMS:
                return None
            self._streams += 1
            positions = execution.positions.get(stream.channel)
            begins = self._is_new(execution) if positions is None else positions.whole
            numbers = execution.streams[stream] = _from(1) if begins else _Numbers()
        return numbers

    def _lost(self, execution: _Execution, event: Loss) -> None:
        execution.told_lost += event.last + 1 - event.first if event.first else event.count
        try:
            stream = Stream.parse(event.stream)
        except ValueError:
            return  # of something that has no numbers
        if stream.channel not in self._channels or not 0 < event.first <= event.last:
            return
        execution.told[stream.channel] = execution.told.get(stream.channel, 0) + event.last + 1 - event.first
        numbers = self._stream(execution, stream)
        if numbers is not None:
            numbers.told(event.first, event.last)

    def _conserved(self, execution: _Execution, event: Conservation) -> None:
        execution.lost += event.lost
        for name, (reported, delivered) in event.streams.items():
            execution.unaccounted += max(0, reported - delivered)
            try:
                stream = Stream.parse(name)
            except ValueError:
                continue
            numbers = self._stream(execution, stream) if stream.channel in self._channels else None
            if numbers is not None:
                numbers.reported = reported


def verification_fields(it: Verification, now: float) -> Mapping[str, Any]:
    """As one JSON object of kind `verification`."""
    return {
        "kind": "verification",
        "time": now,
        "ok": not it.problems,
        "verdict": it.verdict,
        "events": it.events,
        "problems": list(it.problems),
        "streams": [item._asdict() for item in it.streams],
        "channels": [item._asdict() for item in it.channels],
    }
