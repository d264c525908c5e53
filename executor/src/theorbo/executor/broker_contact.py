"""What an Executor tells whoever watches about its contact with the broker. Pure; a part of `core.Supervisor`."""

from __future__ import annotations

from theorbo.executor.values import Decision, Notice
from theorbo.schemas.limits import SUSPECT_S


class BrokerContact:
    """Whether the broker is heard, and what hinders it."""

    def __init__(self) -> None:
        self.silent = False
        """Whether people were told that it is."""
        self.problem = ""

    def tick(self, silent_for_s: float, problem: str) -> list[Decision]:
        """Time has passed, as in `values.Tick`: what is new is told."""
        return [*self._silence(silent_for_s), *self._trouble(problem)]

    def _silence(self, silent_for_s: float) -> list[Decision]:
        if (silent_for_s >= SUSPECT_S) == self.silent:
            return []
        self.silent = not self.silent
        gone = f"the broker has been silent for {SUSPECT_S:g} s; the Task goes on"
        return [Notice(gone if self.silent else "the broker is back")]

    def _trouble(self, problem: str) -> list[Decision]:
        if problem == self.problem:
            return []
        self.problem = problem
        return [Notice(f"the broker waits: {problem}; nothing is lost" if problem else "the broker goes on")]
