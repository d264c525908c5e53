"""The journal read by a client that waits for what it reads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from theorbo.schemas.errors import Unavailable
from theorbo.schemas.frames import NO_EXECUTION, Command, Header, Message
from theorbo.schemas.limits import CONNECT_S, CREDIT_BYTES, HEARTBEAT_S
from theorbo.schemas.link import Link, accepted
from theorbo.schemas.reading import Reading


class JournalReader:
    """One READ, to its END; over a restart of the broker it goes on behind what was taken."""

    def __init__(self, link: Link, execution: bytes = NO_EXECUTION, **wish: Any) -> None:
        """`wish` holds fields of READ's body (see `Reading`), without `follow`."""
        self._link = link
        self._reading = Reading(link.new_request, CREDIT_BYTES, execution, **wish)
        self._arrived: deque[Message] = deque()

    def batches(self) -> Iterator[tuple[Header, bytes]]:
        """Each batch once. What was handed over is credited when the next is asked for.

        Raises Refused, ProtocolError, or Unavailable when the broker has not been heard for `CONNECT_S`.
        """
        self._link.send(self._reading.begin())
        while True:
            while self._arrived:
                message = self._arrived.popleft()
                if message.command == Command.WELCOME:  # the broker has forgotten us, and what we had asked for
                    self._link.send(self._reading.begin())
                elif message.header.request == self._reading.request:
                    command, header, body = accepted(message)
                    if command == Command.END:
                        return
                    if command == Command.EVENTS:
                        yield header, body
                        for credit in self._reading.took(header, len(body)):
                            self._link.send(credit)
            self._turn(HEARTBEAT_S)
            if not self._arrived and self._link.silent_for_s > CONNECT_S:
                raise Unavailable(f"the broker stopped answering: it was not heard for {CONNECT_S:.0f} s")

    def rest(self, seconds: float) -> None:
        """Wait between two events, and keep the conversation alive. What comes meanwhile is bounded by credit."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self._turn(min(left_s, HEARTBEAT_S))

    def _turn(self, timeout_s: float) -> None:
        self._arrived += self._link.receive(timeout_s)
        self._link.tick()
