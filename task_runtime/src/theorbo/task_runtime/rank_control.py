"""Requests to end the ranks of a node, and the ranks they are about. Pure.

A request comes again whenever the agent says HELLO, so it is known by its position. The broker's own, to a
ghost whose execution has long ended, has position 0: it ends whatever ranks there are, as often as it comes.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from theorbo.schemas.frames import Message, decode_json
from theorbo.schemas.limits import COUNT, GRACE_S
from theorbo.schemas.records import Piece, split_body
from theorbo.task_runtime.processes import Process, RankProcess, members
from theorbo.task_runtime.rank_ending import RankEnding, SendSignal


class TellLauncher(NamedTuple):
    """An instruction to the skin: the ranks are being ended; the launcher should not outlive them by long."""

    grace_s: float


class RankControl:
    """The ranks of a node, as far as their records have been read, and what is to be done to them."""

    def __init__(self) -> None:
        self.ending = RankEnding()
        self.ranks: dict[int, RankProcess] = {}
        """The ranks that have started and not ended."""
        self._seen = False  # any rank
        self._done: set[int] = set()  # positions of the requests that were carried out
        self._requests: dict[int, str] = {}  # position → action, of those under way

    def recall(self, fields: dict[str, Any]) -> None:
        """A `control_done` of an earlier agent. Raises ValueError or TypeError."""
        self._done.add(int(fields.get("position", 0)))

    def checkpoint(self) -> list[list[int]]:
        """The ranks, for a second agent, which does not read their beginnings again."""
        return [list(rank) for rank in self.ranks.values()]

    def restore(self, saved: Any) -> None:
        """The inverse of `checkpoint`. Raises ValueError or TypeError."""
        for numbers in saved:
            rank = RankProcess(*map(int, numbers))
            self.ranks[rank.rank] = rank
        self._seen = bool(self.ranks)

    def note(self, rank: int, piece: Piece) -> None:
        """A signal of a rank has been read."""
        try:
            fields = json.loads(piece.record[1:])
        except (ValueError, RecursionError):
            return  # a stranger's; the broker will say so
        if fields["kind"] == "rank_ended":
            self.ranks.pop(rank, None)
        elif fields["kind"] == "rank_started":
            numbers = (fields.get(name) for name in ("pid", "parent_pid", "process_group", "start_ticks"))
            self.ranks[rank] = RankProcess(rank, *(value if isinstance(value, int) else 0 for value in numbers))
            self._seen = True

    def request(self, message: Message, now: float) -> list[TellLauncher]:
        """CONTROL: end all ranks. Nothing happens for what is done, or under way."""
        position = message.header.position
        if position in self._requests or (position and position in self._done):
            return []
        fields = decode_json(b"".join(split_body(message.body)))
        action, grace_s = str(fields.get("action")), fields.get("grace_s")
        if not isinstance(grace_s, (int, float)) or not 0.0 <= grace_s <= COUNT:
            grace_s = GRACE_S  # whoever asks for an end gets one, also if the rest of the request is nonsense
        grace_s = 0.0 if action == "kill" else float(grace_s)
        self._requests[position] = action
        self.ending.request(grace_s, now)
        return [TellLauncher(grace_s)]

    def due(self, table: list[Process], now: float) -> tuple[list[SendSignal], bool]:
        """The signals that are due, by the present process table, and whether all ranks have ended."""
        if not self.ending.requested:
            return [], False
        living = members(self.ranks.values(), table)
        return self.ending.due(living, now), self._seen and not any(living.values())

    def done(self) -> list[dict[str, Any]]:
        """The reports that the requests under way were carried out: all ranks have ended."""
        killed = ", ".join(map(str, sorted(self.ending.killed)))
        detail = f"SIGKILL was needed for rank {killed}" if killed else "all ranks have ended"
        reports: list[dict[str, Any]] = [
            {"kind": "control_done", "action": action, "detail": detail, "position": position}
            for position, action in self._requests.items()
            if position not in self._done
        ]
        self._done.update(self._requests)
        self._requests.clear()
        return reports
