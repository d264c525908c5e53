"""A TCP proxy that makes the faults of a network: one listening loopback port, one upstream.

    with Proxy("tcp://127.0.0.1:5580") as proxy:
        connect_to(proxy.address)
        proxy.half_open()

The kernel here has no netem, so faults are made above TCP: what a command calls for happens to all connections
that there are and to those that come, until the next command. A thread of its own runs it; commands return when
they hold. What it holds back is bounded: `QUEUE_CHUNKS` chunks in each direction of each connection, then it stops
to read, and TCP's own windows stop the sender.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import NamedTuple

CHUNK_BYTES = 64 * 1024
QUEUE_CHUNKS = 16
COMMAND_S = 10.0
"""A command that does not hold by then has failed."""


class Way(enum.Enum):
    """A direction, as the client sees it."""

    UP = "to the upstream"
    DOWN = "from the upstream"


class Faults(NamedTuple):
    """What happens to bytes on their way. Without arguments: nothing."""

    delay_up_s: float = 0.0
    delay_down_s: float = 0.0
    bytes_per_s: float | None = None
    """In each direction of each connection."""
    silent: bool = False
    """Half-open: connections are accepted and kept, and nothing passes, their ends included."""

    def delay_s(self, way: Way) -> float:
        return self.delay_up_s if way is Way.UP else self.delay_down_s


class Proxy:
    """One proxy. Commands may be given by any thread."""

    def __init__(self, upstream: str) -> None:
        """`upstream` is `tcp://HOST:PORT`. Connects to it once per connection that comes in, and not before."""
        self._upstream = _place(upstream)
        # Bound, never listening: it keeps the port ours while we refuse connections.
        self._holder = _bound(0)
        self._port = self._holder.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self.forwarded = dict.fromkeys(Way, 0)
        """Bytes that have been passed on."""
        self.accepted = 0
        """Connections that have come in, in all."""
        self._faults = Faults()
        self._to_garble = dict.fromkeys(Way, 0)
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {self._port}", daemon=True)
        self._thread.start()
        self._do(self._listen)

    # --- commands -----------------------------------------------------------------------------------

    def pass_all(self) -> None:
        """No faults any more. What was held back by a half-open time passes now."""
        self._set(Faults())

    def delay(self, up_s: float = 0.0, down_s: float = 0.0) -> None:
        """What comes from now on arrives so much later, in order."""
        self._set(Faults(delay_up_s=up_s, delay_down_s=down_s))

    def throttle(self, bytes_per_s: float) -> None:
        """No more than this passes, in each direction of each connection."""
        self._set(Faults(bytes_per_s=bytes_per_s))

    def half_open(self) -> None:
        """Accept and keep connections and pass nothing on, in neither direction, like a router that drops all."""
        self._set(Faults(silent=True))

    def cut(self) -> None:
        """Close all connections that there are. New ones are welcome."""
        self._do(self._close_connections)

    def refuse(self) -> None:
        """Close all connections; the port refuses others, until the next command that lets them pass."""

        async def refuse() -> None:
            await self._stop_listening()
            await self._close_connections()

        self._do(refuse)

    def garble(self, way: Way) -> None:
        """Flip one bit in the middle of the next chunk that passes this way."""

        async def garble() -> None:
            self._to_garble[way] += 1

        self._do(garble)

    def lead_to(self, upstream: str) -> None:
        """Connections that come from now on are led elsewhere."""

        async def lead() -> None:
            self._upstream = _place(upstream)

        self._do(lead)

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def close(self) -> None:
        """Close everything, and end the thread."""
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(COMMAND_S)
        self._loop.close()
        self._holder.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- within the thread ----------------------------------------------------------------------------

    def _do(self, what: Callable[[], Awaitable[None]]) -> None:
        async def done() -> None:
            await what()

        asyncio.run_coroutine_threadsafe(done(), self._loop).result(COMMAND_S)

    def _set(self, faults: Faults) -> None:
        async def change() -> None:
            self._faults = faults
            if faults.silent:
                self._passing.clear()
            else:
                self._passing.set()
            await self._listen()

        self._do(change)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._come, sock=_bound(self._port))

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _close_connections(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._carry(reader, writer)
        except asyncio.CancelledError:
            return  # cut; asyncio's server would log that of a cancelled handler
        finally:
            await _close(writer)
            self._connections.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            return
        tasks = [
            asyncio.ensure_future(step)
            for line in (_Line(self, reader, up_writer, Way.UP), _Line(self, up_reader, writer, Way.DOWN))
            for step in (line.take(), line.give())
        ]
        try:
            # As soon as one side has closed, or failed, the connection is over.
            await asyncio.wait([tasks[1], tasks[3]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await _close(up_writer)

    async def passing(self) -> None:
        """Wait while nothing may pass."""
        await self._passing.wait()

    def faults(self) -> Faults:
        """Those that hold now."""
        return self._faults

    def garbled(self, way: Way, chunk: bytes) -> bytes:
        """The chunk, with a bit flipped if somebody has asked for that."""
        if not self._to_garble[way]:
            return chunk
        self._to_garble[way] -= 1
        middle = len(chunk) // 2
        return chunk[:middle] + bytes([chunk[middle] ^ 0x10]) + chunk[middle + 1 :]


class _Line:
    """One direction of one connection."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        self._proxy, self._reader, self._writer, self._way = proxy, reader, writer, way
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS)

    async def take(self) -> None:
        """Read what arrives; an empty chunk is the end."""
        chunk = b"-"
        while chunk:
            await self._proxy.passing()
            try:
                chunk = await self._reader.read(CHUNK_BYTES)
            except OSError:
                chunk = b""
            await self._queue.put((asyncio.get_running_loop().time(), chunk))

    async def give(self) -> None:
        """Pass it on when its time has come. Ends when the sender, or the receiver, has closed."""
        while True:
            taken_at, chunk = await self._queue.get()
            late_s = taken_at + self._proxy.faults().delay_s(self._way) - asyncio.get_running_loop().time()
            if late_s > 0:
                await asyncio.sleep(late_s)
            rate = self._proxy.faults().bytes_per_s
            if rate is not None:
                await asyncio.sleep(len(chunk) / rate)
            await self._proxy.passing()
            if not chunk:
                return
            self._proxy.forwarded[self._way] += len(chunk)
            try:
                self._writer.write(self._proxy.garbled(self._way, chunk))
                await self._writer.drain()
            except OSError:
                return


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError, asyncio.CancelledError):  # whoever cancels us wants just that
        await writer.wait_closed()


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def _bound(port: int) -> socket.socket:
    found = socket.socket()
    with contextlib.ExitStack() as failing:
        failing.callback(found.close)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(("127.0.0.1", port))
        failing.pop_all()
    return found
