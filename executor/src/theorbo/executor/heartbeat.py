"""PING while hooks are called: a hook that takes long does not make the Executor suspect. A skin."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from theorbo.schemas.frames import Command, Header, Message
from theorbo.schemas.limits import HEARTBEAT_S
from theorbo.schemas.link import Link


class Heartbeat:
    """A thread that uses the link only inside of `meanwhile`, when its owner does not."""

    def __init__(self, link: Link, execution: bytes) -> None:
        """Made, used and closed by the thread that owns the link."""
        self._link = link
        self._ping = Message(Command.PING, Header(execution=execution))
        self._owned = threading.Lock()  # held by the owner of the link; a lock is the barrier that ZMQ sockets want
        self._owned.acquire()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="theorbo heartbeat", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def meanwhile(self) -> Iterator[None]:
        """The owner does not touch the link inside of this."""
        self._owned.release()
        try:
            yield
        finally:
            self._owned.acquire()

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT_S):
            if self._owned.acquire(blocking=False):
                try:
                    self._link.send(self._ping)
                finally:
                    self._owned.release()

    def close(self) -> None:
        """End it."""
        self._closed.set()
        self._thread.join()
