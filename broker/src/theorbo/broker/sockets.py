"""The broker's two sockets, as frames in and frames out.

A fixed number of frames and plain calls: libzmq's multipart helpers in pyzmq cost about 12 µs a message.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket as system_socket
from pathlib import Path
from typing import Any

import zmq

from theorbo.broker.keys import AuthorizedKeys
from theorbo.schemas.connection import KeyPair
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.frames import Header, Message
from theorbo.schemas.limits import (
    CONNECTIONS_REMEMBERED,
    HANDSHAKE_S,
    MESSAGE_BYTES,
    PEER_QUEUE_MESSAGES,
    PUBLISH_QUEUE_MESSAGES,
    SEND_QUEUE_MESSAGES,
    SUBSCRIPTION_BYTES,
    SUBSCRIPTIONS,
)
from theorbo.schemas.link import give_up_dead_connections


class Sockets:
    """ROUTER and XPUB, bound. Raises Unavailable if an address cannot be had."""

    def __init__(self, router: str, publisher: str, key: KeyPair | None, authorized: AuthorizedKeys | None) -> None:
        """Bind. An empty `publisher` means the port after the ROUTER's, or any if that is 0."""
        self._context = zmq.Context(io_threads=2)
        self._authenticator = _authenticate(self._context, authorized) if authorized else None
        self._subscriptions: dict[int, int] = {}
        """How many came by each connection, those that subscribed last at the end."""
        self.router = self._context.socket(zmq.ROUTER)
        self.xpub = self._context.socket(zmq.XPUB)
        # A thread of libzmq for each: encrypting what is published for every subscriber must not delay the Executor.
        self.router.setsockopt(zmq.AFFINITY, 0b01)
        self.xpub.setsockopt(zmq.AFFINITY, 0b10)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.router.setsockopt(zmq.SNDHWM, PEER_QUEUE_MESSAGES)
        self.router.setsockopt(zmq.RCVHWM, SEND_QUEUE_MESSAGES)
        self.xpub.setsockopt(zmq.XPUB_VERBOSE, 1)
        self.xpub.setsockopt(zmq.SNDHWM, PUBLISH_QUEUE_MESSAGES)
        self.router.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES)
        self.xpub.setsockopt(zmq.MAXMSGSIZE, SUBSCRIPTION_BYTES)
        for socket in (self.router, self.xpub):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.HANDSHAKE_IVL, int(HANDSHAKE_S * 1000))
            give_up_dead_connections(socket)
            socket.setsockopt(zmq.IPV6, int("[" in router))
            if key:
                socket.curve_server = True
                socket.curve_secretkey = key.secret.encode()
        try:
            self.router_address = _bind(self.router, router, "bind")
            self.publisher_address = _bind(self.xpub, publisher or _next_port(router), "publisher")
        except Unavailable:
            self.close(0)
            raise

    def receive(self) -> tuple[bytes, str, list[bytes]] | None:
        """Routing id, principal and frames of the next message, or None if there is none now."""
        try:
            routing = self.router.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        frames: list[bytes] = []
        frame = routing
        while frame.more:
            frame = self.router.recv(copy=False)
            frames.append(frame.bytes)
        return routing.bytes, _principal(routing), frames

    def receive_subscription(self) -> bytes | None:
        """The next topic that somebody has subscribed to; an empty one for what is no subscription."""
        try:
            frame = self.xpub.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        event = frame.bytes
        if event[:1] != b"\x01":
            return b""
        self._count_subscription(frame)
        return event[1:]

    def _count_subscription(self, frame: zmq.Frame) -> None:
        """Close the connection it came by if that has sent too many: libzmq itself has no bound for them.

        The inode tells a connection from another one that has got its descriptor since.
        """
        with contextlib.suppress(zmq.ZMQError, OSError, TypeError):  # the connection has gone
            descriptor = int(frame.get(zmq.SRCFD))
            connection = os.fstat(descriptor).st_ino
            count = self._subscriptions.pop(connection, 0) + 1
            self._subscriptions[connection] = count
            if len(self._subscriptions) > CONNECTIONS_REMEMBERED:
                del self._subscriptions[next(iter(self._subscriptions))]
            if count > SUBSCRIPTIONS:
                with system_socket.socket(fileno=os.dup(descriptor)) as other:
                    other.shutdown(system_socket.SHUT_RDWR)

    def send(self, peer: bytes, message: Message) -> None:
        """Raises zmq.Again if the peer's queue is full, zmq.ZMQError (EHOSTUNREACH) if it has gone."""
        send = self.router.send
        send(peer, zmq.SNDMORE | zmq.NOBLOCK)
        send(message.command, zmq.SNDMORE)
        send(message.header.encode(), zmq.SNDMORE)
        send(message.body)

    def publish(self, topic: bytes, header: Header, body: bytes) -> None:
        """To all who have subscribed; a subscriber whose queue is full goes without."""
        send = self.xpub.send
        send(topic, zmq.SNDMORE | zmq.NOBLOCK)
        send(header.encode(), zmq.SNDMORE)
        send(body)

    def close(self, linger_ms: int) -> None:
        """Let go of addresses and threads."""
        self.router.close(linger_ms)
        self.xpub.close(linger_ms)
        if self._authenticator:
            self._authenticator.stop()
        self._context.term()


def _principal(routing: zmq.Frame) -> str:
    try:
        return str(routing.get("User-Id"))
    except zmq.ZMQError:
        return ""  # no CURVE: an ipc:// socket in a directory of the user's own


def _authenticate(context: zmq.Context[Any], authorized: AuthorizedKeys) -> Any:
    """Start the thread that answers libzmq's question who may connect (ZAP, RFC 27)."""
    from zmq.auth.thread import ThreadAuthenticator
    from zmq.utils import z85

    class Authenticator(ThreadAuthenticator):
        def curve_user_id(self, client_public_key: bytes) -> str:
            return authorized.name_of(z85.encode(client_public_key)) or ""

    class Provider:
        def callback(self, _domain: str, key: bytes) -> bool:
            return authorized.name_of(key) is not None

    authenticator = Authenticator(context)
    authenticator.start()
    authenticator.configure_curve_callback(domain="*", credentials_provider=Provider())
    return authenticator


def _next_port(address: str) -> str:
    if address.startswith("ipc://"):
        raise ValueError("an ipc:// broker names both addresses")
    place, _, port = address.rpartition(":")
    return f"{place}:{int(port) + 1 if int(port) else 0}"


def _bind(socket: zmq.Socket[bytes], address: str, setting: str) -> str:
    """The address that was bound, with its port. Raises Unavailable."""
    try:
        if address.endswith(":0"):
            address = address[:-1] + "*"
        socket.bind(address)
    except zmq.ZMQError as error:
        place, _, port = address.removeprefix("tcp://").rpartition(":")
        if error.errno == zmq.EADDRINUSE:
            why = f"port {port} on {place} is in use (setting {setting}); name another one, or port 0 for any free one"
        elif error.errno in (errno.ENODEV, zmq.EADDRNOTAVAIL):
            why = f"{place} is no address of this machine (setting {setting} = {address})"
        else:
            why = f"cannot bind {address} (setting {setting}): {error.strerror or error}"
        raise Unavailable(why) from None
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))


def reachable(address: str) -> tuple[str, ...]:
    """The addresses under which others reach a bound socket: for a wildcard the host's name and interfaces."""
    match = re.fullmatch(r"tcp://(0\.0\.0\.0|\[::\]):(\d+)", address)
    if not match:
        return (address,)
    names = [system_socket.getfqdn(), system_socket.gethostname(), *_interface_addresses(), "127.0.0.1"]
    names = [name for name in names if name != "localhost"]  # where the host has no full name
    return tuple(dict.fromkeys(f"tcp://{name}:{match.group(2)}" for name in names))


def _interface_addresses() -> list[str]:
    """IPv4 addresses of this machine that are not loopback, from the kernel's routing trie."""
    try:
        text = Path("/proc/net/fib_trie").read_text()
    except OSError:
        return []
    found = re.findall(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL", text)
    return [address for address in dict.fromkeys(found) if not address.startswith("127.")]
