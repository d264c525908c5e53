"""Ending what ranks have left behind: a moment, SIGTERM, another moment, SIGKILL. Pure.

Helpers of a program often see its end and go by themselves; those are not even mentioned.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping

from theorbo.schemas.limits import LEAVE_S, LEFTOVER_S
from theorbo.task_runtime.agent_keeping import Warn
from theorbo.task_runtime.processes import Process
from theorbo.task_runtime.rank_ending import SendSignal


class Clearing:
    """What is known of it; `is_over` once nothing is left, or all that was left was sent SIGKILL."""

    def __init__(self) -> None:
        self.is_over = False
        self.until: float | None = None
        """When `due` is to be asked again."""
        self._told = False

    def due(self, members: Mapping[int, list[Process]], now: float) -> list[Warn | SendSignal]:
        """What is to be done to these living members of ranks (see `processes.members`)."""
        living = {rank: processes for rank, processes in members.items() if processes}
        all_living = [process for processes in living.values() for process in processes]
        if living and self.until is None:
            self.until = now + LEAVE_S
        if living and self.until is not None and now < self.until:
            return []
        if living and not self._told:
            self._told, self.until = True, now + LEFTOVER_S
            numbers = ", ".join(str(process.pid) for process in all_living)
            warning = Warn(f"left behind by rank {', '.join(map(str, living))}, and ended: process {numbers}")
            return [warning, *(SendSignal(process, signal.SIGTERM) for process in all_living)]
        self.is_over, self.until = True, None
        return [SendSignal(process, signal.SIGKILL) for process in all_living]
