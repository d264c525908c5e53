"""Clients that watch, and ask for something to be done: see `watch`, `watch_async`, `replay` and `request`."""

from theorbo.observer.client import (
    BrokerAway,
    BrokerBack,
    Item,
    Missed,
    Observation,
    Snapshot,
    watch,
    watch_async,
)
from theorbo.observer.replaying import replay
from theorbo.observer.requesting import RequestOutcome, request

__all__ = [
    "BrokerAway", "BrokerBack", "Item", "Missed", "Observation", "RequestOutcome", "Snapshot", "replay", "request",
    "watch", "watch_async",
]  # fmt: skip
