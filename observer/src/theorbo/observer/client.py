"""Watching from a program: first what there is, then every event that follows, once and in order.

    from theorbo.observer import watch, Observation

    for item in watch(experiment="mfx1", kinds=["result"]):
        if isinstance(item, Observation):
            print(item.view["task"], item.event)

`watch` is for threads and scripts, `watch_async` for asyncio; both are thin skins around a `Watcher`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from theorbo.observer.filters import Filter
from theorbo.observer.values import BrokerAway, BrokerBack, BrokerTrouble, Item, Missed, Observation, Policy, Snapshot
from theorbo.observer.watcher import Watcher

__all__ = [
    "BrokerAway", "BrokerBack", "BrokerTrouble", "Item", "Missed", "Observation", "Snapshot", "Watcher", "watch",
    "watch_async",
]  # fmt: skip


def watch(
    broker: str | None = None,
    *,
    experiment: str | None = None,
    run: str | None = None,
    task: str | None = None,
    execution: str | None = None,
    kinds: Iterable[str] | None = None,
    channels: Iterable[str] | None = None,
    until_ended: bool = False,
    policy: Policy = "complete",
    since: float | None = None,
) -> Iterator[Item]:
    """A Snapshot of the open executions that fit, then every event that follows, in order, once.

    `broker` is a connection file; without it see `theorbo.schemas.link.open_link`. Names are compared exactly.
    `execution` is a full id. With `until_ended` the iteration ends when the named execution (else: all
    that were seen, at least one) has ended and all of its events were handed over.

    The order holds within one channel of an execution. Events of kinds that are not wanted are left out,
    gaps that could not be repaired are told as `Missed`. A reader that is slow loses live messages: with the policy
    `complete` it gets them from the journal, with `latest` they are told as `Missed` and it stays close to now.

    With `since` (Unix time) the events that the journal has from then on come first, in the journal's order, then the
    Snapshot, then what follows.

    Raises UsageError, Refused, ProtocolError or Unavailable as `open_link` does. Closing the iterator
    closes the connections.
    """
    wanted = Filter.of(experiment, run, task, execution, kinds, channels)
    with Watcher(broker, wanted, until_ended=until_ended, policy=policy, since=since) as watcher:
        while not watcher.finished:
            yield from watcher.collect()
            if not watcher.finished:
                watcher.wait()


async def watch_async(
    broker: str | None = None,
    *,
    experiment: str | None = None,
    run: str | None = None,
    task: str | None = None,
    execution: str | None = None,
    kinds: Iterable[str] | None = None,
    channels: Iterable[str] | None = None,
    until_ended: bool = False,
    policy: Policy = "complete",
    since: float | None = None,
) -> AsyncIterator[Item]:
    """As `watch`, for `async for`. Only finding the broker at the start blocks the event loop, for moments."""
    wanted = Filter.of(experiment, run, task, execution, kinds, channels)
    with Watcher(broker, wanted, until_ended=until_ended, policy=policy, since=since) as watcher:
        while not watcher.finished:
            for item in watcher.collect():
                yield item
            if not watcher.finished:
                await watcher.wait_async()
