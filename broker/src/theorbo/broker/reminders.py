"""Reminders: acknowledgements and control that did not fit into a peer's queue, said again each second.

Nobody asks for these again: a sender without acknowledgements waits before it sends again, and a request to
cancel that is lost is lost for good. Of acknowledgements only the stream is remembered, for they are cumulative; of
control only that some is missing, for it is said again as at HELLO: a stop that comes behind the continue which was
requested after it would hold the ranks for good.
"""

from __future__ import annotations

from theorbo.broker.deliveries import acknowledgement
from theorbo.broker.executions import Execution
from theorbo.broker.values import Send, Unsent
from theorbo.schemas.frames import Command
from theorbo.schemas.limits import STREAMS
from theorbo.schemas.names import Source

_Stream = tuple[bytes, Source, int]


class Reminders:
    """What has to be said again, by peer."""

    def __init__(self) -> None:
        self._acknowledgements: dict[bytes, dict[_Stream, int]] = {}
        """With the flags of the header."""
        self._uncontrolled: dict[bytes, None] = {}
        """Peers that control has not reached, in that order."""

    def unsent(self, it: Unsent) -> None:
        """A message did not leave, for the queue of its peer is full."""
        header = it.message.header
        if it.message.command == Command.ACK and header.source:
            mine = self._acknowledgements.setdefault(it.peer, {})
            stream = header.execution, header.source, header.channel
            if stream in mine or len(mine) < STREAMS:
                mine[stream] = mine.get(stream, 0) | header.flags
        elif it.message.command == Command.CONTROL:
            self._uncontrolled[it.peer] = None

    def uncontrolled(self) -> list[bytes]:
        """The peers to which control is to be said again; to be asked each second."""
        peers, self._uncontrolled = list(self._uncontrolled), {}
        return peers

    def acknowledgements(self, executions: dict[bytes, Execution], now: float) -> list[Send]:
        """A second has passed: there may be room by now."""
        acknowledgements, self._acknowledgements = self._acknowledgements, {}
        out: list[Send] = []
        for peer, mine in acknowledgements.items():
            for (about, source, channel), flags in mine.items():
                if execution := executions.get(about):
                    out.append(acknowledgement(execution, source, channel, now, flags, peer))
        return out

    def drop(self, peer: bytes) -> None:
        """A peer has gone; it says HELLO when it comes back, and is told everything then."""
        self._acknowledgements.pop(peer, None)
        self._uncontrolled.pop(peer, None)
