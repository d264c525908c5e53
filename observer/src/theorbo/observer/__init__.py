"""Clients that watch: see `watch`, `watch_async` and `replay`."""

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

__all__ = ["BrokerAway", "BrokerBack", "Item", "Missed", "Observation", "Snapshot", "replay", "watch", "watch_async"]
