"""From evidence to outcome: what the signals of an execution say about its state. Pure; needs pydantic.

`Evidence.add` takes the signals one by one, in the order of their positions. `Evidence.state` is a
function of what was added, by the precedence that stands in `_verdict`, first match wins:

1. nothing could be started: FAILED, with the launcher's reason;
2. all ranks ended well and the Task did not say that it failed: COMPLETED, whatever else was requested
   or said (a launcher's exit code is no truth);
3. a time limit was reached: TIMEDOUT;
4. somebody cancelled: CANCELLED, by whom;
5. the Task said that it failed: FAILED, with the last error of the source that failed first (that explains exit
   codes which follow; and an uncaught exception weighs more than a result that could not be sent before);
6. a rank ended badly: FAILED, with the first bad end (the others mostly follow from it);
7. ranks without an end record: FAILED, with what the launcher said.

A rank whose own end record could not be written ended as the launcher says (`LauncherEnded.unrecorded`).
The outcome is given once everything is delivered (`Evidence.delivered`).
"""

from __future__ import annotations

import signal

from theorbo.schemas import events
from theorbo.schemas.names import Channel, Source, SourceKind, Stream
from theorbo.schemas.states import State


class Evidence:
    """What is known about one execution."""

    def __init__(self) -> None:
        self.submitted: events.ExecutionSubmitted | None = None
        self.launcher_started: events.LauncherStarted | None = None
        self.launcher_ended: events.LauncherEnded | None = None
        self.launcher_gone: events.LauncherGone | None = None
        self.agents_started: dict[int, events.AgentStarted] = {}
        self.agents_closed: dict[int, events.AgentClosed] = {}
        self.ranks_started: dict[int, events.RankStarted] = {}
        self.ranks_ended: dict[int, events.RankEnded] = {}  # in the order of their positions
        self.failure: tuple[Source, events.TaskFailed] | None = None
        """The last one of the source that failed first."""
        self.request: events.ControlRequested | None = None
        """The first one, or the first for a time limit if there is one."""
        self.lost_events = 0

    def add(self, source: Source, event: events.EventBase) -> None:
        """Take over the next signal. Kinds that are no evidence are passed over."""
        match event:
            case events.ExecutionSubmitted():
                self.submitted = self.submitted or event
            case events.LauncherStarted():
                self.launcher_started = event
            case events.LauncherEnded():
                self.launcher_ended = self.launcher_ended or event
                for rank, status in event.unrecorded.items():
                    self.ranks_ended.setdefault(rank, _unrecorded_end(status, event.time))
            case events.LauncherGone():
                self.launcher_gone = self.launcher_gone or event
            case events.AgentStarted():
                self.agents_started[source.index] = event
            case events.AgentClosed():
                self.agents_closed[source.index] = event
            case events.RankStarted():
                self.ranks_started[source.index] = event
            case events.RankEnded():
                self.ranks_ended.setdefault(source.index, event)
            case events.TaskFailed():
                if self.failure is None or self.failure[0] == source:
                    self.failure = source, event
            case events.ControlRequested():
                limited = self.request is not None and self.request.cause == "time_limit"
                if self.request is None or (event.cause == "time_limit" and not limited):
                    self.request = event
            case events.Loss():
                self.lost_events += event.count

    @property
    def ranks(self) -> int:
        """How many ranks there should be."""
        return self.submitted.ranks if self.submitted else 1

    @property
    def started(self) -> bool:
        """Whether every rank has started."""
        return len(self.ranks_started) >= self.ranks

    @property
    def ended(self) -> bool:
        """Whether launcher and ranks have ended as far as anyone saw; deliveries may still be under way."""
        return self.launcher_ended is not None or self.launcher_gone is not None

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
    def delivered(self) -> bool:
        """Whether everything that will ever be reported is in the journal (agents close after that)."""
        if not self.ended:
            return False
        expected = self.launcher_started.agents if self.launcher_started else 0
        if self.launcher_ended is None:
            expected = 0  # the launcher died; only agents that did start can be waited for
        return len(self.agents_closed) >= expected and self.agents_started.keys() <= self.agents_closed.keys()

    def state(self, current: State) -> tuple[State, str]:
        """The state that follows from the evidence, and the reason in one sentence."""
        if self.delivered:
            return self._verdict()
        if current is State.PENDING and self.started:
            return State.RUNNING, ""
        return current, ""

    def _verdict(self) -> tuple[State, str]:
        request = self.request
        bad_ends = {rank: end for rank, end in self.ranks_ended.items() if end.exit_code != 0}
        missing = [rank for rank in range(self.ranks) if rank not in self.ranks_ended]
        if self.launcher_ended and self.launcher_ended.problem:
            return State.FAILED, self.launcher_ended.problem
        if not bad_ends and not missing and not self.failure:
            return State.COMPLETED, ""
        if request and request.cause == "time_limit":
            return State.TIMEDOUT, request.reason
        if request:
            return State.CANCELLED, f"by {request.by}" + (f": {request.reason}" if request.reason else "")
        if self.failure:
            source, failure = self.failure
            return State.FAILED, f"{self._who(source.rank)}{failure.error}"
        if bad_ends:
            rank, end = min(bad_ends.items(), key=lambda item: item[1].time)  # an agent reads file by file
            return State.FAILED, f"{self._who(rank)}{_how(end)}{self._unrecorded(rank)}"
        return State.FAILED, self._silence(missing)

    def _who(self, rank: int | None) -> str:
        return f"rank {rank}: " if rank is not None and self.ranks > 1 else ""

    def _unrecorded(self, rank: int) -> str:
        """What kept a rank from saying more, if anything did."""
        if not self.launcher_ended or rank not in self.launcher_ended.unrecorded:
            return ""
        return f" (it could not report to its spool: {self.launcher_ended.unrecorded_why})"

    def _silence(self, missing: list[int]) -> str:
        said = ""
        if self.launcher_ended:
            said = f"the launcher ended with exit code {self.launcher_ended.exit_code}"
            if self.launcher_ended.stderr.strip():
                said += ": " + self.launcher_ended.stderr.strip().splitlines()[-1]
        elif self.launcher_gone:
            said = self.launcher_gone.reason
        if len(missing) == self.ranks and not self.ranks_started:
            return f"no rank started; {said}"
        ranks = ", ".join(str(rank) for rank in missing[:8]) + (", …" if len(missing) > 8 else "")
        plural = "s" if len(missing) > 1 else ""
        return f"rank{plural} {ranks} ended without an end record (killed together with the launcher); {said}"


def _unrecorded_end(status: int, time: float) -> events.RankEnded:
    if status >= 0:
        return events.RankEnded(time=time, exit_code=status)
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return events.RankEnded(time=time, signal=name)


def _how(end: events.RankEnded) -> str:
    if end.problem:
        return end.problem
    return f"killed by {end.signal}" if end.signal else f"exit code {end.exit_code}"
