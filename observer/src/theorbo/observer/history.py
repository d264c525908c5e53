"""What was reported before the snapshot, from a point in time on, read from the journal. Pure.

The READ goes through the journal in its order. What the snapshot's heads do not cover is left to the live stream,
so that each event comes once: of an execution that was listed everything up to its heads is history, of one that was
not listed everything up to the snapshot's sequence. An execution that is met without a name is asked for; what was
read meanwhile waits, and gets no CREDIT until then, so that what waits is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from theorbo.observer.filters import Filter
from theorbo.observer.values import Batch, Missed, View
from theorbo.schemas.frames import NO_EXECUTION, Header, Message
from theorbo.schemas.limits import ANSWER_S, CREDIT_BYTES, OBSERVED_EXECUTIONS
from theorbo.schemas.names import Channel
from theorbo.schemas.reading import Reading


class AskView(NamedTuple):
    """Ask (LIST) after this execution; the answer goes to `History.named`."""

    execution: bytes


class Complete(NamedTuple):
    """All before the snapshot was handed over."""


Instruction = Message | Batch | Missed | AskView | Complete

_NOT_THERE = "the broker's journal does not have them"


class History:
    """One reading through the past, up to a snapshot."""

    def __init__(self, since: float, wanted: Filter, new_request: Callable[[], int]) -> None:
        """From Unix time `since` on."""
        self._filter = wanted
        channels = [channel.text for channel in sorted(wanted.followed)]
        execution = wanted.execution or NO_EXECUTION
        self._reading = Reading(new_request, CREDIT_BYTES, execution, since=since, channels=channels)
        self._waiting: deque[tuple[Header, bytes]] = deque()
        self._ended = False
        self._asked: bytes | None = None
        self._heard_at = 0.0
        self._again_at: float | None = None  # when to READ once more
        self._views: dict[bytes, View | None] = {}  # None: not wanted
        self._positions: dict[bytes, dict[Channel, int]] = {}
        self._heads: Mapping[bytes, Mapping[Channel, int]] = {}
        self._sequence = self._through = 0
        self.complete = False
        """Whether all was handed over."""

    @property
    def request(self) -> int:
        """Of the READ that stands now."""
        return self._reading.request

    def begin(
        self,
        views: Mapping[bytes, View],
        heads: Mapping[bytes, Mapping[Channel, int]],
        sequence: int,
        through: int,
        now: float,
    ) -> list[Instruction]:
        """There is a snapshot, or another one since the broker was away: read, or read on, up to there.

        `sequence` and `through` are those of `joining.Listed`.
        """
        for execution, view in views.items():
            self._learn(execution, view)
        self._heads, self._sequence, self._through = heads, sequence, through
        return [self._read(now)]

    def events(self, header: Header, body: bytes, now: float) -> list[Instruction]:
        """EVENTS of the READ."""
        if self.complete:
            return []  # it was under way when we said CLOSE
        self._heard_at = now
        self._waiting.append((header, body))
        return self._hand_over()

    def end(self) -> list[Instruction]:
        """END of the READ."""
        self._ended = True
        return self._hand_over()

    def put_off(self, now: float) -> None:
        """The READ was refused, but only for now."""
        self._again_at = now + ANSWER_S

    def named(self, execution: bytes, view: View | None, now: float) -> list[Instruction]:
        """The answer to AskView; no view if it is not wanted or not known any more."""
        self._heard_at = now
        self._learn(execution, view)
        return self._hand_over()

    def tick(self, now: float) -> list[Instruction]:
        """To be called about every second: asks again for what was refused, and for a name that did not come.

        Silence of the READ means nothing: the broker may be looking through a large journal. If it is restarted, there
        is another snapshot, and `begin`.
        """
        if self._again_at is not None and now >= self._again_at:
            return [self._read(now)]
        if self._waiting and self._asked is not None and now - self._heard_at > ANSWER_S:
            self._heard_at = now
            return [AskView(self._asked)]
        return []

    def _read(self, now: float) -> Message:
        self._waiting.clear()
        self._ended, self._asked, self._heard_at, self._again_at = False, None, now, None
        return self._reading.begin()

    def _learn(self, execution: bytes, view: View | None) -> None:
        self._asked = None if self._asked == execution else self._asked
        self._views[execution] = view
        if len(self._views) > OBSERVED_EXECUTIONS:
            oldest = next(iter(self._views))
            del self._views[oldest]
            self._positions.pop(oldest, None)

    def _hand_over(self) -> list[Instruction]:
        out: list[Instruction] = []
        while self._waiting:
            header, body = self._waiting[0]
            if header.sequence > self._through:
                self._waiting.clear()
                self._ended = True
                out.append(self._reading.close())
                break
            if header.execution not in self._views:
                if self._asked != header.execution:
                    self._asked = header.execution
                    out.append(AskView(header.execution))
                return out
            self._waiting.popleft()
            out += self._given(header, body)
            out += self._reading.took(header, len(body))
        if self._ended and not self.complete:
            self.complete = True
            out += [*self._seam(), Complete()]
        return out

    def _given(self, header: Header, body: bytes) -> list[Instruction]:
        view, last = self._views[header.execution], header.position + header.count - 1
        heads, channel = self._heads.get(header.execution), Channel(header.channel)
        known = header.sequence <= self._sequence if heads is None else last <= heads.get(channel, 0)
        if view is None or not known:
            return []
        positions = self._positions.setdefault(header.execution, {})
        before = positions.get(channel, header.position - 1)
        positions[channel] = last
        return [*self._missed(view, channel, before, header.position), Batch(header, view, body)]

    def _missed(self, view: View, channel: Channel, before: int, position: int) -> list[Instruction]:
        if position <= before + 1 or channel not in self._filter.channels:
            return []
        return [Missed(view, channel, before + 1, position - 1, _NOT_THERE)]

    def _seam(self) -> list[Instruction]:
        """What is missing between the last that was read and the snapshot's heads."""
        out: list[Instruction] = []
        for execution, positions in self._positions.items():
            view, heads = self._views.get(execution), self._heads.get(execution, {})
            for channel, last in positions.items():
                if view is not None and channel in heads:
                    out += self._missed(view, channel, last, heads[channel] + 1)
        return out
