"""An execution once more, from the journal: whole, each event once, in the journal's order.

from theorbo.observer import replay

for item in replay("0195…"):
    print(item.header.time, item.event)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from theorbo.observer.filters import Filter
from theorbo.observer.reading import JournalReader
from theorbo.observer.tally import Tally
from theorbo.observer.values import Observation, names_of
from theorbo.schemas.choosing import View, chosen
from theorbo.schemas.link import Link, open_link
from theorbo.schemas.presentation import kind_of, single_events


def replay(
    execution: str,
    broker: str | None = None,
    *,
    kinds: Iterable[str] | None = None,
    channels: Iterable[str] | None = None,
) -> Iterator[Observation]:
    """Every event of an execution that the journal has; of one that has not ended, what there is so far.

    `execution` is an id, or enough digits of it; `broker` is a connection file, as of `watch`. The order is that of
    the journal, over all channels. Raises UsageError, Refused, ProtocolError or Unavailable.
    """
    link = open_link(broker)
    try:
        view = chosen(link, execution)
        yield from Replay(link, view, Filter.of(execution=str(view["execution"]), kinds=kinds, channels=channels))
    finally:
        link.close()


class Replay:
    """What `replay` is made of, for those who want it paced or verified."""

    def __init__(self, link: Link, view: View, wanted: Filter, *, pace: Pace | None = None, tally: Tally | None = None):
        """`view` is the execution's, as `chosen` gives it; a `tally` (whole) counts also what is not wanted."""
        self._view = view
        self._filter = wanted
        self._pace = pace
        self._tally = tally
        followed = wanted.followed if tally else wanted.channels
        names = [channel.text for channel in sorted(followed)]
        self._reader = JournalReader(link, bytes.fromhex(str(view["execution"])), after=0, channels=names)

    def __iter__(self) -> Iterator[Observation]:
        names = names_of(self._view)
        for header, body in self._reader.batches():
            if self._tally:
                self._tally.batch(header, body)
            if self._pace and (pause_s := self._pace.pause_s(header.time, time.monotonic())) > 0:
                self._reader.rest(pause_s)
            for own, event in single_events(header, body):
                if self._filter.wants(own.channel, kind_of(event)):
                    yield Observation(own, names, event)
        if self._tally:
            self._tally.heads(self._view)


class Pace:
    """When each event is due. Pure. The journal's times are those of commits, and what was committed together is due
    together.

    `speed` 2 is twice as fast as it was. With `longest_s` no pause lasts longer; what follows comes so much earlier.
    """

    def __init__(self, speed: float, longest_s: float | None = None) -> None:
        self._speed = speed
        self._longest_s = longest_s
        self._former: float | None = None
        self._due = 0.0

    def pause_s(self, journaled: float, now: float) -> float:
        """How long to wait before what was committed at `journaled`. A clock that was set back means no wait."""
        if self._former is None:
            self._due = now
        else:
            pause = max(0.0, journaled - self._former) / self._speed
            self._due += pause if self._longest_s is None else min(pause, self._longest_s)
        self._former = journaled
        return max(0.0, self._due - now)
