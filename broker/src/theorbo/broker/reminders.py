"""Reminders: acknowledgements and control that did not fit into a peer's queue, said again each second.

Nobody asks for these again: a sender without acknowledgements waits before it sends again, and a request to
cancel that is lost is lost for good. Of acknowledgements only the stream is remembered, for they are cumulative.
"""

from __future__ import annotations

from theorbo.broker.deliveries import acknowledgement
from theorbo.broker.executions import Execution
from theorbo.broker.values import Instruction, Send, Unsent
from theorbo.schemas.frames import Command, Message
from theorbo.schemas.limits import CONTROLS, STREAMS
from theorbo.schemas.names import Source

_Stream = tuple[bytes, Source, int]


class Reminders:
    """What has to be said again, by peer."""

    def __init__(self) -> None:
        self._acknowledgements: dict[bytes, dict[_Stream, int]] = {}
        """With the flags of the header."""
        self._controls: dict[bytes, list[Message]] = {}

    def unsent(self, it: Unsent) -> None:
        """A message did not leave, for the queue of its peer is full."""
        header = it.message.header
        if it.message.command == Command.ACK and header.source:
            mine = self._acknowledgements.setdefault(it.peer, {})
            stream = header.execution, header.source, header.channel
            if stream in mine or len(mine) < STREAMS:
                mine[stream] = mine.get(stream, 0) | header.flags
        elif it.message.command == Command.CONTROL:
            self._controls[it.peer] = [*self._controls.get(it.peer, []), it.message][-CONTROLS:]

    def tick(self, executions: dict[bytes, Execution], now: float) -> list[Instruction]:
        """A second has passed: there may be room by now."""
        acknowledgements, self._acknowledgements = self._acknowledgements, {}
        controls, self._controls = self._controls, {}
        out: list[Instruction] = [Send(peer, message) for peer, mine in controls.items() for message in mine]
        for peer, mine in acknowledgements.items():
            for (about, source, channel), flags in mine.items():
                if execution := executions.get(about):
                    out.append(acknowledgement(execution, source, channel, now, flags, peer))
        return out

    def drop(self, peer: bytes) -> None:
        """A peer has gone; it says HELLO when it comes back, and is told everything then."""
        self._acknowledgements.pop(peer, None)
        self._controls.pop(peer, None)
