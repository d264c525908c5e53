"""What `theorbo launch` decides: whom to start, to signal and to wait for, and when to stop waiting. Pure.

Its life::

    STARTING ──agent is ready──> RUNNING ──all has ended──> CLEARING ──nothing is left──> DRAINING ──> OVER

* STARTING: an agent is started; if no broker welcomes it, nothing else is.
* RUNNING: the ranks, started directly or by a *launcher* (mpiexec, mpirun, srun). An agent that dies is
  started again, a bounded number of times and after a growing pause; not so one that is fenced, for another
  agent has taken over.
* CLEARING: what ranks have left behind in their process groups is ended.
* DRAINING: the agent delivers what is left, within a bound.
* OVER: `Finish` was given; what was not delivered stays in the spool.

Nothing waits for ever. A launcher is ended when it outlives what it is there for: when a rank ended badly
and the others do not follow, when all ranks have gone, when the ranks were to be ended. Ranks themselves
may run as long as they like.
"""

from __future__ import annotations

import enum
import signal
from typing import NamedTuple, Union

from theorbo.schemas.limits import (
    AGENT_PAUSE_S,
    AGENT_READY_S,
    AGENT_RESTARTS,
    AGENT_STEADY_S,
    DRAIN_S,
    GOODBYE_S,
    LAUNCHER_END_S,
    LEAVE_S,
    LEFTOVER_S,
    SIBLINGS_S,
)
from theorbo.task_runtime.processes import Process, RankProcess, members
from theorbo.task_runtime.rank_ending import RankEnding, SendSignal


class Phase(enum.Enum):
    """See the drawing above."""

    STARTING = "starting"
    RUNNING = "running"
    CLEARING = "clearing"
    DRAINING = "draining"
    OVER = "over"


class StartAgent(NamedTuple):
    """Start an agent; tell `agent_started`."""


class StartRanks(NamedTuple):
    """Start the launcher, or the ranks directly; then tell `started_ended` when all of it has ended."""


class SignalLauncher(NamedTuple):
    """Signal the launcher's process group."""

    number: signal.Signals


class SignalAgent(NamedTuple):
    """Signal the agent."""

    number: signal.Signals


class Warn(NamedTuple):
    """Report this as a log line of the launcher."""

    text: str


class MarkEnd(NamedTuple):
    """Report `launcher_ended`, then make the file that tells the agent that nothing more will come."""


class Finish(NamedTuple):
    """It is over. `problem` says what went wrong; `started` whether anything was run at all."""

    problem: str | None
    started: bool


LaunchInstruction = Union[StartAgent, StartRanks, SendSignal, SignalLauncher, SignalAgent, Warn, MarkEnd, Finish]


_REQUESTED = "the ranks were to be ended"
_GONE = "all ranks have gone"


class Supervision:
    """Everything that `theorbo launch` knows. `now` is any clock in seconds that never goes back."""

    def __init__(self, *, has_launcher: bool, grace_s: float) -> None:
        self.phase = Phase.STARTING
        self.ending = RankEnding()
        self.ranks: dict[int, RankProcess] = {}
        """All ranks that have started, also those that have ended."""
        self.statuses: dict[int, int] = {}
        """How ranks have ended: exit status, or minus the signal."""
        self.unrecorded: dict[int, int] = {}
        """Why the ends of ranks do not stand in their files: the number of an error."""
        self._has_launcher = has_launcher
        self._grace_s = grace_s
        self._agent_deaths = 0
        self._agent_at = 0.0
        self._agent_lives = False
        self._agent_lost = False  # it was given up
        self._agent_fenced = False
        self._restart_at: float | None = None
        self._ready_by: float | None = None
        self._launcher_by: dict[str, float] = {}  # reason → when the launcher is ended
        self._launcher_kill_at: float | None = None
        self._launcher_told = False
        self._left_until: float | None = None
        self._left_told = False
        self._drain_by: float | None = None
        self._agent_kill_at: float | None = None

    # --- what has happened ------------------------------------------------------------------------

    def start(self, now: float) -> list[LaunchInstruction]:
        """The first thing to do."""
        self._ready_by = now + AGENT_READY_S
        return [StartAgent()]

    def agent_started(self, now: float) -> None:
        """An agent's process runs."""
        self._agent_at, self._agent_lives = now, True

    def agent_ready(self) -> list[LaunchInstruction]:
        """The broker has welcomed the agent."""
        if self.phase is not Phase.STARTING:
            return []
        self.phase, self._ready_by = Phase.RUNNING, None
        return [StartRanks()]

    def agent_fenced(self) -> None:
        """The agent says that another has taken over; it is about to end."""
        self._agent_fenced = True

    def agent_ended(self, status: int, words: str, now: float) -> list[LaunchInstruction]:
        """The agent's process has ended; `words` is the end of what it wrote to stderr."""
        self._agent_lives = False
        if self.phase is Phase.OVER:
            return []
        if self.phase is Phase.STARTING:
            return self._finish(words or f"the agent ended with status {status} before it was ready")
        if self.phase is Phase.DRAINING and status == 0:
            return self._finish(None)
        if self._agent_kill_at is not None:
            return self._finish(f"not everything could be delivered within {DRAIN_S:.0f} s")
        if now - self._agent_at >= AGENT_STEADY_S:
            self._agent_deaths = 0
        self._agent_deaths += 1
        if self._agent_deaths <= AGENT_RESTARTS and not self._agent_fenced:
            self._restart_at = now + AGENT_PAUSE_S * 2 ** (self._agent_deaths - 1)
            return []
        self._agent_lost = True
        problem = f"the agent ended {self._agent_deaths} times, the last time with status {status}: {words}"
        if self.phase is Phase.DRAINING:
            return self._finish(problem)
        return [Warn(problem)]

    def rank_started(self, rank: RankProcess) -> None:
        """A thin parent says that its program runs."""
        self.ranks[rank.rank] = rank
        self._launcher_by.pop(_GONE, None)

    def rank_ended(self, rank: int, status: int, error: int, now: float) -> None:
        """A thin parent says how its program ended. `error`: why that could not be recorded, 0 if it was."""
        self.statuses[rank] = status
        if error:
            self.unrecorded[rank] = error
        if status != 0:
            self._launcher_by.setdefault(f"rank {rank} ended badly and others did not follow", now + SIBLINGS_S)

    def ranks_gone(self, now: float) -> None:
        """No thin parent lives any more, for the moment."""
        self._launcher_by[_GONE] = now + LAUNCHER_END_S

    def agent_ends_ranks(self, grace_s: float, now: float) -> None:
        """The agent was told to end the ranks, and does so."""
        self._launcher_by[_REQUESTED] = now + grace_s + LAUNCHER_END_S

    def told_to_end(self, name: str, now: float) -> list[LaunchInstruction]:
        """`theorbo launch` itself got SIGTERM or SIGINT. The second time there is no grace."""
        if self.phase is Phase.STARTING:
            return [*self._finish(f"ended by {name} before anything was started"), *self._stop_agent()]
        if self.phase is not Phase.RUNNING:
            return []
        grace_s = 0.0 if self.ending.requested else self._grace_s
        self.ending.request(grace_s, now)
        self._launcher_by[_REQUESTED] = now + grace_s
        return [Warn(f"theorbo launch got {name}; the ranks are being ended")]

    def started_ended(self) -> None:
        """The launcher, or all ranks that were started directly, or nothing because it failed, has ended."""
        if self.phase is Phase.RUNNING:
            self.phase = Phase.CLEARING

    # --- what is due ------------------------------------------------------------------------------

    def wants_table(self, now: float) -> bool:
        """Whether `due` needs the process table: ranks are being ended, or are going to be now."""
        if self.phase is Phase.RUNNING:
            return self.ending.requested or bool(self._launcher_reasons(now))
        return self.phase is Phase.CLEARING

    def due(self, table: list[Process], now: float) -> list[LaunchInstruction]:
        """What is to be done now, also because time has passed. `table`: see `wants_table`."""
        out: list[LaunchInstruction] = []
        if self._restart_at is not None and now >= self._restart_at and self.phase is not Phase.OVER:
            self._restart_at = None
            out.append(StartAgent())
        if self.phase is Phase.STARTING and self._ready_by is not None and now >= self._ready_by:
            out += self._finish(f"the agent was not ready within {AGENT_READY_S:.0f} s")
            out += self._stop_agent()
        elif self.phase is Phase.RUNNING:
            out += self._end_launcher(now)
            out += self.ending.due(members(self._living(), table), now)
        elif self.phase is Phase.CLEARING:
            out += self._clear(members(self.ranks.values(), table), now)
        elif self.phase is Phase.DRAINING:
            out += self._drain(now)
        return out

    def next_at(self, now: float) -> float | None:
        """When `due` is to be asked again even if nothing happens; None: never."""
        times = [self._ready_by, self._left_until, self._drain_by, self._agent_kill_at, self._restart_at]
        if self.phase is Phase.RUNNING:
            times += [self._launcher_kill_at, self.ending.kill_at]
            if not self._launcher_told:
                times += self._launcher_by.values()
            if self.ending.kill_at is not None and now >= self.ending.kill_at:
                times.append(now + LEFTOVER_S)  # SIGKILL again, for what was being forked
        return min((time for time in times if time is not None and time > now), default=None)

    def _living(self) -> list[RankProcess]:
        return [rank for number, rank in self.ranks.items() if number not in self.statuses]

    def _end_launcher(self, now: float) -> list[LaunchInstruction]:
        if self._launcher_kill_at is not None and now >= self._launcher_kill_at:
            self._launcher_kill_at = None
            return [SignalLauncher(signal.SIGKILL)]
        reasons = self._launcher_reasons(now)
        if not reasons:
            return []
        self._launcher_told = True
        if not self._has_launcher:
            self.ending.request(0.0, now)
            return []
        grace_s = 0.0 if _REQUESTED in self._launcher_by else self._grace_s
        self.ending.request(grace_s, now)
        self._launcher_kill_at = now + grace_s + GOODBYE_S
        return [Warn(f"{reasons[0]}: the launcher is being ended"), SignalLauncher(signal.SIGTERM)]

    def _launcher_reasons(self, now: float) -> list[str]:
        """Why the launcher is to be ended now, unless it was told already."""
        if self._launcher_told:
            return []
        reasons = [reason for reason, at in self._launcher_by.items() if now >= at]
        # Ranks that were started directly are not each other's siblings.
        return [reason for reason in reasons if self._has_launcher or reason == _REQUESTED]

    def _clear(self, left: dict[int, list[Process]], now: float) -> list[LaunchInstruction]:
        """Helpers of a program often see its end and go: they get a moment, then SIGTERM, then SIGKILL."""
        living = {rank: processes for rank, processes in left.items() if processes}
        all_living = [process for processes in living.values() for process in processes]
        if living and self._left_until is None:
            self._left_until = now + LEAVE_S
        if living and self._left_until is not None and now < self._left_until:
            return []
        if living and not self._left_told:
            self._left_told, self._left_until = True, now + LEFTOVER_S
            numbers = ", ".join(str(process.pid) for process in all_living)
            warning = Warn(f"left behind by rank {', '.join(map(str, living))}, and ended: process {numbers}")
            return [warning, *(SendSignal(process, signal.SIGTERM) for process in all_living)]
        self.phase, self._left_until = Phase.DRAINING, None
        self._drain_by = now + DRAIN_S
        out: list[LaunchInstruction] = [SendSignal(process, signal.SIGKILL) for process in all_living]
        out.append(MarkEnd())
        if self._agent_lost:
            out += self._finish("there is no agent any more")
        return out

    def _drain(self, now: float) -> list[LaunchInstruction]:
        if self._agent_kill_at is not None and now >= self._agent_kill_at:
            return [SignalAgent(signal.SIGKILL)]
        if self._drain_by is not None and now >= self._drain_by:
            if not self._agent_lives:
                return self._finish(f"not everything could be delivered within {DRAIN_S:.0f} s")
            self._drain_by, self._agent_kill_at = None, now + GOODBYE_S
            return [SignalAgent(signal.SIGTERM)]
        return []

    def _stop_agent(self) -> list[LaunchInstruction]:
        return [SignalAgent(signal.SIGTERM)] if self._agent_lives else []

    def _finish(self, problem: str | None) -> list[LaunchInstruction]:
        started = self.phase is not Phase.STARTING
        self.phase = Phase.OVER
        return [Finish(problem, started)]
