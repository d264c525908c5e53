"""Conservation: of each stream what was reported and what was delivered, as it closes every execution."""

from __future__ import annotations

from collections.abc import Mapping

from theorbo.broker.streams import StreamHead
from theorbo.schemas import events
from theorbo.schemas.limits import CONSERVED_STREAMS
from theorbo.schemas.names import BROKER, Channel, Source, Stream
from theorbo.schemas.outcome import Evidence


def conservation(
    evidence: Evidence, streams: Mapping[tuple[Source, int], StreamHead], now: float
) -> list[events.Conservation]:
    """One event, or several where the streams are very many. Of an agent that was given up nobody knows what it still
    has: its streams count as far as they have come.
    """
    reported = evidence.reported
    heads = {Stream(source, Channel(channel)): head for (source, channel), head in streams.items() if source != BROKER}
    found: dict[str, tuple[int, int]] = {}
    for stream in sorted(reported.keys() | heads.keys()):
        head = heads.get(stream, StreamHead())
        found[str(stream)] = max(reported.get(stream, 0), head.committed), head.delivered
    items = list(found.items())
    starts = range(0, max(1, len(items)), CONSERVED_STREAMS)
    *before, last = (dict(items[start : start + CONSERVED_STREAMS]) for start in starts)
    return [
        *(events.Conservation(time=now, streams=part) for part in before),
        events.Conservation(time=now, streams=last, lost=evidence.lost_events),
    ]
