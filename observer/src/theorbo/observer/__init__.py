"""Clients that watch: see `watch` and `watch_async`."""

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

__all__ = ["BrokerAway", "BrokerBack", "Item", "Missed", "Observation", "Snapshot", "watch", "watch_async"]
