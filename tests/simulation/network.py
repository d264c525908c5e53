"""The network between clients and the broker, as ZMTP over TCP behaves: in order within a connection until it breaks.

A `Dealer` is a client's socket: libzmq connects it again by itself, each time as another peer of the ROUTER. A
`Subscriber` is a SUB socket. Both keep what was not yet written to a connection; what was written and had not arrived
when the connection broke is lost, as a suffix of it. What had arrived at the broker's end of an old connection may be
read after what came by a new one: that is how messages get out of order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from theorbo.schemas.frames import Message

from .scheduler import Process, Scheduler

if TYPE_CHECKING:
    from .broker_party import BrokerParty

ZMTP_TIMEOUT_S = 10.0
"""After this long without anything both ends of a connection give it up (ZMQ_HEARTBEAT_TIMEOUT of `link.configure`)."""

QUEUE_MESSAGES = 60
"""High-water mark of the ROUTER per peer, and of a client's socket: small, so that it is reached."""

LIVE_MESSAGES = 20
"""High-water mark of the XPUB per subscriber."""


class Pipe:
    """One direction of a connection: first in, first out."""

    def __init__(self, network: Network, deliver: Callable[[Any], None]) -> None:
        self._network = network
        self._deliver = deliver
        self._items: deque[tuple[float, Any]] = deque()
        self._pumping = False
        self.stalled_until = 0.0
        self.open = True
        self.swallows = False
        """A black hole: nobody is told that nothing arrives."""

    def __len__(self) -> int:
        return len(self._items)

    def push(self, item: Any) -> None:
        if self.open and not self.swallows:
            self._items.append((self._network.scheduler.now + self._network.latency_s(), item))
            self._pump_later()

    def lose_suffix(self, count: int) -> int:
        """What was sent last will not arrive."""
        lost = min(count, len(self._items))
        for _ in range(lost):
            self._items.pop()
        return lost

    def _pump_later(self) -> None:
        if self._items and not self._pumping:
            self._pumping = True
            due = max(self._items[0][0], self.stalled_until)
            self._network.scheduler.after(max(0.0, due - self._network.scheduler.now), self._pump)

    def _pump(self) -> None:
        self._pumping = False
        now = self._network.scheduler.now
        while self._items and self._items[0][0] <= now and self.stalled_until <= now:
            self._deliver(self._items.popleft()[1])
        self._pump_later()


class Connection:
    """One TCP connection of one socket; `peer` is its routing id at the broker."""

    def __init__(self, network: Network, socket: Socket, broker: BrokerParty) -> None:
        self.network = network
        self.socket = socket
        self.broker = broker
        self.peer = b"peer-%d" % network.next_number()
        self.known = True
        """Whether the broker's end is open, as far as the broker can tell."""
        self.topics: set[bytes] = set()
        self.up = Pipe(network, self._arrived_up)
        self.down = Pipe(network, self._arrived_down)

    def _arrived_up(self, item: Any) -> None:
        if self.broker.alive:
            self.broker.arrived(self, item)

    def _arrived_down(self, item: Any) -> None:
        if self.socket.process.alive and not self.socket.closed:
            self.socket.arrived(item)

    @property
    def full(self) -> bool:
        return len(self.down) + len(self.socket.unread) >= self.socket.high_water_mark

    def stall(self, until: float) -> None:
        self.up.stalled_until = max(self.up.stalled_until, until)
        self.down.stalled_until = max(self.down.stalled_until, until)

    def close(self, *, lost_up: int, lost_down: int) -> None:
        """The connection is over; the last messages under way on each side do not arrive."""
        self.up.open = self.down.open = self.known = False
        self.up.lose_suffix(lost_up)
        self.down.lose_suffix(lost_down)
        if self in self.network.connections:
            self.network.connections.remove(self)
        if self.socket.connection is self:
            self.socket.connection = None
            self.socket.connect_later()


class Socket:
    """What a client's DEALER and SUB have in common: an address, a connection, and what was received and not read."""

    def __init__(self, network: Network, process: Process, address: str, high_water_mark: int) -> None:
        self.network = network
        self.process = process
        self.address = address
        self.high_water_mark = high_water_mark
        self.connection: Connection | None = None
        self.unread: deque[Any] = deque()
        self.closed = False
        self.on_readable: Callable[[], None] = lambda: None
        self._connect()

    def arrived(self, item: Any) -> None:
        self.unread.append(item)
        self.process.run(self.on_readable)

    def take(self) -> list[Any]:
        taken = list(self.unread)
        self.unread.clear()
        return taken

    def connect_later(self) -> None:
        if not self.closed and self.process.alive:
            self.network.scheduler.after(self.network.scheduler.chance.uniform(0.1, 0.6), self._connect)

    def _connect(self) -> None:
        if self.closed or not self.process.alive or self.connection:
            return
        broker = self.network.listening(self.address, self.process)
        if broker is None:
            self.connect_later()
            return
        self.connection = Connection(self.network, self, broker)
        self.network.connections.append(self.connection)
        self.connected(self.connection)

    def connected(self, connection: Connection) -> None:
        raise NotImplementedError

    def close_lingering(self) -> None:
        """What was said before is still sent."""
        self.closed = True
        if self.connection:
            connection = self.connection
            self.network.scheduler.after(0.5, lambda: connection.close(lost_up=0, lost_down=0))

    def close(self) -> None:
        """Or the process is killed: what the kernel has already may still arrive, long after its successor's HELLO."""
        self.closed = True
        if self.connection:
            connection, chance = self.connection, self.network.scheduler.chance
            if chance.random() < 0.3:
                connection.up.stalled_until = self.network.scheduler.now + chance.uniform(0.5, 6.0)
            connection.close(lost_up=chance.randrange(len(connection.up) + 1), lost_down=len(connection.down))


class Dealer(Socket):
    def __init__(self, network: Network, process: Process, address: str) -> None:
        self._unwritten: deque[Message] = deque()
        super().__init__(network, process, address, QUEUE_MESSAGES)

    def send(self, message: Message) -> bool:
        """False if the queue is full."""
        if self.connection:
            if len(self.connection.up) >= QUEUE_MESSAGES:
                self.network.count("client's queue full")
                return False
            self.connection.up.push(message)
        elif len(self._unwritten) >= QUEUE_MESSAGES:
            self.network.count("client's queue full")
            return False
        else:
            self._unwritten.append(message)
        return True

    def connected(self, connection: Connection) -> None:
        while self._unwritten:
            connection.up.push(self._unwritten.popleft())


class Subscriber(Socket):
    def __init__(self, network: Network, process: Process, address: str, topics: set[bytes]) -> None:
        self.topics = topics
        super().__init__(network, process, address, LIVE_MESSAGES)

    def subscribe(self, topic: bytes) -> None:
        self.topics.add(topic)
        if self.connection:
            self.connection.up.push((True, topic))

    def unsubscribe(self, topic: bytes) -> None:
        self.topics.discard(topic)
        if self.connection:
            self.connection.up.push((False, topic))

    def connected(self, connection: Connection) -> None:
        topics = sorted(self.topics)  # libzmq has an order of its own
        self.network.scheduler.chance.shuffle(topics)
        for topic in topics:
            connection.up.push((True, topic))


class Network:
    """All connections, and who can reach whom."""

    def __init__(self, scheduler: Scheduler, count: Callable[[str], None]) -> None:
        self.scheduler = scheduler
        self.count = count
        self.connections: list[Connection] = []
        self.slow_s = 0.0
        """Added to each latency."""
        self._brokers: dict[str, BrokerParty] = {}
        self._cut_until: dict[str, float] = {}
        self._number = 0

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def latency_s(self) -> float:
        return self.scheduler.chance.uniform(0.0002, 0.004) + self.slow_s

    def listen(self, address: str, broker: BrokerParty) -> None:
        self._brokers[address] = broker

    def listening(self, address: str, client: Process) -> BrokerParty | None:
        broker = self._brokers.get(address)
        reachable = self._cut_until.get(client.name, 0.0) <= self.scheduler.now
        return broker if broker and broker.alive and reachable else None

    def of(self, client: str) -> list[Connection]:
        return [connection for connection in self.connections if connection.socket.process.name == client]

    def of_broker(self, broker: BrokerParty) -> list[Connection]:
        return [connection for connection in self.connections if connection.broker is broker]

    # --- faults ----------------------------------------------------------------------------------

    def break_connections(self, client: str) -> int:
        """What is on the way is lost from somewhere on; what is before that still arrives, perhaps late."""
        chance = self.scheduler.chance
        mine = self.of(client)
        for connection in mine:
            late = chance.random() < 0.4
            if late:  # it lies in the broker's host, and is read after what comes by the next connection
                connection.up.stalled_until = self.scheduler.now + chance.uniform(0.5, 3.0)
            connection.close(
                lost_up=chance.randrange(len(connection.up) + 1), lost_down=chance.randrange(len(connection.down) + 1)
            )
        return len(mine)

    def half_open(self, client: str, *, up: bool, down: bool) -> int:
        """Nothing arrives any more, and nobody is told; libzmq's own heartbeats find out."""
        mine = self.of(client)
        for connection in mine:
            connection.up.swallows |= up
            connection.down.swallows |= down
            lost = {"lost_up": len(connection.up) if up else 0, "lost_down": len(connection.down) if down else 0}
            self.scheduler.after(ZMTP_TIMEOUT_S, self._give_up, connection, lost)
        return len(mine)

    def _give_up(self, connection: Connection, lost: dict[str, int]) -> None:
        if connection in self.connections:
            connection.close(**lost)

    def cut(self, client: str, seconds: float) -> int:
        """Nothing passes for so long. TCP sends a short cut's messages later; after a long one all are lost."""
        now = self.scheduler.now
        mine = self.of(client)
        self._cut_until[client] = max(self._cut_until.get(client, 0.0), now + seconds)
        for connection in mine:
            connection.stall(now + seconds)
            if seconds >= ZMTP_TIMEOUT_S:
                self.scheduler.after(ZMTP_TIMEOUT_S, self._lose_all, connection)
        return 1

    def _lose_all(self, connection: Connection) -> None:
        if connection in self.connections:
            connection.close(lost_up=len(connection.up), lost_down=len(connection.down))
