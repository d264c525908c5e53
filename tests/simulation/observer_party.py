"""An observer in the simulator: the real Subscription and Splice, on a DEALER and a SUB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from theorbo.observer.filters import Filter
from theorbo.observer.subscription import Subscription
from theorbo.observer.values import Batch, Finished, Missed, Snapshot, Subscribe, Unsubscribe
from theorbo.schemas.frames import Message
from theorbo.schemas.limits import HEARTBEAT_S

from .client import ClientLink
from .network import Subscriber
from .plan import ObserverPlan
from .scheduler import Process

if TYPE_CHECKING:
    from .world import World


class ObserverParty(Process):
    """One life of it: who was killed joins anew."""

    def __init__(self, world: World, number: int, plan: ObserverPlan) -> None:
        super().__init__(world.scheduler, world.host("observers"), f"observer-{number}")
        self.world = world
        self.plan = plan
        self._planned = False
        self.filter = Filter.of(channels=plan.channels)
        self.seen: dict[tuple[bytes, int], int] = {}
        """The last position seen, or told to be missed, by execution and channel; see `Readers.observed`."""
        self.snapshot_sequence = -1
        self._link = ClientLink(world, self, None)
        self.subscription = Subscription(
            self.filter,
            lambda: f"{number}-{world.network.next_number()}",
            self._link.new_request,
            policy=plan.policy,  # type: ignore[arg-type]  # one of the two
        )
        self._topics: set[bytes] = set()
        self._live = self._subscriber()
        self.after(HEARTBEAT_S, self._tick)

    def _subscriber(self) -> Subscriber:
        socket = Subscriber(self.world.network, self, self._link.address, self._topics)
        socket.on_readable = self.on_message
        return socket

    def on_message(self) -> None:
        if not self._planned:
            self._planned = True
            self.after(self.scheduler.chance.uniform(0.0, 0.002), self._turn)

    def _turn(self) -> None:
        self._planned = False
        for message in self._link.receive():
            self._perform(self.subscription.answered(message, self.now))
        for message in self._live.take():
            self._perform(self.subscription.published(message, self.now))

    def _tick(self) -> None:
        self.after(HEARTBEAT_S, self._tick)
        self._link.tick()
        if self._live.address != self._link.address:
            self._live.close()
            self._live = self._subscriber()
        self._perform(self.subscription.tick(self.now))
        self.world.readers.bounded(self)

    def _perform(self, instructions: list[Any]) -> None:
        readers = self.world.readers
        for it in instructions:
            match it:
                case Message():
                    self._link.send(it)
                case Subscribe(topic):
                    self._topics.add(topic)
                    self._live.subscribe(topic)
                case Unsubscribe(topic):
                    self._topics.discard(topic)
                    self._live.unsubscribe(topic)
                case Snapshot():
                    readers.joined(self, it.sequence)
                case Batch(header, _, body) if header.channel in self.filter.channels:
                    readers.observed(self, header, body)
                case Missed(view, channel, first, last, _):
                    readers.missed(self, bytes.fromhex(view["execution"]), channel, first, last)
                case Finished():
                    pass

    def kill(self) -> None:
        super().kill()
        self._link.dealer.close()
        self._live.close()
