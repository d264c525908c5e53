"""Following a request: who has to answer, who has answered, and when there is nothing more to wait for. Pure.

All signals of the execution are taken in the order of their positions, from the first on: those before the request tell
who there is, those after it are what came of it. Deadlines are those that the receipts state, taken as spans of the
writer's own clock, for clocks of nodes differ.
"""

from __future__ import annotations

from typing import NamedTuple

from theorbo.schemas import events
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import DRAIN_S, RECEIPT_MOST_S, RECEIPT_S, SETTLE_S
from theorbo.schemas.names import EXECUTOR, Source, SourceKind
from theorbo.schemas.states import State

ENDING = ("cancel", "kill")
_WANTED = {"stop": State.STOPPED, "continue": State.RUNNING}
_FROM = {"stop": State.RUNNING, "continue": State.STOPPED}


class Answer(NamedTuple):
    """What one agent (or the Executor) has said to the request so far."""

    source: str
    """`agent:0`, `executor`."""
    host: str
    accepted: bool = False
    done: bool = False
    detail: str = ""
    refused: str = ""


class Receipts:
    """One request and what has come of it. `now` is any clock in seconds that never goes back."""

    def __init__(self, action: str, position: int, state: State, now: float) -> None:
        """`position` is that of the request in the channel signals, as REQUESTED has it."""
        self._action = action
        self._position = position
        self._answers: dict[Source, Answer] = {}
        self._limits: dict[Source, float] = {}
        self._asked_at = now
        self._complete_at: float | None = None
        self._hosts: dict[int, str] = {}
        self._agents: int | None = None
        self._gone: set[int] = set()
        self._before = State.PENDING
        self.state = state
        """Of the execution, as far as the signals have come."""
        self.reason = ""

    def take(self, header: Header, event: events.EventBase, now: float) -> bool:
        """The next signal. Whether it is of interest to who waits for the receipts."""
        source = header.source
        mine = header.position >= self._position
        match event:
            case events.LauncherStarted():
                self._agents = event.agents
            case events.AgentStarted() if source:
                self._hosts[source.index] = event.host
                self._gone.discard(source.index)  # a sweep
            case events.AgentClosed() if source:
                self._gone.add(source.index)
            case events.AgentGivenUp():
                self._gone.add(event.node)
            case events.StateChanged():
                self._state(event, mine=mine)
            case events.ControlAccepted() if source and event.request == self._position:
                span_s = min(max(0.0, event.deadline - event.time), RECEIPT_MOST_S)
                self._limits[source] = now + span_s + RECEIPT_S
                self._answers[source] = self._answer(source)._replace(accepted=True)
            case events.ControlDone() if source and event.request == self._position:
                answer = self._answer(source)._replace(done=True, detail=event.detail, refused=event.refused)
                self._answers[source] = answer
            case _:
                pass
        if isinstance(event, events.ControlAccepted | events.ControlDone):
            return event.request == self._position
        return mine and isinstance(event, _SHOWN)

    def _state(self, event: events.StateChanged, *, mine: bool) -> None:
        try:
            self.state, self.reason = State(event.state), event.reason
        except ValueError:
            return  # of a later version
        if not mine:
            self._before = self.state

    def _answer(self, source: Source) -> Answer:
        return self._answers.get(source) or Answer(str(source), self.host(source))

    @property
    def expected(self) -> frozenset[Source]:
        """Who has to answer: the agents that have not closed; of a job that waits for its turn the Executor."""
        if self._agents is None:
            agents = set(self._hosts)
            if not agents and self._action in ENDING:
                return frozenset({EXECUTOR})
        else:
            agents = set(range(self._agents))
        return frozenset(Source(SourceKind.AGENT, index) for index in agents - self._gone)

    @property
    def answers(self) -> list[Answer]:
        """What was said, and who has said nothing yet, in order."""
        return [self._answer(source) for source in sorted({*self._answers, *self.expected})]

    @property
    def missing(self) -> list[Answer]:
        """Those who have not said that it is done, or that they refuse."""
        return [self._answer(source) for source in self._missing()]

    def _missing(self) -> list[Source]:
        return [source for source in sorted(self.expected) if not self._answer(source).done]

    def host(self, source: Source | None) -> str:
        """Of an agent; empty if it is none, or has not said so."""
        return self._hosts.get(source.index, "") if source and source.kind is SourceKind.AGENT else ""

    @property
    def refused(self) -> bool:
        """Whether somebody has refused."""
        return any(answer.refused for answer in self._answers.values())

    def over(self, now: float) -> bool:
        """Whether all that was to come has come."""
        if self.state.final:
            return True
        if self._missing() or not self._answers:
            self._complete_at = None
            return False
        if self._complete_at is None:
            self._complete_at = now
        if self._action in ENDING:
            return self.refused
        wanted = self._action in _WANTED and self._before is _FROM[self._action] and not self.refused
        return not wanted or self.state is _WANTED[self._action] or now >= self._complete_at + SETTLE_S

    def too_late(self, now: float) -> bool:
        """Whether what is missing will not come any more in the time that was stated."""
        missing = self._missing()
        if not missing and self._complete_at is not None:
            return now >= self._complete_at + DRAIN_S
        limits = [self._limits.get(source, self._asked_at + RECEIPT_S) for source in missing]
        return now >= max(limits, default=self._asked_at + RECEIPT_S)


_SHOWN = (
    events.ControlRequested, events.StateChanged, events.NodeLost, events.AgentGivenUp, events.JobChanged,
    events.LauncherGone,
)  # fmt: skip
