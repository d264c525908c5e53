"""What `theorbo node` decides: it keeps the agent of one machine, whose ranks others start. Pure.

Its life::

    STARTING ──agent is ready──> RUNNING ──`over`──> CLEARING ──nothing is left──> DRAINING ──> OVER

The head says when the ranks have ended (`over`). When the head has died (its pipe has closed), or everything was
told to end (SIGTERM, by a batch scheduler), this machine goes on by itself: once its ranks have gone it clears up and
delivers, for nobody else would.
"""

from __future__ import annotations

from typing import NamedTuple, Union

from theorbo.schemas.limits import HEADLESS_S
from theorbo.task_runtime.agent_keeping import AgentInstruction, AgentKeeping, Warn
from theorbo.task_runtime.clearing import Clearing
from theorbo.task_runtime.phase import Finish, MarkEnd, Phase
from theorbo.task_runtime.processes import Process, RankProcess, members
from theorbo.task_runtime.rank_ending import RankEnding, SendSignal


class Say(NamedTuple):
    """Say this to the head: `ready` or `cleared` (see `node_protocol`)."""

    word: str


NodeInstruction = Union[AgentInstruction, SendSignal, MarkEnd, Finish, Say]


class NodeSupervision:
    """Everything that `theorbo node` knows. `now` is any clock in seconds that never goes back."""

    def __init__(self, *, grace_s: float, sweep: bool = False) -> None:
        self.phase = Phase.STARTING
        self.agent = AgentKeeping(takes_over=sweep)
        self.ending = RankEnding()
        self.ranks: dict[int, RankProcess] = {}
        """All ranks that have started here, also those that have ended."""
        self._ended: set[int] = set()
        self._present = False  # any thin parent
        self._clearing = Clearing()
        self._grace_s = grace_s
        self._sweep = sweep
        self._over_was_told = False
        self._terminated = False
        self._alone = False  # nobody will say `over`
        self._alone_until: float | None = None

    # --- what has happened ------------------------------------------------------------------------

    def start(self, now: float) -> list[NodeInstruction]:
        """The first thing to do."""
        if not self._sweep:
            return [*self.agent.start(now)]
        self.phase = Phase.DRAINING
        self.agent.drain(now)
        return [MarkEnd(), *self.agent.start(now)]

    def agent_ready(self) -> list[NodeInstruction]:
        """The broker has welcomed the agent."""
        self.agent.ready()
        if self.phase is not Phase.STARTING:
            return []
        self.phase = Phase.CLEARING if self._over_was_told else Phase.RUNNING
        return [Say("ready")]

    def agent_ended(self, status: int, words: str, now: float) -> list[NodeInstruction]:
        """The agent's process has ended; `words` is the end of what it wrote to stderr."""
        return [*self.agent.ended(status, words, now), *self._end()]

    def spool_gone(self) -> list[NodeInstruction]:
        """In a sweep: an agent that nobody kept any more has delivered everything, and removed the spool."""
        return self._finish(None)

    def rank_started(self, rank: RankProcess) -> None:
        """A thin parent says that its program runs."""
        self.ranks[rank.rank] = rank
        self._present = True

    def rank_ended(self, rank: int) -> None:
        """A thin parent says that its program has ended."""
        self._ended.add(rank)

    def ranks_gone(self) -> None:
        """No thin parent lives any more, for the moment."""
        self._present = False

    def told_over(self) -> None:
        """The head says that ranks and launcher have ended."""
        self._over_was_told = True
        if self.phase is Phase.RUNNING:
            self.phase = Phase.CLEARING

    def told_to_leave(self) -> list[NodeInstruction]:
        """The head says that nothing was started."""
        if self.phase not in (Phase.STARTING, Phase.RUNNING):
            return []
        return self._finish("nothing was started")

    def told_to_end(self, grace_s: float, now: float) -> None:
        """The head says that the ranks are to end."""
        self.ending.request(grace_s, now)

    def terminated(self, name: str, now: float) -> list[NodeInstruction]:
        """Everything here got SIGTERM or SIGINT. A batch scheduler may send it twice, which means no more than once."""
        if self.phase is Phase.STARTING:
            return self._finish(f"ended by {name} before anything was started")
        if self.phase is not Phase.RUNNING or self._terminated:
            return []
        self.ending.request(self._grace_s, now)
        self._terminated = self._alone = True
        self._alone_until = now
        return [Warn(f"theorbo node got {name}; the ranks are being ended")]

    def head_gone(self, now: float) -> list[NodeInstruction]:
        """The head has died, or the connection to it."""
        if self.phase is Phase.STARTING and not self.ranks:
            return self._finish("theorbo launch has gone before anything was started")
        self._alone = True
        if self._alone_until is None:
            self._alone_until = now if self.ranks else now + HEADLESS_S
        return []

    # --- what is due ------------------------------------------------------------------------------

    def wants_table(self, now: float) -> bool:  # noqa: ARG002 - as of the head's core
        """Whether `due` needs the process table."""
        return self.phase is Phase.CLEARING or (self.phase is Phase.RUNNING and self.ending.requested)

    def due(self, table: list[Process], now: float) -> list[NodeInstruction]:
        """What is to be done now, also because time has passed. `table`: see `wants_table`."""
        out: list[NodeInstruction] = [*self.agent.due(now)]
        if self.phase is Phase.RUNNING and self._is_abandoned(now):
            self.phase = Phase.CLEARING
        elif self.phase is Phase.RUNNING:
            living = [self.ranks[number] for number in self.silent]
            out += self.ending.due(members(living, table), now)
        elif self.phase is Phase.CLEARING:
            out += self._clearing.due(members(self.ranks.values(), table), now)
            if self._clearing.is_over:
                self.phase = Phase.DRAINING
                out += [Say("cleared"), MarkEnd()]
                self.agent.drain(now)
        return [*out, *self._end()]

    @property
    def silent(self) -> list[int]:
        """Ranks that have started here, and whose end nobody has reported."""
        return [number for number in self.ranks if number not in self._ended]

    def _is_abandoned(self, now: float) -> bool:
        return self._alone and not self._present and self._alone_until is not None and now >= self._alone_until

    def next_at(self, now: float) -> float | None:
        """When `due` is to be asked again even if nothing happens; None: never."""
        times = [*self.agent.times(), self._clearing.until]
        if self.phase is Phase.RUNNING:
            times += [self.ending.next_at(now), None if self._present else self._alone_until]
        return min((time for time in times if time is not None and time > now), default=None)

    def _end(self) -> list[NodeInstruction]:
        if self.agent.is_over and self.phase in (Phase.STARTING, Phase.DRAINING):
            return self._finish(self.agent.problem)
        return []

    def _finish(self, problem: str | None) -> list[NodeInstruction]:
        started = self.phase not in (Phase.STARTING, Phase.RUNNING)
        self.phase = Phase.OVER
        return [Finish(problem, started), *self.agent.give_up(problem)]
