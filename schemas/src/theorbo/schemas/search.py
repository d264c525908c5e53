"""Finding the broker among the addresses of a connection file: the first that answers a question wins. Needs pyzmq.

A name may stand for several addresses, some of which are not for us (another network, a firewall that drops what
comes), and a name server may be dead. So names are asked for in threads of their own, and addresses are tried one
`STAGGER_S` after the other, until one has answered: a PING goes there and back through ZMTP and CURVE. (HELLO would
not do: an agent or Executor has one conversation at a time, and the second would end the first.)
"""

from __future__ import annotations

import contextlib
import re
import socket as system_socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import zmq

from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import Command, Message, decode_message
from theorbo.schemas.limits import ADDRESSES, NAMES_ASKED, STAGGER_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from theorbo.schemas.connection import Connection

_TCP = re.compile(r"tcp://(\[[^]]*\]|[^:]+):(\d+)")


class Candidate(NamedTuple):
    """An address to try."""

    place: int
    """Of the name it comes from, in the connection file."""
    address: str
    """With numbers, nothing that libzmq would have to look up."""


class Found(NamedTuple):
    """Where a broker has answered."""

    candidate: Candidate
    socket: zmq.Socket[bytes]
    """Connected to it; the finder's own from now on."""


def host_of(address: str) -> str:
    """The host in `tcp://HOST:PORT`, without brackets; empty for anything else."""
    match = _TCP.fullmatch(address)
    return match.group(1).strip("[]") if match else ""


def numeric(address: str) -> bool:
    """Whether nothing has to be looked up for it."""
    host = host_of(address)
    for family in (system_socket.AF_INET, system_socket.AF_INET6):
        try:
            system_socket.inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
        return True
    return not host


def resolved(address: str) -> list[str]:
    """The addresses that a name stands for, in the order of the system's preference. May take long; raises OSError."""
    if numeric(address):
        return [address]
    port = address.rpartition(":")[2]
    hosts = [str(found[4][0]) for found in system_socket.getaddrinfo(host_of(address), int(port), type=_STREAM)]
    return [f"tcp://{f'[{host}]' if ':' in host else host}:{port}" for host in dict.fromkeys(hosts)]


_STREAM = system_socket.SOCK_STREAM


def connect(socket: zmq.Socket[bytes], address: str) -> None:
    """As the socket's own, also for IPv6."""
    if address.startswith("tcp://["):
        socket.setsockopt(zmq.IPV6, 1)
    socket.connect(address)


def live_address(connection: Connection, candidate: Candidate) -> str:
    """Where the live streams are that go with the place where the broker has answered."""
    place = min(candidate.place, len(connection.publisher) - 1)
    publisher = connection.publisher[place]
    if not numeric(publisher) and host_of(publisher) == host_of(connection.router[candidate.place]):
        host = candidate.address.rpartition(":")[0]
        return f"{host}:{publisher.rpartition(':')[2]}"
    return publisher


class Search:
    """One search. Its owner polls `sockets` (and comes back after `STAGGER_S` at the latest) and calls `look`."""

    def __init__(
        self, connection: Connection, open_socket: Callable[[], zmq.Socket[bytes]], *, without: Candidate | None = None
    ) -> None:
        """`open_socket` makes a DEALER with all options. `without` is being tried by the owner already."""
        self._open_socket = open_socket
        self._known = {without.address} if without else set[str]()
        self._waiting: deque[Candidate] = deque()
        self._tried: list[tuple[Candidate, zmq.Socket[bytes]]] = []
        self._next_at = time.monotonic() + STAGGER_S if without else 0.0
        self._asking = 0
        self._answers: deque[tuple[int, list[str], str]] = deque()  # of the name server, by threads
        self._reader, self._writer = system_socket.socketpair()
        self._reader.setblocking(False)
        self.problems: dict[str, str] = {}
        """By name: why it stands for no address."""
        self._names = connection.router
        for place, address in enumerate(connection.router):
            if numeric(address):
                self._add(Candidate(place, address))
            elif self._asking < NAMES_ASKED:
                self._asking += 1
                threading.Thread(target=self._ask, args=(place, address), daemon=True).start()

    def _ask(self, place: int, address: str) -> None:
        """In a thread, which may wait for a dead name server long after the search is over."""
        try:
            found, problem = resolved(address), ""
        except (OSError, ValueError) as error:
            found, problem = [], getattr(error, "strerror", None) or str(error)
        self._answers.append((place, found, problem))
        with contextlib.suppress(OSError):  # nobody wants to know any more
            self._writer.send(b"!")

    def _add(self, candidate: Candidate) -> None:
        if candidate.address not in self._known and len(self._known) < ADDRESSES:
            self._known.add(candidate.address)
            self._waiting.append(candidate)

    @property
    def sockets(self) -> list[object]:
        """What becomes readable when there is something to `look` at."""
        return [self._reader, *(socket for _, socket in self._tried)]

    @property
    def tried(self) -> list[str]:
        """The addresses that were asked."""
        return [candidate.address for candidate, _ in self._tried]

    @property
    def untried(self) -> bool:
        """Whether there are addresses that were not asked yet: one who looks once a second needs long for many."""
        return bool(self._waiting)

    def look(self) -> Found | None:
        """Take what has come, try what is due; where a broker has answered, if one has."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        while self._answers:
            place, addresses, problem = self._answers.popleft()
            self._asking -= 1
            if problem:
                self.problems[self._names[place]] = problem
            for address in addresses:
                self._add(Candidate(place, address))
        for candidate, socket in self._tried:
            if _answered(socket):
                self._tried.remove((candidate, socket))
                return Found(candidate, socket)
        now = time.monotonic()
        if self._waiting and now >= self._next_at:
            self._next_at = now + STAGGER_S
            candidate = self._waiting.popleft()
            socket = self._open_socket()
            connect(socket, candidate.address)
            socket.send_multipart(Message(Command.PING).encode(), zmq.NOBLOCK)
            self._tried.append((candidate, socket))
        return None

    def close(self) -> None:
        """Let go of all but what was found."""
        for _, socket in self._tried:
            socket.close(linger=0)
        self._tried.clear()
        self._waiting.clear()
        self._reader.close()
        self._writer.close()


def _answered(socket: zmq.Socket[bytes]) -> bool:
    """Whether a broker has said anything; one of another protocol version has, too, and tells so when it is greeted."""
    try:
        frames = socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return False
    try:
        decode_message(frames)
    except ProtocolError:
        return len(frames) == 3
    return True
