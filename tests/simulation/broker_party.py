"""The broker in the simulator: the real core, between the simulated network and the simulated disk."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any

from theorbo.broker.core import Core
from theorbo.broker.values import (
    Append,
    Batch,
    Confirm,
    FindViews,
    Keep,
    Note,
    Publish,
    ReadChunk,
    ReadJournal,
    Recall,
    Recalled,
    Received,
    Refer,
    Send,
    SetAside,
    StoreChunk,
    Subscribed,
    Tick,
    Unsent,
)
from theorbo.schemas.frames import Command, Message
from theorbo.schemas.limits import HEARTBEAT_S
from theorbo.schemas.records import split_body

from .journal import Writer
from .network import Connection, Subscriber
from .scheduler import Host, Process

if TYPE_CHECKING:
    from .world import World


class BrokerParty(Process):
    """One life of the broker, from its start to its death."""

    def __init__(self, world: World, host: Host, address: str) -> None:
        super().__init__(world.scheduler, host, "broker")
        self._world = world
        self._disk = world.disk
        self._writer = Writer(world.disk, self, self._handle)
        self._peers: dict[bytes, Connection] = {}
        self._subscribers: dict[bytes, Connection] = {}
        self._heard: dict[str, float] = {}
        """When a process was last heard, by a clock that nobody sets; not what came to a broker that did not know it,
        which tells it to say HELLO first: it may be the last words of a dead one, from before a restart."""
        self._reads: deque[ReadJournal] = deque()
        self.address = address
        self._started_at = self.now
        self.core = Core(self._disk.identity, self._disk.last_sequence, self.wall)
        for execution in self._disk.open_executions():
            self._handle(Recalled(execution, self._disk.recall(execution)))
        world.network.listen(address, self)
        self.after(HEARTBEAT_S, self._tick)

    # --- what happens ----------------------------------------------------------------------------

    def arrived(self, connection: Connection, item: Any) -> None:
        self.run(self._take, connection, item)

    def _take(self, connection: Connection, item: Any) -> None:
        if isinstance(connection.socket, Subscriber):
            wanted, topic = item
            self._subscribers[connection.peer] = connection
            if wanted:
                connection.topics.add(topic)
                self._handle(Subscribed(topic))
            else:
                connection.topics.discard(topic)
            return
        self._peers[connection.peer] = connection
        if item.command == Command.HELLO or self.core._peers.sessions.get(connection.peer):
            self._heard[connection.socket.process.name] = self.now
        if self._world.story.told:
            self._world.story.told_message(f"{connection.socket.process} {connection.peer.decode()}", item)
        if item.command in (Command.READ, Command.CREDIT):
            self._world.checks.wished(connection.peer, item)
        self._handle(Received(connection.peer, "alice", list(item.encode())))

    def _tick(self) -> None:
        self.after(HEARTBEAT_S, self._tick)
        for peers in (self._peers, self._subscribers):
            for peer in [peer for peer, connection in peers.items() if not connection.known]:
                del peers[peer]
        self._handle(Tick())
        self._world.checks.bounded_broker(self.core)

    def _handle(self, it: Any) -> None:
        self._do(self.core.handle(it, self.wall))

    def _do(self, instructions: list[Any]) -> None:
        items: list[Any] = []
        full: set[bytes] = set()
        for it in instructions:
            match it:
                case Send():
                    self._send(it, full)
                case Publish():
                    self._publish(it)
                case Append(batch) if b'"agent_given_up"' in batch.body:
                    self._gives_up(batch)
                    items.append(it)
                case Append() | Keep() | Refer() | Confirm() | SetAside():
                    items.append(it)
                case ReadJournal():
                    self._reads.append(it)
                    self.after(self.scheduler.chance.uniform(0.0, 0.002), self._read)
                case FindViews():
                    self._handle(self._disk.find(it))
                case Recall():
                    self._handle(Recalled(it.execution, self._disk.recall(it.execution), it.retry))
                case StoreChunk():
                    self.after(self.scheduler.chance.uniform(0.0, 0.01), self._store, it)
                case ReadChunk():
                    self.after(0.001, self._read_chunk, it)
                case Note():
                    if self._world.story.told:
                        self._world.story.tell("broker", f"{it.text} {it.fields}")
        if items:
            self._writer.submit(items)

    def _gives_up(self, batch: Batch) -> None:
        for text in split_body(batch.body):
            event = json.loads(text)
            if event["kind"] == "agent_given_up":
                name = f"agent-{batch.execution[0] - 1}-{event['node']}"
                self._world.checks.gives_up(event["node"], self.now - self._heard.get(name, self._started_at))

    def _read(self) -> None:
        if self._reads:
            self._handle(self._disk.read(self._reads.popleft(), self.core.committed_sequence))

    def _store(self, it: StoreChunk) -> None:
        self._handle(self._disk.store(it))

    def _read_chunk(self, it: ReadChunk) -> None:
        self._handle(self._disk.read_chunk(it))

    # --- what leaves -----------------------------------------------------------------------------

    def _send(self, it: Send, full: set[bytes]) -> None:
        self._world.checks.sent(it.message)
        if self._world.story.told:
            self._world.story.told_message(f"broker to {it.peer.decode()}", it.message)
        connection = self._peers.get(it.peer)
        if connection is None or not connection.known:
            self._handle(Unsent(it.peer, it.message, gone=True))
        elif (it.peer in full and it.message.command in (Command.EVENTS, Command.END)) or connection.full:
            full.add(it.peer)
            self._world.count("send queue full")
            self._handle(Unsent(it.peer, it.message, gone=False))
        else:
            connection.down.push(it.message)
            if it.message.command == Command.EVENTS:
                self._world.checks.given(it.peer, it.message)
            if it.message.command == Command.ACK:
                process = connection.socket.process
                self._world.acknowledgements.setdefault(process, deque(maxlen=4)).append(it.message)

    def _publish(self, it: Publish) -> None:
        message = Message(it.topic, it.header, it.body)
        self._world.checks.published(message)
        for connection in self._subscribers.values():
            if connection.known and any(it.topic.startswith(topic) for topic in connection.topics):
                if connection.full or self._world.drops_live(connection.socket.process.name):
                    self._world.count("live message dropped")
                else:
                    connection.down.push(message)

    # --- the end ---------------------------------------------------------------------------------

    def kill(self) -> None:
        """kill -9: what was committed stays."""
        self._writer.crash()
        super().kill()
        for connection in self._world.network.of_broker(self):
            chance = self.scheduler.chance
            connection.close(lost_up=len(connection.up), lost_down=chance.randrange(len(connection.down) + 1))
