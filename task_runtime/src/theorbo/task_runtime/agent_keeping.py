"""Keeping one agent alive for a spool: start, ready, restart after a pause, drain, give up. Pure.

`theorbo launch` does it for its own machine, `theorbo node` for another. An agent under such a keeper heeds no
SIGTERM, which a batch scheduler sends to everything at once: it is dismissed by a word, for it has to deliver what
the ranks leave behind when they end.

    starting ──welcomed by the broker──> ready ──drain()──> draining ──ended with 0──> over

An agent that dies is started again, a bounded number of times and after a growing pause; not so one that is fenced,
for another agent has taken over.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from theorbo.schemas.limits import (
    AGENT_PAUSE_S,
    AGENT_READY_S,
    AGENT_RESTARTS,
    AGENT_STEADY_S,
    DRAIN_S,
    GOODBYE_S,
)


class StartAgent(NamedTuple):
    """Start an agent; tell `started`."""


class DismissAgent(NamedTuple):
    """Tell the agent to leave the rest where it is, and to end."""


class KillAgent(NamedTuple):
    """End it by SIGKILL."""


class Warn(NamedTuple):
    """Report this as a log line of the launcher."""

    text: str


AgentInstruction = Union[StartAgent, DismissAgent, KillAgent, Warn]


class AgentKeeping:
    """Everything that a keeper knows of its agent. `now` is any clock in seconds that never goes back."""

    def __init__(self, *, takes_over: bool = False) -> None:
        """`takes_over`: others have delivered this spool before, so there is no welcome to be waited for."""
        self.is_ready = takes_over
        self.is_over = False
        """There is no agent, and none will be started."""
        self.problem: str | None = None
        """Why it is over before everything was delivered."""
        self._takes_over = takes_over
        self._draining = False
        self._deaths = 0
        self._started_at = 0.0
        self._lives = False
        self._given_up = False
        self._fenced = False
        self._restart_at: float | None = None
        self._ready_by: float | None = None
        self._drain_by: float | None = None
        self._kill_at: float | None = None

    # --- what has happened ------------------------------------------------------------------------

    def start(self, now: float) -> list[AgentInstruction]:
        """The first thing to do."""
        if not self._takes_over:
            self._ready_by = now + AGENT_READY_S
        return [StartAgent()]

    def started(self, now: float) -> None:
        """An agent's process runs."""
        self._started_at, self._lives = now, True

    def ready(self) -> None:
        """The broker has welcomed the agent."""
        self.is_ready, self._ready_by = True, None

    def fenced(self) -> None:
        """The agent says that another has taken over; it is about to end."""
        self._fenced = True

    def ended(self, status: int, words: str, now: float) -> list[AgentInstruction]:
        """The agent's process has ended; `words` is the end of what it wrote to stderr."""
        self._lives = False
        if self.is_over:
            return []
        if not self.is_ready:
            return self._over(words or f"the agent ended with status {status} before it was ready")
        if self._draining and status == 0:
            return self._over(None)
        if self._kill_at is not None:
            return self._over(_UNDELIVERED)
        if now - self._started_at >= AGENT_STEADY_S:
            self._deaths = 0
        self._deaths += 1
        if self._deaths <= AGENT_RESTARTS and not self._fenced:
            self._restart_at = now + AGENT_PAUSE_S * 2 ** (self._deaths - 1)
            return []
        self._given_up = True
        problem = f"the agent ended {self._deaths} times, the last time with status {status}: {words}"
        return self._over(problem) if self._draining else [Warn(problem)]

    def drain(self, now: float) -> None:
        """Nothing more will come: the agent has been told by the file END, and has a bounded time."""
        self._draining, self._drain_by = True, now + DRAIN_S
        if self._given_up:
            self._over("there is no agent any more")

    def give_up(self, problem: str | None) -> list[AgentInstruction]:
        """It is not needed any more."""
        dismiss: list[AgentInstruction] = [DismissAgent()] if self._lives and not self.is_over else []
        return [*dismiss, *self._over(problem)]

    # --- what is due ------------------------------------------------------------------------------

    def due(self, now: float) -> list[AgentInstruction]:
        """What is to be done now because time has passed."""
        if self.is_over:
            return []
        if self._restart_at is not None and now >= self._restart_at:
            self._restart_at = None
            return [StartAgent()]
        if self._ready_by is not None and now >= self._ready_by:
            return self.give_up(f"the agent was not ready within {AGENT_READY_S:.0f} s")
        if self._kill_at is not None and now >= self._kill_at:
            return [KillAgent()]
        if self._drain_by is not None and now >= self._drain_by:
            if not self._lives:
                return self._over(_UNDELIVERED)
            self._drain_by, self._kill_at = None, now + GOODBYE_S
            return [DismissAgent()]
        return []

    def times(self) -> list[float | None]:
        """When `due` is to be asked again."""
        return [] if self.is_over else [self._ready_by, self._restart_at, self._drain_by, self._kill_at]

    def _over(self, problem: str | None) -> list[AgentInstruction]:
        self.is_over, self.problem = True, problem
        return []


_UNDELIVERED = f"not everything could be delivered within {DRAIN_S:.0f} s"
