"""From evidence to outcome: what the signals of an execution say about its state. Pure; needs pydantic.

`Evidence.add` takes the signals one by one, in the order of their positions. `Evidence.state` is a
function of what was added: before the end PENDING, RUNNING once all ranks have started, STOPPED while all
that have not ended are held; at the end what `verdict` says, by the precedence that stands there.

A rank whose own end record could not be written ended as the launcher says (`LauncherEnded.unrecorded`).
The outcome is given once everything is delivered (`Evidence.delivered`), or the agents that have not delivered
are given up.
"""

from __future__ import annotations

import signal
from collections import Counter

from theorbo.schemas import events
from theorbo.schemas.names import Channel, Source, SourceKind, Stream
from theorbo.schemas.states import State
from theorbo.schemas.verdict import asked, verdict

_ENDING = ("cancel", "kill")

_JOB_LIVES = frozenset({
    "", "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT",
    "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "UNKNOWN",
})  # fmt: skip
"""Words of batch schedulers for a job that has not ended, or of which nobody knows that it has."""

_JOB_WAITS = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
"""Those of a job that has no nodes yet."""


class Evidence:
    """What is known about one execution."""

    def __init__(self) -> None:
        self.submitted: events.ExecutionSubmitted | None = None
        self.job: events.JobSubmitted | None = None
        self.job_changed: events.JobChanged | None = None
        """The last one."""
        self.launcher_started: events.LauncherStarted | None = None
        self.launcher_ended: events.LauncherEnded | None = None
        self.launcher_gone: events.LauncherGone | None = None
        self.nodes_lost: dict[int, events.NodeLost] = {}
        self.agents_started: dict[int, events.AgentStarted] = {}
        self.agents_closed: dict[int, events.AgentClosed] = {}
        self.agents_given_up: dict[int, events.AgentGivenUp] = {}
        self.ranks_started: dict[int, events.RankStarted] = {}
        self.ranks_ended: dict[int, events.RankEnded] = {}  # in the order of their positions
        self.alive: set[int] = set()
        """Ranks that have started and not ended."""
        self.stopped: set[int] = set()
        """Ranks that are held, as their agents say, and have not ended."""
        self.running: set[int] = set()
        """Those of `alive` that are not held."""
        self.started_on = Counter[str]()
        """How many ranks have started on a host."""
        self.ended_on = Counter[str]()
        self.failure: tuple[Source, events.TaskFailed] | None = None
        """The last one of the source that failed first."""
        self.request: events.ControlRequested | None = None
        """The first one for an end, or the first for a time limit if there is one."""
        self.holds: dict[str, events.ControlRequested] = {}
        """The last request to stop, and to continue."""
        self.lost_events = 0

    def add(self, source: Source, event: events.EventBase) -> None:
        """Take over the next signal. Kinds that are no evidence are passed over."""
        match event:
            case events.ExecutionSubmitted():
                self.submitted = self.submitted or event
            case events.JobSubmitted():
                self.job = event
            case events.JobChanged():
                self.job_changed = event
            case events.LauncherStarted():
                self.launcher_started = event
            case events.LauncherEnded():
                self.launcher_ended = self.launcher_ended or event
                for rank, status in event.unrecorded.items():
                    self._rank_ended(rank, _unrecorded_end(status, event.time))
            case events.LauncherGone():
                self.launcher_gone = self.launcher_gone or event
            case events.NodeLost():
                self.nodes_lost.setdefault(event.node, event)
            case events.AgentStarted():
                self.agents_started[source.index] = event
            case events.AgentClosed():
                self.agents_closed[source.index] = event
            case events.AgentGivenUp():
                self.agents_given_up[event.node] = event
            case events.RankStarted():
                self._rank_started(source.index, event)
            case events.RankEnded():
                self._rank_ended(source.index, event)
            case events.RanksStopped():
                self.stopped.update(rank for rank in event.ranks if rank < self.ranks and rank not in self.ranks_ended)
                self.running.difference_update(event.ranks)
            case events.RanksContinued():
                self.stopped.difference_update(event.ranks)
                self.running.update(self.alive.intersection(event.ranks))
            case events.TaskFailed():
                if self.failure is None or self.failure[0] == source:
                    self.failure = source, event
            case events.ControlRequested():
                self._requested(event)
            case events.Loss():
                self.lost_events += event.count

    def _rank_started(self, rank: int, event: events.RankStarted) -> None:
        if rank not in self.ranks_started:
            self.started_on[event.host] += 1
            self.ended_on[event.host] += rank in self.ranks_ended
        self.ranks_started[rank] = event
        if rank not in self.ranks_ended:
            self.alive.add(rank)
            if rank not in self.stopped:
                self.running.add(rank)

    def _rank_ended(self, rank: int, event: events.RankEnded) -> None:
        if rank in self.ranks_ended:
            return
        self.ranks_ended[rank] = event
        if rank in self.ranks_started:
            self.ended_on[self.ranks_started[rank].host] += 1
        for ranks in (self.alive, self.stopped, self.running):
            ranks.discard(rank)

    def _requested(self, event: events.ControlRequested) -> None:
        if event.action in ("stop", "continue"):
            self.holds[event.action] = event
        if event.action not in _ENDING or self._too_late(event):
            return
        limited = self.request is not None and self.request.cause == "time_limit"
        if self.request is None or (event.cause == "time_limit" and not limited):
            self.request = event

    def _too_late(self, event: events.ControlRequested) -> bool:
        """Whether everything had ended before somebody wanted an end: that is no reason for it."""
        end = self.launcher_ended or self.launcher_gone
        return end is not None and event.time > end.time

    @property
    def ranks(self) -> int:
        """How many ranks there should be."""
        return self.submitted.ranks if self.submitted else 1

    @property
    def started(self) -> bool:
        """Whether every rank has started."""
        return len(self.ranks_started) >= self.ranks and all(rank in self.ranks_started for rank in range(self.ranks))

    @property
    def held(self) -> bool:
        """Whether every rank that has not ended is held, and there is one."""
        return bool(self.alive) and not self.running

    @property
    def ended(self) -> bool:
        """Whether launcher and ranks have ended as far as anyone saw; deliveries may still be under way."""
        return self.launcher_ended is not None or self.launcher_gone is not None

    @property
    def queued(self) -> bool:
        """Whether its job waits in a scheduler's queue, as far as is known: there may be nobody to hear for days."""
        if self.job is None or self.ended or self.launcher_started or self.agents_started:
            return False
        return self.job_changed is None or self.job_changed.state in _JOB_WAITS

    @property
    def scheduler_state(self) -> str:
        """How the batch scheduler says that the job has ended; empty if it does not, or there is none."""
        said = (
            self.launcher_ended.scheduler_state if self.launcher_ended else "",
            self.launcher_gone.scheduler_state if self.launcher_gone else "",
            self.job_changed.state if self.job_changed else "",
        )
        words = (text.split()[0] for text in said if text.strip())  # CANCELLED by 1000
        return next((word for word in words if word not in _JOB_LIVES), "")

    @property
    def reported(self) -> dict[Stream, int]:
        """The last number of every stream, as stated by the agents that have closed."""
        streams: dict[Stream, int] = {}
        for index, closed in self.agents_closed.items():
            streams.update({Stream.parse(name): last for name, last in closed.streams.items()})
            own = Stream(Source(SourceKind.AGENT, index), Channel.SIGNALS)
            streams.setdefault(own, 0)
        return streams

    @property
    def expected_agents(self) -> int:
        """How many agents there should be, as far as their end is to be waited for."""
        if self.launcher_ended is None or self.launcher_started is None:
            return 0  # the launcher died; only agents that did start can be waited for
        return self.launcher_started.agents

    @property
    def delivered(self) -> bool:
        """Whether everything that will ever be reported is in the journal: agents close after that. One that was
        given up is not waited for.
        """
        if not self.ended:
            return False
        over = self.agents_closed.keys() | self.agents_given_up.keys()
        return len(over) >= self.expected_agents and self.agents_started.keys() <= over

    def forsaken(self, node: int) -> bool:
        """Whether an agent that has not closed may be gone for good: its node, or the whole job, has."""
        if not self.ended or node in self.agents_closed or node in self.agents_given_up:
            return False
        return node in self.nodes_lost or self.scheduler_state != ""

    def state(self, current: State) -> tuple[State, str]:
        """The state that follows from the evidence, and the reason in one sentence."""
        if self.delivered:
            return verdict(self)
        if current is State.PENDING and self.started:
            return State.RUNNING, ""
        if current is State.RUNNING and self.held:
            return State.STOPPED, asked(self.holds.get("stop"))
        if current is State.STOPPED and self.running:
            return State.RUNNING, asked(self.holds.get("continue"))
        return current, ""


def _unrecorded_end(status: int, time: float) -> events.RankEnded:
    if status >= 0:
        return events.RankEnded(time=time, exit_code=status)
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return events.RankEnded(time=time, signal=name)
