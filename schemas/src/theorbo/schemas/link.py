"""The client's end of a conversation with the broker: one DEALER socket, kept alive. Needs pyzmq.

A skin: it connects and hands over messages. When to say HELLO and PING, and when to connect anew, is decided in
`link_core`; all else that is said is decided elsewhere.

The life of a link: `open_link` finds the broker and waits for WELCOME. After that the owner polls
`link.socket`, calls `receive` when it is readable and `tick` about every second. If the broker restarts,
it does not know us: the link says HELLO again, and the owner sees another WELCOME in what `receive`
returns. If the broker is silent the connection file is read again, for it may have moved.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket as system_socket
import time
from pathlib import Path

import zmq

from theorbo.schemas.connection import (
    BROKER_VARIABLE,
    Connection,
    KeyPair,
    default_connection_file,
    key_file,
)
from theorbo.schemas.errors import ProtocolError, Refused, Unavailable, UsageError
from theorbo.schemas.frames import NO_EXECUTION, Command, Header, Message, decode_json, decode_message
from theorbo.schemas.limits import (
    ANSWER_S,
    CONNECT_S,
    DEAD_CONNECTION_S,
    GOODBYE_LINGER_S,
    HEARTBEAT_S,
    MESSAGE_BYTES,
    MISSING_FILE_S,
    RECEIVED_AT_ONCE,
    RECONNECT_MOST_S,
    RECONNECT_S,
    SEARCH_S,
    SEND_QUEUE_MESSAGES,
    STAGGER_S,
    TRY_S,
)
from theorbo.schemas.link_core import LinkCore, LinkInstruction, Reconnect, Say, Show
from theorbo.schemas.names import Speaker
from theorbo.schemas.own_broker import start_own_broker
from theorbo.schemas.search import Candidate, Found, Search, connect, live_address, numeric


def user_key() -> KeyPair:
    """The user's key pair, made if there is none yet. Raises UsageError or Unavailable."""
    path = key_file()
    if not path.exists():
        public, secret = zmq.curve_keypair()
        KeyPair(public.decode(), secret.decode()).save(path)
    return KeyPair.load(path)


def configure(socket: zmq.Socket[bytes], connection: Connection) -> None:
    """Options that every client socket has: bounds, heartbeats, and CURVE where the broker has a key."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES)
    give_up_dead_connections(socket)
    socket.setsockopt(zmq.RECONNECT_IVL, int(RECONNECT_S * 1000))
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, int(RECONNECT_MOST_S * 1000))
    if connection.public_key:
        pair = user_key()
        socket.curve_serverkey = connection.public_key.encode()
        socket.curve_publickey = pair.public.encode()
        socket.curve_secretkey = pair.secret.encode()


def give_up_dead_connections(socket: zmq.Socket[bytes]) -> None:
    """Let the kernel end connections whose other end has gone without a word, or does not read.

    Not by ZMQ_HEARTBEAT_IVL: with it libzmq aborts the whole process when a connection ends while the socket's
    queue of received messages is full (its issues 3937, 4364 and 4767, open in 4.3.5).
    """
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, int(DEAD_CONNECTION_S / 2))
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, int(DEAD_CONNECTION_S / 2))
    socket.setsockopt(zmq.TCP_MAXRT, int(DEAD_CONNECTION_S * 1000))


class Link:
    """A conversation with the broker. Use `open_link` to get one; `close` says BYE."""

    def __init__(self, path: Path, speaker: Speaker | None = None, *, own: bool = False) -> None:
        """Connect to the broker of the connection file `path`, without waiting for it.

        Without a `speaker` it is an observer's link. An agent's hears CONTROL for its execution. If it is the
        user's `own` broker, it is started again should it fall silent.
        Raises UsageError or Unavailable if the file or the key cannot be used.
        """
        self.path = path
        self._own = own
        self._execution = speaker.execution if speaker else NO_EXECUTION
        self._next_request = 1
        self._unread: list[Message] = []
        self.welcome = Message(Command.WELCOME)
        """The answer to the first HELLO, as `open_link` got it."""
        self._core = LinkCore(speaker, system_socket.gethostname(), os.getpid(), time.monotonic())
        connection = Connection.load(path)
        self._context = zmq.Context()
        self._search: Search | None = None
        try:
            self._connect(connection)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _connect(self, connection: Connection) -> None:
        """To the first address, if it is one, while the others are searched: mostly it answers, and that is all."""
        self.connection = connection
        self.socket = self._open_socket(connection)
        self._candidate = Candidate(0, connection.router[0])
        first = self._candidate if numeric(self._candidate.address) else None
        if first:
            connect(self.socket, first.address)
        if first is None or len(connection.router) > 1:
            self._begin_search(connection, without=first)
        self._perform(self._core.connected(time.monotonic()))

    def _open_socket(self, connection: Connection) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
        socket.setsockopt(zmq.RCVHWM, SEND_QUEUE_MESSAGES)
        configure(socket, connection)
        return socket

    def _begin_search(self, connection: Connection, without: Candidate | None = None) -> Search:
        self._end_search()
        self._searched = connection
        self._searched_at = time.monotonic()
        self._search = Search(connection, lambda: self._open_socket(connection), without=without)
        return self._search

    def _end_search(self) -> None:
        if self._search:
            self._search.close()
            self._search = None

    def _look(self, search: Search, timeout_s: float) -> bool:
        """Wait until the search has found the broker, or its own socket has something to read; whether it has found."""
        deadline = time.monotonic() + timeout_s
        while True:
            if found := search.look():
                self._move(found)
                return True
            if (left_s := deadline - time.monotonic()) <= 0 or self.socket.poll(0):
                return False
            poller = zmq.Poller()
            for socket in (self.socket, *search.sockets):
                poller.register(socket, zmq.POLLIN)
            poller.poll(int(min(left_s, STAGGER_S / 4) * 1000) + 1)

    def _move(self, found: Found) -> None:
        """The conversation goes on where the broker was found."""
        self.socket.close()
        self.connection, self._candidate, self.socket = self._searched, found.candidate, found.socket
        self._end_search()
        self._perform(self._core.connected(time.monotonic()))

    def _perform(self, instructions: list[LinkInstruction]) -> list[Message]:
        """What is for the owner is returned."""
        shown: list[Message] = []
        for instruction in instructions:
            if isinstance(instruction, Say):
                self.send(instruction.message)
            elif isinstance(instruction, Show):
                shown.append(instruction.message)
            elif isinstance(instruction, Reconnect):
                self._reconnect()
        return shown

    def _reconnect(self) -> None:
        if self._own:
            with contextlib.suppress(Unavailable):
                start_own_broker()
        try:
            connection = Connection.load(self.path)
        except (UsageError, Unavailable):
            return  # the broker is away; it writes the file when it is back
        search = self._search
        if search is None or not search.untried or connection != self._searched:
            search = self._begin_search(connection)
        self._look(search, SEARCH_S)

    @property
    def problem(self) -> str:
        """What hinders the broker, in its own words (a full disk); empty if nothing does."""
        return self._core.problem

    @property
    def publisher(self) -> str:
        """The address of the live streams that goes with the address of this conversation."""
        return live_address(self.connection, self._candidate)

    @property
    def silent_for_s(self) -> float:
        """Seconds since the broker was last heard."""
        return time.monotonic() - self._core.heard_at

    def new_request(self) -> int:
        """A number for the header's `request`, not used before on this link."""
        self._next_request += 1
        return self._next_request

    def send(self, message: Message) -> bool:
        """Hand a message to libzmq; False if its queue is full (what matters is asked or sent again)."""
        try:
            self.socket.send_multipart(message.encode(), zmq.NOBLOCK, copy=True)
        except zmq.Again:
            return False
        self._core.said(time.monotonic())
        return True

    def receive(self, timeout_s: float = 0.0) -> list[Message]:
        """Everything that has arrived, after waiting for the first for up to `timeout_s`.

        PONG is swallowed. When the broker does not know us, HELLO is said again and nothing returned.
        Raises ProtocolError if the broker speaks another version.
        """
        messages, self._unread = self._unread, []
        if not self.socket.poll(0 if messages else int(timeout_s * 1000)):
            return messages
        while len(messages) < RECEIVED_AT_ONCE:
            try:
                message = decode_message(self.socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
            messages += self._perform(self._core.received(message, time.monotonic()))
        return messages

    def tick(self) -> None:
        """Keep the conversation alive: PING when idle; search the broker, by the file's present content, when silent.

        `socket` may be another one afterwards.
        """
        if self._search and self._core.heard_at > self._searched_at:
            self._end_search()
        if self._search:
            self._look(self._search, 0)
        self._perform(self._core.tick(time.monotonic()))

    def ask(self, command: bytes, header: Header, body: bytes = b"", timeout_s: float = ANSWER_S) -> Message:
        """Send a request and wait for its answer; for clients that do nothing else meanwhile.

        If it is lost with its connection, the answer to PING tells so, and it is asked again.
        Raises Refused with the broker's code and words, or Unavailable when there is no answer.
        """
        request = self.new_request()
        self._perform(self._core.asks(Message(command, header._replace(request=request), body)))
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            messages = self.receive(min(left_s, HEARTBEAT_S / 2))
            for index, message in enumerate(messages):
                if message.header.request == request:
                    self._unread = messages[index + 1 :]
                    return accepted(message)
            self._perform(self._core.idle(time.monotonic()))
        raise Unavailable(
            f"the broker at {self._candidate.address} did not answer {command.decode()} within {timeout_s:.0f} s"
        )

    def wait_welcome(self, timeout_s: float) -> Message:
        """Wait for the answer to HELLO; meanwhile the connection file is read again, for the broker may be moving.

        All addresses are tried, the next when those before have not answered for `STAGGER_S`. After `ANSWER_S` all
        begins anew: libzmq never takes up again a connection whose hand-shake was garbled. On one that libzmq has made
        anew, without the HELLO that went with the former, the answer to PING tells so.

        Raises Unavailable, naming what was tried; Refused; ProtocolError.
        """
        deadline = time.monotonic() + timeout_s
        tried: dict[str, str] = {}
        while (now := time.monotonic()) < deadline:
            message = self._answer_to_hello(min(deadline, now + ANSWER_S))
            self._note_tried(tried)
            if message:
                self._end_search()
                return accepted(message)
            self.socket.close()
            self._connect(self._present_connection())
        raise Unavailable(
            f"no answer from a broker within {timeout_s:.0f} s; tried {', '.join(tried.values())} "
            f"(from {self.path}, written by pid {self.connection.pid} on {self.connection.host}). "
            "Is it running, reachable, and is your key on its list? theorbo doctor finds out"
        )

    def _note_tried(self, tried: dict[str, str]) -> None:
        if numeric(self._candidate.address):
            tried[self._candidate.address] = self._candidate.address
        if self._search:
            tried.update({address: address for address in self._search.tried})
            tried.update({name: f"{name} ({problem})" for name, problem in self._search.problems.items()})

    def _answer_to_hello(self, until: float) -> Message | None:
        """None also when the connection file says something else by now."""
        while (left_s := until - time.monotonic()) > 0:
            if self._search:
                self._look(self._search, min(left_s, TRY_S))
            messages = self.receive(0 if self._search else min(left_s, TRY_S))
            for index, message in enumerate(messages):
                if message.command in (Command.WELCOME, Command.REFUSED):
                    self._unread = messages[index + 1 :]  # CONTROL may follow at once
                    return message
            self._perform(self._core.idle(time.monotonic()))
            if self._present_connection() != self.connection:
                return None
        return None

    def _present_connection(self) -> Connection:
        """What the connection file says now; while the broker is away, what it said."""
        try:
            return Connection.load(self.path)
        except (UsageError, Unavailable):
            return self.connection

    def close(self) -> None:
        """Say BYE and let go of all resources."""
        self._end_search()
        self.send(Message(Command.BYE, Header(execution=self._execution)))
        self.socket.close(linger=int(GOODBYE_LINGER_S * 1000))
        self._context.term()


def accepted(message: Message) -> Message:
    """The message, unless it is REFUSED: then Refused is raised with its code and words."""
    if message.command == Command.REFUSED:
        fields = decode_json(message.body)
        raise Refused(str(fields.get("code")), str(fields.get("message")))
    return message


def open_link(given: str | None, speaker: Speaker | None = None) -> Link:
    """A link to the broker that is meant, welcomed; without a `speaker` an observer's.

    `given` (the option --broker) is a connection file; else THEORBO_BROKER names one; else it is the user's
    own broker in the state directory, which is started if it does not answer (see `start_own_broker`).

    Raises UsageError, Refused, ProtocolError or Unavailable, saying what was tried.
    """
    named = given or os.environ.get(BROKER_VARIABLE)
    deadline = time.monotonic() + CONNECT_S
    if named:
        _wait_for_file(Path(named))
        return _welcomed(Path(named), speaker, deadline - time.monotonic())
    path = default_connection_file()
    while True:
        if path.exists():
            try:
                return _welcomed(path, speaker, TRY_S, own=True)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            except UsageError:
                if path.exists():
                    raise  # else the broker has just ended by itself, and taken its file along
        busy = start_own_broker()
        if busy and not path.exists() and time.monotonic() > deadline:  # it writes its file elsewhere
            raise Unavailable(f"{busy}; its connection file is not {path}: name it (--broker or {BROKER_VARIABLE})")


def _wait_for_file(path: Path) -> None:
    """A broker that is being restarted has taken its connection file along, and writes it again."""
    deadline = time.monotonic() + MISSING_FILE_S
    while path.parent.is_dir() and not path.exists() and time.monotonic() < deadline:
        select.select([], [], [], RECONNECT_S)  # there is nothing yet that could tell


def _welcomed(path: Path, speaker: Speaker | None, timeout_s: float, *, own: bool = False) -> Link:
    link = Link(path, speaker, own=own)
    try:
        link.welcome = link.wait_welcome(timeout_s)
    except BaseException:
        link.close()
        raise
    return link


__all__ = ["Link", "ProtocolError", "accepted", "configure", "open_link", "start_own_broker", "user_key"]
