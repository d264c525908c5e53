"""The broker's skin: sockets, journal and time on one side, the core on the other. It decides nothing.

One thread runs `Server.run`, whose loop is a table of contents. Two more do what may take long (the
journal's writer, the attachments); they report through an inbox and wake the loop by a pipe.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from theorbo.broker import place
from theorbo.broker.attachments import Attachments
from theorbo.broker.core import Core
from theorbo.broker.journal import Item, Journal
from theorbo.broker.keys import AuthorizedKeys, broker_key
from theorbo.broker.retention import Retention
from theorbo.broker.schema import JournalDamaged
from theorbo.broker.sockets import Sockets, reachable
from theorbo.broker.values import (
    Append,
    Confirm,
    Ending,
    FindViews,
    Input,
    Instruction,
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
from theorbo.schemas import __version__
from theorbo.schemas.connection import Connection
from theorbo.schemas.errors import InternalError, Unavailable, UsageError
from theorbo.schemas.frames import Command
from theorbo.schemas.limits import (
    EMBEDDED_IDLE_S,
    GOODBYE_LINGER_S,
    GOODBYE_S,
    HEARTBEAT_S,
    LAST_CALL_S,
    LOST_S,
    MESSAGES_AT_ONCE,
    READS,
)


class Plan(NamedTuple):
    """What a broker is to be: the settings, as far as the server needs them."""

    state: Path
    connection: Path
    bind: str
    """`tcp://…`; empty: ipc:// in a directory of the user's own, without CURVE."""
    publisher: str
    retention_age_s: float
    retention_bytes: int
    embedded: bool
    """Whether it ends by itself when nobody needs it."""
    lost_after_s: float = LOST_S
    """So long a silence of all its peers makes an execution LOST."""


class Server:
    """A broker, from its lock to its connection file."""

    def __init__(self, plan: Plan, log: Any) -> None:
        """Start: take the lock, bind, open the journal. Raises Unavailable or UsageError; nothing is left then."""
        self._plan = plan
        self._log = log
        self._inbox: deque[Input | Note] = deque()  # from the other threads
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._reads: dict[tuple[bytes, int], ReadJournal] = {}  # one a turn, so that nobody waits for a long replay
        self._ending = False
        self._runtime_directory: Path | None = None  # of ipc:// sockets
        with contextlib.ExitStack() as undo:
            self._start(undo)
            undo.pop_all()

    def _start(self, undo: contextlib.ExitStack) -> None:
        plan = self._plan
        place.raise_descriptor_limit()
        place.prepare(plan.state)
        self._lock = place.Lock(plan.state, embedded=plan.embedded)
        undo.callback(self._lock.release)
        key = authorized = None
        router, publisher = plan.bind, plan.publisher
        if router:
            key, authorized = broker_key(plan.state), AuthorizedKeys(plan.state)
        else:
            self._runtime_directory = place.runtime_directory(plan.state)
            undo.callback(place.remove_runtime_directory, self._runtime_directory)
            router, publisher = (f"ipc://{self._runtime_directory}/{name}" for name in ("router", "publisher"))
        self._sockets = Sockets(router, publisher, key, authorized)
        undo.callback(self._sockets.close, 0)
        self._attachments = Attachments(plan.state / "attachments", self._report)
        undo.callback(self._attachments.close)
        retention = Retention(plan.retention_age_s, plan.retention_bytes, self._attachments, self._report)
        self._journal, recalled = Journal.recovered(
            plan.state / "journal.sqlite", retention, self._report, lambda note: self._do([note])
        )
        undo.callback(self._journal.close, GOODBYE_S)
        self._core = Core(self._journal.broker, self._journal.last_sequence, time.time(), plan.lost_after_s)
        for it in recalled:
            self._handle(it)
        self.connection = Connection(
            router=reachable(self._sockets.router_address),
            publisher=reachable(self._sockets.publisher_address),
            public_key=key.public if key else None,
            broker=self._journal.broker,
            pid=os.getpid(),
            host=socket.gethostname(),
            version=__version__,
        )
        """What stands in the connection file."""
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        self.connection.save(plan.connection)

    # --- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, or (embedded) until nobody needs it; then end in good order.

        Raises Unavailable if the journal is taken away or damaged, InternalError if it cannot be written for a mistake
        of ours.
        """
        poller = zmq.Poller()
        poller.register(self._sockets.router, zmq.POLLIN)
        poller.register(self._sockets.xpub, zmq.POLLIN)
        poller.register(self._wake_reader.fileno(), zmq.POLLIN)
        tick_at = time.monotonic()
        while not self._ending:
            wait_s = 0.0 if self._reads or self._inbox else max(0.0, tick_at - time.monotonic())
            poller.poll(math.ceil(wait_s * 1000))
            self._take_reports()
            self._take_messages()
            self._take_subscriptions()
            self._read_journal()
            if time.monotonic() >= tick_at:
                tick_at = time.monotonic() + HEARTBEAT_S
                self._tick()
        self._drain()

    def _take_reports(self) -> None:
        """What the journal and the attachments have done meanwhile."""
        with contextlib.suppress(BlockingIOError):
            while self._wake_reader.recv(4096):
                pass
        while self._inbox:
            self._handle(self._inbox.popleft())

    def _take_messages(self) -> None:
        for _ in range(MESSAGES_AT_ONCE):
            received = self._sockets.receive()
            if received is None:
                return
            self._handle_message(Received(*received))

    def _take_subscriptions(self) -> None:
        for _ in range(MESSAGES_AT_ONCE):
            topic = self._sockets.receive_subscription()
            if topic is None:
                return
            if topic:
                self._handle(Subscribed(topic))

    def _read_journal(self) -> None:
        while self._reads:
            wish = self._reads.pop(next(iter(self._reads)))
            if not self._core.wants(wish):
                continue
            self._handle(self._journal.read_some(wish, self._core.committed_sequence))
            return

    def _tick(self) -> None:
        if self._journal.damage:
            self._abandon()
            raise JournalDamaged(self._journal.path, self._journal.damage)
        if not self._journal.alive:
            raise InternalError("the journal's thread has ended; nothing can be committed any more")
        if not self._attachments.alive:
            raise InternalError("the attachments' thread has ended; nothing can be stored or fetched any more")
        if not self._journal.in_place:
            self._abandon()
            raise Unavailable(
                f"the journal {self._journal.path} was removed or replaced while it was in use; "
                "this broker ends, so that nothing more is acknowledged which is not kept"
            )
        self._handle(Tick())
        if self._plan.embedded and not self._core.open_executions:
            self._end_if_idle()

    # --- between core and world ------------------------------------------------------------------

    def _report(self, it: Input | Note) -> None:
        """For the other threads."""
        self._inbox.append(it)
        with contextlib.suppress(BlockingIOError):  # it is full of wake-ups already
            self._wake_writer.send(b"w")

    def _handle(self, it: Input | Note) -> None:
        self._do([it] if isinstance(it, Note) else self._core.handle(it, time.time()))

    def _handle_message(self, it: Received) -> None:
        """One peer's message must not end everybody's broker, also if it finds a mistake of ours."""
        try:
            self._handle(it)
        except JournalDamaged:
            pass  # that is told, and the next tick ends this broker; senders keep what is not acknowledged
        except Exception:
            self._log.exception("a message could not be handled: a bug, please report it", frames=it.frames[:2])

    def _do(self, instructions: list[Instruction]) -> None:
        """Carry out what one input led to. What goes to the journal goes as one."""
        items: list[Item] = []
        full: set[bytes] = set()
        for it in instructions:
            match it:
                case Send():
                    self._send(it, full)
                case Publish():
                    self._publish(it)
                case Append() | Keep() | Refer() | Confirm() | SetAside():
                    items.append(it)
                case ReadJournal():
                    self._reads[it.peer, it.request] = it
                    if len(self._reads) > 2 * READS:  # somebody opens and closes one after the other
                        self._reads = {key: wish for key, wish in self._reads.items() if self._core.wants(wish)}
                case FindViews():
                    self._handle(self._journal.find(it))
                case Recall():
                    self._handle(Recalled(it.execution, self._journal.recall(it.execution), it.retry))
                case StoreChunk():
                    self._attachments.store(it)
                case ReadChunk():
                    self._attachments.read(it, self._journal.attachment_size(it.header.execution, it.sha256))
                case Note():
                    getattr(self._log, it.level)(it.text, **it.fields)
        if items:
            self._journal.submit(items)

    def _send(self, it: Send, full: set[bytes]) -> None:
        """`full` are peers whose queue was full just now: a later event must not overtake an unsent one."""
        if it.peer in full and it.message.command in (Command.EVENTS, Command.END):
            self._handle(Unsent(it.peer, it.message, gone=False))
            return
        try:
            self._sockets.send(it.peer, it.message)
        except zmq.Again:
            full.add(it.peer)
            self._handle(Unsent(it.peer, it.message, gone=False))
        except zmq.ZMQError:
            self._handle(Unsent(it.peer, it.message, gone=True))

    def _publish(self, it: Publish) -> None:
        self._sockets.publish(it.topic, it.header, it.body)

    # --- the end ---------------------------------------------------------------------------------

    def _end(self, *_: Any) -> None:
        self._ending = True

    def _end_if_idle(self) -> None:
        """End if nobody has been heard lately. The connection file goes first: who comes now starts another."""
        if time.time() - self._core.heard_at < EMBEDDED_IDLE_S:
            return
        self._remove_connection_file()
        if self._sockets.router.poll(int(LAST_CALL_S * 1000)):
            self.connection.save(self._plan.connection)  # somebody had just read it
        else:
            self._end()

    def _drain(self) -> None:
        """Commit and acknowledge what was accepted, say goodbye, leave a clean journal."""
        self._remove_connection_file()
        self._attachments.close()
        self._do(self._core.confirmations())
        clean = self._journal.close(GOODBYE_S)
        self._take_reports()
        self._handle(Ending())
        self._sockets.close(int(GOODBYE_LINGER_S * 1000))
        if self._runtime_directory:
            place.remove_runtime_directory(self._runtime_directory)
        self._lock.release()
        level = "info" if clean else "warning"
        text = "broker has ended" if clean else "broker has ended; not everything could be committed, senders have it"
        getattr(self._log, level)(text, refused=dict(self._core.refused))

    def _abandon(self) -> None:
        """Nobody is to find this broker any more; what it has not committed stays unacknowledged."""
        self._remove_connection_file()
        if self._runtime_directory:
            place.remove_runtime_directory(self._runtime_directory)

    def _remove_connection_file(self) -> None:
        """If it is still ours: another broker may have been told to write its own at the same place."""
        with contextlib.suppress(UsageError, Unavailable):
            if Connection.load(self._plan.connection) == self.connection:
                self._plan.connection.unlink(missing_ok=True)
