"""What `theorbo launch` decides: whom to start, to signal and to wait for, and when to stop waiting. Pure.

Its life::

    STARTING ──all agents are ready──> RUNNING ──all has ended──> CLEARING ──nothing is left──> DRAINING ──> OVER

* STARTING: an agent is started here, and one on each other machine (`nodes`); if no broker welcomes it, nothing else
  is. Where another machine does not get ready no rank is started, and what was reported so far is delivered.
* RUNNING: the ranks, started directly or by a *launcher* (mpiexec, mpirun, srun). The agent is kept alive (see
  `agent_keeping`).
* CLEARING: what ranks have left behind in their process groups is ended, here and there.
* DRAINING: the agents deliver what is left, within a bound; machines that were lost are swept.
* OVER: `Finish` was given; what was not delivered stays in the spools.

Nothing waits for ever. A launcher is ended when it outlives what it is there for: when a rank ended badly
and the others do not follow, when all ranks have gone, when the ranks were to be ended. Ranks themselves
may run as long as they like.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import NamedTuple, Union

from theorbo.schemas.launch_plan import NodeStart
from theorbo.schemas.limits import GOODBYE_S, LAUNCHER_END_S, SIBLINGS_S
from theorbo.task_runtime.agent_keeping import AgentInstruction, AgentKeeping, Warn
from theorbo.task_runtime.clearing import Clearing
from theorbo.task_runtime.nodes import Nodes, NodesInstruction
from theorbo.task_runtime.phase import Finish, MarkEnd, Phase
from theorbo.task_runtime.processes import Process, RankProcess, members
from theorbo.task_runtime.rank_ending import RankEnding, SendSignal


class StartRanks(NamedTuple):
    """Start the launcher, or the ranks directly; then tell `started_ended` when all of it has ended."""


class SignalLauncher(NamedTuple):
    """Signal the launcher's process group."""

    number: signal.Signals


LaunchInstruction = Union[AgentInstruction, NodesInstruction, StartRanks, SendSignal, SignalLauncher, MarkEnd, Finish]

HERE = 0
"""The number of the head's own machine, and of its agent."""

_REQUESTED = "the ranks were to be ended"
_GONE = "all ranks have gone"


class Supervision:
    """Everything that `theorbo launch` knows. `now` is any clock in seconds that never goes back."""

    def __init__(self, *, has_launcher: bool, grace_s: float, nodes: Sequence[NodeStart] = ()) -> None:
        self.phase = Phase.STARTING
        self.agent = AgentKeeping()
        self.nodes = Nodes(nodes)
        self.ending = RankEnding()
        self.ranks: dict[int, RankProcess] = {}
        """All ranks that have started on this machine, also those that have ended."""
        self.statuses: dict[int, int] = {}
        """How ranks have ended, wherever: exit status, or minus the signal."""
        self.unrecorded: dict[int, int] = {}
        """Why the ends of ranks do not stand in their files: the number of an error."""
        self._present: set[int] = set()  # machines where thin parents live
        self._has_launcher = has_launcher
        self._grace_s = grace_s
        self._start_problem: str | None = None
        self._clearing = Clearing()
        self._launcher_by: dict[str, float] = {}  # reason → when the launcher is ended
        self._launcher_kill_at: float | None = None
        self._launcher_told = False

    # --- what has happened ------------------------------------------------------------------------

    def start(self, now: float) -> list[LaunchInstruction]:
        """The first thing to do."""
        return [*self.agent.start(now), *self.nodes.start(now)]

    def agent_ready(self) -> list[LaunchInstruction]:
        """The broker has welcomed the agent of this machine."""
        self.agent.ready()
        return self._begin()

    def agent_ended(self, status: int, words: str, now: float) -> list[LaunchInstruction]:
        """The agent's process has ended; `words` is the end of what it wrote to stderr."""
        return [*self.agent.ended(status, words, now), *self._end()]

    def node_ready(self, number: int, host: str) -> list[LaunchInstruction]:
        """The broker has welcomed the agent of another machine."""
        self.nodes.ready(number, host)
        return self._begin()

    def _begin(self) -> list[LaunchInstruction]:
        if not (self.phase is Phase.STARTING and self.agent.is_ready and self.nodes.all_ready):
            return []
        self.phase = Phase.RUNNING
        return [StartRanks()]

    def rank_started(self, rank: RankProcess) -> None:
        """A thin parent on this machine says that its program runs."""
        self.ranks[rank.rank] = rank
        self.rank_started_on(HERE)

    def rank_started_on(self, node: int) -> None:
        """A rank runs on this machine or another one, where its process is none of ours."""
        self._present.add(node)
        self._launcher_by.pop(_GONE, None)

    def rank_ended(self, rank: int, status: int, error: int, now: float) -> None:
        """A thin parent says how its program ended. `error`: why that could not be recorded, 0 if it was."""
        self.statuses[rank] = status
        if error:
            self.unrecorded[rank] = error
        if status != 0:
            self._launcher_by.setdefault(f"rank {rank} ended badly and others did not follow", now + SIBLINGS_S)

    def ranks_gone(self, now: float, node: int = HERE) -> None:
        """No thin parent lives on that machine any more, for the moment."""
        if node in self._present:
            self._present.remove(node)
            if not self._present:
                self._launcher_by[_GONE] = now + LAUNCHER_END_S

    def agent_ends_ranks(self, grace_s: float, now: float) -> None:
        """An agent was told to end the ranks of its machine, and does so."""
        self._launcher_by[_REQUESTED] = now + grace_s + LAUNCHER_END_S

    def told_to_end(self, name: str, now: float) -> list[LaunchInstruction]:
        """`theorbo launch` itself got SIGTERM or SIGINT. The second time there is no grace."""
        if self.phase is Phase.STARTING:
            return self._nothing_started(f"ended by {name} before anything was started")
        if self.phase is not Phase.RUNNING:
            return []
        grace_s = 0.0 if self.ending.requested else self._grace_s
        self._launcher_by[_REQUESTED] = now + grace_s
        return [Warn(f"theorbo launch got {name}; the ranks are being ended"), *self._end_ranks(grace_s, now)]

    def started_ended(self, now: float) -> list[LaunchInstruction]:
        """The launcher, or all ranks that were started directly, or nothing because it failed, has ended."""
        if self.phase is not Phase.RUNNING:
            return []
        self.phase = Phase.CLEARING
        return [*self.nodes.over(now)]

    # --- what is due ------------------------------------------------------------------------------

    def wants_table(self, now: float) -> bool:
        """Whether `due` needs the process table: ranks are being ended, or are going to be now."""
        if self.phase is Phase.RUNNING:
            return self.ending.requested or bool(self._launcher_reasons(now))
        return self.phase is Phase.CLEARING and not self._clearing.is_over

    def due(self, table: list[Process], now: float) -> list[LaunchInstruction]:
        """What is to be done now, also because time has passed. `table`: see `wants_table`."""
        out: list[LaunchInstruction] = [*self.agent.due(now), *self.nodes.due(now)]
        if self.phase is Phase.STARTING and self.agent.is_ready and self.nodes.start_problem:
            self._start_problem, self.phase = self.nodes.start_problem, Phase.CLEARING
            out += self.nodes.over(now)
        if self.phase is Phase.RUNNING:
            if self.nodes.gone:
                reason = f"{self.nodes.gone} was lost and does not answer, and the launcher did not end"
                self._launcher_by.setdefault(reason, now + SIBLINGS_S)
            out += self._end_launcher(now)
            out += self.ending.due(members(self._living(), table), now)
        elif self.phase is Phase.CLEARING:
            out += self._clear(table, now)
        return [*out, *self._end()]

    def next_at(self, now: float) -> float | None:
        """When `due` is to be asked again even if nothing happens; None: never."""
        times = [*self.agent.times(), *self.nodes.times(), self._clearing.until]
        if self.phase is Phase.RUNNING:
            times += [self._launcher_kill_at, self.ending.next_at(now)]
            if not self._launcher_told:
                times += self._launcher_by.values()
        return min((time for time in times if time is not None and time > now), default=None)

    @property
    def silent(self) -> list[int]:
        """Ranks of this machine that have started, and whose end nobody has reported."""
        return [number for number in self.ranks if number not in self.statuses]

    def _living(self) -> list[RankProcess]:
        return [self.ranks[number] for number in self.silent]

    def _end_ranks(self, grace_s: float, now: float) -> list[LaunchInstruction]:
        self.ending.request(grace_s, now)
        return [*self.nodes.tell("end", grace_s)]

    def _end_launcher(self, now: float) -> list[LaunchInstruction]:
        if self._launcher_kill_at is not None and now >= self._launcher_kill_at:
            self._launcher_kill_at = None
            return [SignalLauncher(signal.SIGKILL)]
        reasons = self._launcher_reasons(now)
        if not reasons:
            return []
        self._launcher_told = True
        if not self._has_launcher:
            return self._end_ranks(0.0, now)
        grace_s = 0.0 if _REQUESTED in self._launcher_by else self._grace_s
        self._launcher_kill_at = now + grace_s + GOODBYE_S
        warning = Warn(f"{reasons[0]}: the launcher is being ended")
        return [warning, SignalLauncher(signal.SIGTERM), *self._end_ranks(grace_s, now)]

    def _launcher_reasons(self, now: float) -> list[str]:
        """Why the launcher is to be ended now, unless it was told already."""
        if self._launcher_told:
            return []
        reasons = [reason for reason, at in self._launcher_by.items() if now >= at]
        # Ranks that were started directly are not each other's siblings.
        return [reason for reason in reasons if self._has_launcher or reason == _REQUESTED]

    def _clear(self, table: list[Process], now: float) -> list[LaunchInstruction]:
        out: list[LaunchInstruction] = []
        if not self._clearing.is_over:
            out += self._clearing.due(members(self.ranks.values(), table), now)
        if self._clearing.is_over and self.nodes.all_cleared:
            self.phase = Phase.DRAINING
            out.append(MarkEnd(self._start_problem))
            self.agent.drain(now)
            out += self.nodes.drain(now)
        return out

    # --- the end ----------------------------------------------------------------------------------

    def _end(self) -> list[LaunchInstruction]:
        """`Finish`, once nothing more is to be expected."""
        if self.phase is Phase.STARTING and self.agent.is_over:
            return self._nothing_started(self.agent.problem)
        if self.phase is Phase.DRAINING and self.agent.is_over and self.nodes.is_over:
            self.phase = Phase.OVER
            if self._start_problem:
                return [Finish(self._start_problem, started=False)]
            problems = [self.agent.problem, *(problem for _, _, problem in self.nodes.undelivered())]
            return [Finish("; ".join(problem for problem in problems if problem) or None, started=True)]
        return []

    def _nothing_started(self, problem: str | None) -> list[LaunchInstruction]:
        self.phase = Phase.OVER
        return [Finish(problem, started=False), *self.agent.give_up(problem), *self.nodes.tell("leave")]
