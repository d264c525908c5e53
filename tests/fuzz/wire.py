"""What the tests of live sockets are made of: raw bytes, a proxy that records or damages, and a bystander."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.broker.talk import submitted
from tests.broker.test_server import RANK, lines
from theorbo.schemas.connection import Connection
from theorbo.schemas.names import Channel

DEADLINE_S = 20.0

GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x01"
"""The first 12 bytes of ZMTP 3.1; mechanism, role and padding follow (RFC 37)."""

FLIP_EVERY_BYTES = 1200
"""The hand-shake takes half of it, the link's HELLO comes next. A bit in the padding of ZMTP's greeting or of CURVE's
HELLO, a tenth of it, harms nobody; all but a few bits later on are authenticated."""

MEMORY_MIB = 48
"""What a broker's resident memory may grow by while it is pestered: connections are buffers of libzmq."""


def greeting(mechanism: bytes) -> bytes:
    return GREETING + mechanism.ljust(20, b"\x00") + b"\x00" + bytes(31)


def command_frame(name: bytes, data: bytes = b"") -> bytes:
    body = bytes([len(name)]) + name + data
    return b"\x04" + bytes([len(body)]) + body


TLS_CLIENT_HELLO = bytes.fromhex(
    "16030100a5010000a10303000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20e0e1e2e3e4e5e6e7e8e9eaeb"
    "ecedeeeff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff0008130213031301c02c0100"
)

OPENINGS: dict[str, bytes] = {
    "nothing": b"",
    "HTTP": b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
    "TLS": TLS_CLIENT_HELLO,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeroes": bytes(5000),
    "ones": b"\xff" * 5000,
    "half a greeting": GREETING,
    "a greeting of ZMTP 1": b"\x01\x00\x05HELLO",
    "a greeting of ZMTP 2": b"\xff" + bytes(7) + b"\x01\x7f\x01\x05\x00\x00",
    "a mechanism that is none": greeting(b"KERBEROS"),
    "NULL": greeting(b"NULL") + command_frame(b"READY", b"\x0bSocket-Type\x00\x00\x00\x06DEALER"),
    "PLAIN": greeting(b"PLAIN") + command_frame(b"HELLO", b"\x05admin\x05admin"),
    "CURVE and no more": greeting(b"CURVE"),
    "CURVE and a wrong HELLO": greeting(b"CURVE") + command_frame(b"HELLO", b"\x01\x00" + bytes(192)),
    "CURVE and INITIATE at once": greeting(b"CURVE")
    + b"\x06"
    + (400).to_bytes(8, "big")
    + b"\x08INITIATE"
    + bytes(391),
    "a frame of 2^63 bytes": greeting(b"CURVE") + b"\x06" + (2**63).to_bytes(8, "big") + b"x" * 1000,
    "a frame of 4 GiB": greeting(b"NULL") + b"\x02" + (2**32).to_bytes(8, "big") + b"x" * 1000,
}
"""What a connection may begin with that is no conversation."""


def dial(address: str) -> socket.socket:
    """A raw connection to a `tcp://` or `ipc://` address."""
    kind, _, place = address.partition("://")
    if kind == "ipc":
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(place)
        return raw
    host, _, port = place.rpartition(":")
    return socket.create_connection((host, int(port)), DEADLINE_S)


def say(raw: socket.socket, data: bytes) -> None:
    """Send, though the other side may have hung up already."""
    with contextlib.suppress(OSError):
        raw.sendall(data)


def closed_by_broker(raw: socket.socket) -> bool:
    """Wait until the broker hangs up."""
    raw.settimeout(DEADLINE_S)
    try:
        while raw.recv(65_536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


class Usage:
    """Memory and descriptors of a process."""

    def __init__(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        self.memory_mib = int(status.split("VmRSS:")[1].split()[0]) / 1024
        self.descriptors = len(os.listdir(f"/proc/{pid}/fd"))


class Bystander(threading.Thread):
    """A well-behaved Executor: reports a line, waits until it is acknowledged, and so on; each wait is measured."""

    def __init__(self, connection_file: Path) -> None:
        super().__init__(name="bystander")
        self._connection_file = connection_file
        self._stop_wanted = threading.Event()
        self.waits_s: list[float] = []
        self.execution = b""
        self.problem = ""

    def run(self) -> None:
        try:
            with submitted(self._connection_file) as talk:
                self.execution = talk.execution
                while not self._stop_wanted.is_set():
                    begin = time.monotonic()
                    number = len(self.waits_s) + 1
                    talk.put_and_wait(RANK, Channel.LOG, number, *lines(number, 1))
                    self.waits_s.append(time.monotonic() - begin)
                    talk.heard.clear()
        except Exception as error:  # shown by the test
            self.problem = repr(error)

    def steps(self, more: int) -> None:
        """Wait until that many more waits are over."""
        wanted, deadline = len(self.waits_s) + more, time.monotonic() + DEADLINE_S
        while len(self.waits_s) < wanted and self.is_alive():
            assert time.monotonic() < deadline, "the bystander is held up"
            self.join(0.01)
        assert not self.problem, self.problem

    def stop(self) -> None:
        self._stop_wanted.set()
        self.join(DEADLINE_S)


@contextlib.contextmanager
def undisturbed(connection_file: Path, pid: int, *, wait_s: float = 5.0) -> Iterator[Bystander]:
    """While the body pesters the broker another client's conversation goes on, and afterwards nothing is left."""
    bystander = Bystander(connection_file)
    bystander.start()
    bystander.steps(20)
    before = Usage(pid)
    try:
        yield bystander
        bystander.steps(20)
    finally:
        bystander.stop()
    assert not bystander.problem
    assert max(bystander.waits_s) < wait_s
    deadline = time.monotonic() + DEADLINE_S
    while (after := Usage(pid)).descriptors > before.descriptors + 4:
        assert time.monotonic() < deadline, f"{after.descriptors} descriptors, {before.descriptors} before"
        select.select([], [], [], 0.05)
    assert after.memory_mib < before.memory_mib + MEMORY_MIB


class Proxy(threading.Thread):
    """Between a client and a TCP port: passes bytes on, records what the client says, flips bits in it."""

    def __init__(self, address: str, *, flips: int = 0, seed: int = 0, first_at: int | None = None) -> None:
        """Until so many connections have ended of it, `flips`, a bit is flipped in what the client says, somewhere in
        each `FLIP_EVERY_BYTES`; in the first connection it begins at byte `first_at`.
        """
        super().__init__(name="proxy", daemon=True)
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._target = (host, int(port))
        self._chance = Random(seed)
        self._flips = flips
        self._flip_at: dict[int, int] = {} if first_at is None else {0: first_at}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.recorded: list[bytearray] = []
        """By connection."""
        self.flipped: dict[int, list[int]] = {}
        """At which bytes, by connection."""
        self.broken = 0
        """Connections that have ended after a bit was flipped."""
        self._wake, self._waker = socket.socketpair()

    def run(self) -> None:
        links: dict[socket.socket, tuple[socket.socket, int | None]] = {}  # other end, and number of the connection
        while True:
            ready, _, _ = select.select([self._wake, self._listener, *links], [], [])
            if self._wake in ready:
                break
            for here in ready:
                if here is self._listener:
                    client, _ = self._listener.accept()
                    server = socket.create_connection(self._target)
                    number = len(self.recorded)
                    self.recorded.append(bytearray())
                    links[client], links[server] = (server, number), (client, None)
                elif here in links:
                    self._pass(here, links)
        for each in (*links, self._listener, self._wake):
            each.close()

    def _pass(self, here: socket.socket, links: dict[socket.socket, tuple[socket.socket, int | None]]) -> None:
        there, number = links[here]
        data = b""
        with contextlib.suppress(OSError):
            data = here.recv(65_536)
        if data and number is not None:
            begin = len(self.recorded[number])
            self.recorded[number] += data
            if self.broken < self._flips:
                data = self._damaged(number, begin, data)
        try:
            if data:
                there.sendall(data)
                return
        except OSError:
            pass
        self.broken += (links[there][1] if number is None else number) in self.flipped
        for each in (here, there):
            del links[each]
            each.close()

    def _damaged(self, number: int, begin: int, data: bytes) -> bytes:
        """What comes at byte `begin` of a connection, with a bit flipped if it is time."""
        damaged = bytearray(data)
        while (at := self._flip_at.setdefault(number, self._chance.randrange(FLIP_EVERY_BYTES))) < begin + len(data):
            damaged[at - begin] ^= 1 << self._chance.randrange(8)
            self.flipped.setdefault(number, []).append(at)
            self._flip_at[number] = (
                at - at % FLIP_EVERY_BYTES + FLIP_EVERY_BYTES + self._chance.randrange(FLIP_EVERY_BYTES)
            )
        return bytes(damaged)

    def close(self) -> None:
        self._waker.send(b"x")
        self.join(DEADLINE_S)
        self._waker.close()


@contextlib.contextmanager
def through_proxy(connection_file: Path, place: Path, **faults: int) -> Iterator[tuple[Path, Proxy]]:
    """A connection file by which clients come through a proxy, and the proxy, which has `faults`."""
    connection = Connection.load(connection_file)
    proxy = Proxy(connection.router[0], **faults)
    proxy.start()
    try:
        connection._replace(router=(proxy.address,)).save(place)
        yield place, proxy
    finally:
        proxy.close()
