"""How far one stream is: accepted, committed, and what of it nobody can deliver any more."""

from __future__ import annotations

from theorbo.schemas.limits import LOSSES_AHEAD


class StreamHead:
    """How far one stream is.

    *accepted* is the last number that has a position and is on its way to the disk, *committed* the last one that
    is on disk (or lost), *missing* how many of the numbers up to `accepted` are lost. A reported loss moves the
    stream past the lost numbers as soon as it has come to them: they are a hole.
    """

    __slots__ = ("_holes", "_losses", "accepted", "committed", "missing", "sender", "starved")

    def __init__(self, committed: int = 0, missing: int = 0) -> None:
        self.accepted = committed
        self.committed = committed
        self.missing = missing
        self._losses: list[tuple[int, int]] = []  # first and last, sorted; ahead of `accepted`
        self._holes: list[tuple[int, int]] = []  # the number before it and its last, between `committed` and `accepted`
        self.sender = b""
        """The peer that delivered last: it gets the acknowledgements."""
        self.starved = False
        """A batch was dropped for want of room; its sender waits to be told that there is room."""

    @property
    def delivered(self) -> int:
        """How many events are on disk, when nothing is on its way."""
        return max(0, self.committed - self.missing)

    def accept(self, count: int) -> None:
        """The next `count` events are on their way to the disk."""
        self.accepted += count
        self._pass_losses()

    def commit(self, last: int) -> None:
        """Everything up to `last` is on disk."""
        self.committed = max(self.committed, last)
        self._pass_holes()

    def lose(self, first: int, last: int) -> bool:
        """Nobody can deliver these numbers any more, as far as they are not there. True if the stream moves."""
        if last <= self.accepted:
            return False
        self._losses = sorted([*self._losses, (first, last)])[:LOSSES_AHEAD]
        before = self.accepted
        self._pass_losses()
        return self.accepted > before

    def _pass_losses(self) -> None:
        while self._losses and self._losses[0][0] <= self.accepted + 1:
            _, last = self._losses.pop(0)
            if last > self.accepted:
                self._holes.append((self.accepted, last))
                self.missing += last - self.accepted
                self.accepted = last
        self._pass_holes()

    def _pass_holes(self) -> None:
        while self._holes and self._holes[0][0] <= self.committed:
            self.committed = max(self.committed, self._holes.pop(0)[1])
