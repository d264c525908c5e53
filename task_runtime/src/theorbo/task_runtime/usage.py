"""What the ranks of a node use, from samples of what they have used so far. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from theorbo.schemas.limits import USAGE_RANKS


class RankUse(NamedTuple):
    """Of one rank, over all its processes that live."""

    cpu_s: float
    """Processor time so far, with that of children that were waited for."""
    memory_bytes: int


class Sample(NamedTuple):
    """What is used at a moment."""

    time_s: float
    """By a clock that is never set."""
    ranks: Mapping[int, RankUse]
    node_cpu_s: float
    """Processor time of everything on the node since it was started."""
    node_memory_bytes: int


def usage(before: Sample, now: Sample, quiet: Mapping[int, float]) -> dict[str, Any]:
    """The fields of an event, from two samples, and the seconds for which ranks have been quiet."""
    span_s = max(now.time_s - before.time_s, 1e-9)

    def cores(cpu_s: float, former_s: float) -> float:
        # A child that nobody waits for takes its time along when it ends: then it seems to have run backwards.
        return round(max(0.0, cpu_s - former_s) / span_s, 3)

    nothing = RankUse(0.0, 0)
    by_rank = {rank: cores(use.cpu_s, before.ranks.get(rank, nothing).cpu_s) for rank, use in now.ranks.items()}
    return {
        "cpu": round(sum(by_rank.values()), 3),
        "memory_bytes": sum(use.memory_bytes for use in now.ranks.values()),
        "node_cpu": cores(now.node_cpu_s, before.node_cpu_s),
        "node_memory_bytes": now.node_memory_bytes,
        "ranks": {
            rank: [by_rank[rank], now.ranks[rank].memory_bytes, round(quiet.get(rank, 0.0), 1)]
            for rank in sorted(_listed(now.ranks, quiet))
        },
    }


def _listed(ranks: Mapping[int, RankUse], quiet: Mapping[int, float]) -> set[int]:
    if len(ranks) <= USAGE_RANKS:
        return set(ranks)
    listed = set(sorted(ranks, key=lambda rank: (-quiet.get(rank, 0.0), rank))[: USAGE_RANKS // 2])
    largest = sorted(set(ranks) - listed, key=lambda rank: (-ranks[rank].memory_bytes, rank))
    return listed.union(largest[: USAGE_RANKS - len(listed)])
