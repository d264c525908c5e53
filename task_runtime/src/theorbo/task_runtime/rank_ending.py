"""Ending ranks on request: SIGTERM, a grace, SIGKILL. Which process gets which signal when. Pure.

Each rank gets SIGTERM once, with all its processes at that moment. What it starts afterwards to put its
house in order is left alone until the grace is over; then everything gets SIGKILL until nothing is left.
A rank that starts while the ending is under way is ended likewise. A process that is stopped would see SIGTERM only
when somebody continues it, so it gets SIGCONT behind it.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import NamedTuple

from theorbo.schemas.limits import LEFTOVER_S
from theorbo.task_runtime.processes import Process


class SendSignal(NamedTuple):
    """An instruction to the skin."""

    process: Process
    number: signal.Signals


class RankEnding:
    """What is known of an ending under way; `requested` is False until there is one."""

    def __init__(self) -> None:
        self._kill_at: float | None = None
        self.told: set[int] = set()
        """The ranks that have got SIGTERM."""
        self.killed: set[int] = set()
        """The ranks that needed SIGKILL."""

    @property
    def requested(self) -> bool:
        """Whether ranks are to end."""
        return self._kill_at is not None

    @property
    def kill_at(self) -> float | None:
        """When SIGKILL is due; None if no ending was requested."""
        return self._kill_at

    def next_at(self, now: float) -> float | None:
        """When `due` is to be asked again even if nothing happens."""
        if self._kill_at is None or now < self._kill_at:
            return self._kill_at
        return now + LEFTOVER_S  # SIGKILL again, for what was being forked

    def request(self, grace_s: float, now: float) -> None:
        """End all ranks; with no grace at once by SIGKILL. The shortest of several graces holds."""
        due = now + grace_s
        self._kill_at = due if self._kill_at is None else min(due, self._kill_at)

    def due(self, members: Mapping[int, list[Process]], now: float) -> list[SendSignal]:
        """The signals to send now to these living members of ranks (see `processes.members`)."""
        if self._kill_at is None:
            return []
        if now >= self._kill_at:
            self.killed.update(rank for rank, living in members.items() if living)
            return [SendSignal(p, signal.SIGKILL) for living in members.values() for p in living]
        untold = [process for rank, living in members.items() if rank not in self.told for process in living]
        self.told.update(rank for rank, living in members.items() if living)
        stopped = [process for process in untold if process.is_stopped]
        return [
            *(SendSignal(process, signal.SIGTERM) for process in untold),
            *(SendSignal(process, signal.SIGCONT) for process in stopped),
        ]
