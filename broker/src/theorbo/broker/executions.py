"""One execution as the broker knows it: how far its streams are, what its signals say, its state.

Three things are told apart for each stream: what was *accepted* (it has a position and is on its way to the
disk), what is *committed* (on disk, acknowledged), and what was *reported* (the agent's count at its end).
The same holds for the state: *decided* is what the evidence says, `state` what has been committed; only the
latter is shown to anyone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from theorbo.broker.values import Batch, Past
from theorbo.schemas import events
from theorbo.schemas.frames import Flag, Header
from theorbo.schemas.limits import CONSERVED_STREAMS
from theorbo.schemas.names import BROKER, EXECUTOR, Channel, Source, SourceKind, Stream, topic
from theorbo.schemas.outcome import Evidence
from theorbo.schemas.records import RS, encode_record, split_body
from theorbo.schemas.states import State, checked_transition, contact


class StreamHead:
    """How far one stream is."""

    __slots__ = ("accepted", "committed", "rewound_at", "sender", "starved")

    def __init__(self, committed: int = 0) -> None:
        self.accepted = committed
        self.committed = committed
        self.sender = b""
        """The peer that delivered last: it gets the acknowledgements."""
        self.rewound_at = 0.0
        """When a gap was last told, so that each of many batches behind one gap does not bring all of them again."""
        self.starved = False
        """A batch was dropped for want of room; its sender waits to be told that there is room."""


class Control(NamedTuple):
    """A committed request that agents of the execution have to hear of."""

    header: Header
    record: bytes


class Execution:
    """What the broker holds in memory of an execution that is open or changed lately."""

    def __init__(self, execution: bytes, now: float) -> None:
        self.id = execution
        self.streams: dict[tuple[Source, int], StreamHead] = {}
        self.heads: dict[int, int] = {}
        """Last committed position by channel."""
        self.accepted_positions: dict[int, int] = {}
        self.in_flight = 0
        """Batches of reporters that are accepted and not committed."""
        self.evidence = Evidence()
        self.state = self.decided = State.PENDING
        self.reason = ""
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.controls: list[Control] = []
        self.contacts: dict[str, float] = {}
        """When each peer (`executor`, `agent:0` …) was last heard; who says BYE is taken out."""
        self.heard_at = now
        self.agents_heard_at = now
        self.changed_at = now
        self._topics: dict[int, bytes] = {}
        self.ended_view: dict[str, Any] | None = None
        """Of an execution that had ended before this broker was started, or long ago."""

    @classmethod
    def recalled(cls, execution: bytes, past: Past, now: float) -> Execution:
        """As the journal has it. Everyone of whom no end is known has a new lease."""
        self = cls(execution, now)
        for source, channel, number, _count in past.streams:
            self.streams[source, channel] = StreamHead(number)
        self.heads = dict(past.heads)
        self.accepted_positions = dict(past.heads)
        if past.ended_view is not None:
            self.ended_view = past.ended_view
            self.state = self.decided = State(past.ended_view["state"])
            return self
        for batch in past.signals:
            self.observe(batch)
        self.decided = self.state
        for index in self.evidence.agents_started.keys() - self.evidence.agents_closed.keys():
            self.contacts[str(Source(SourceKind.AGENT, index))] = now
        self.contacts[str(EXECUTOR)] = now
        return self

    # --- streams --------------------------------------------------------------------------------

    def stream(self, source: Source, channel: int) -> StreamHead:
        """How far a stream is; a new one is at 0."""
        head = self.streams.get((source, channel))
        if head is None:
            head = self.streams[source, channel] = StreamHead()
        return head

    def accept(self, sequence: int, source: Source, channel: int, count: int, body: bytes) -> Batch:
        """The next `count` events of a stream, with their positions."""
        head = self.stream(source, channel)
        position = self.accepted_positions.get(channel, 0) + 1
        flags = Flag.LATE if self.decided.final and source != BROKER else 0
        batch = Batch(sequence, self.id, channel, position, source, head.accepted + 1, count, flags, 0.0, body)
        head.accepted += count
        self.accepted_positions[channel] = batch.last_position
        self.in_flight += source != BROKER
        return batch

    def committed(self, batch: Batch) -> StreamHead:
        """A batch that was accepted is on disk."""
        head = self.streams[batch.source, batch.channel]
        head.committed = batch.last
        self.heads[batch.channel] = batch.last_position
        self.in_flight -= batch.source != BROKER
        return head

    # --- evidence and state ---------------------------------------------------------------------

    def observe(self, batch: Batch) -> list[events.InvalidEvent]:
        """Take over a committed batch of signals. What cannot be understood is returned, and changes nothing."""
        invalid: list[events.InvalidEvent] = []
        if batch.flags & Flag.LATE:
            return invalid
        for offset, text in enumerate(split_body(batch.body)):
            event = events.decode_event(text)
            problem = _unusable(event)
            if isinstance(event, events.InvalidEvent):
                invalid.append(event)
            elif problem:
                invalid.append(events.InvalidEvent(time=event.time, text="", problem=problem))
            elif batch.source == BROKER:
                self._follow(event)
            else:
                self.evidence.add(batch.source, event)
                self._time(event)
                if isinstance(event, events.ControlRequested):
                    header = batch.header()._replace(
                        first=batch.first + offset, count=1, position=batch.position + offset
                    )
                    self.controls.append(Control(header, RS + text + b"\n"))
        return invalid

    def _follow(self, event: events.EventBase) -> None:
        if isinstance(event, events.StateChanged):
            self.state, self.reason = State(event.state), event.reason
            if self.state.final and self.ended_at is None:
                self.ended_at = event.time

    def _time(self, event: events.EventBase) -> None:
        match event:
            case events.RankStarted() if self.started_at is None:
                self.started_at = event.time
            case events.LauncherEnded() | events.LauncherGone() if self.ended_at is None:
                self.ended_at = event.time

    @property
    def settled(self) -> bool:
        """Whether everything that was reported is on disk."""
        return self.in_flight == 0 and all(
            self.streams[stream].committed >= last if stream in self.streams else last == 0
            for stream, last in self.evidence.reported.items()
        )

    def decide(self, now: float) -> list[bytes]:
        """The records of the broker's own that now follow from the evidence, in order; mostly none."""
        records: list[bytes] = []
        while not self.decided.final:
            after, reason = self.evidence.state(self.decided)
            if after.final and self.decided is State.PENDING and (self.evidence.started or after is State.COMPLETED):
                after, reason = State.RUNNING, ""  # it did run, however briefly
            if after is self.decided or (after.final and not self.settled):
                break
            records += self._change(after, reason, now)
        return records

    def give_up(self, reason: str, now: float) -> list[bytes]:
        """The records of an execution that is LOST."""
        return self._change(State.LOST, reason, now)

    def _change(self, after: State, reason: str, now: float) -> list[bytes]:
        changed = events.StateChanged(
            time=now, state=checked_transition(self.decided, after), previous=self.decided, reason=reason
        )
        self.decided = after
        closing = self._conservation(now) if after.final else []
        return [encode_record(events.record_fields(event)) for event in (*closing, changed)]

    def _conservation(self, now: float) -> list[events.Conservation]:
        reported = self.evidence.reported
        delivered = {
            Stream(source, Channel(channel)): head.committed
            for (source, channel), head in self.streams.items()
            if source != BROKER
        }
        streams = {
            str(stream): (max(reported.get(stream, 0), delivered.get(stream, 0)), delivered.get(stream, 0))
            for stream in sorted(reported.keys() | delivered.keys())
        }
        items = list(streams.items())
        starts = range(0, max(1, len(items)), CONSERVED_STREAMS)
        *before, last = (dict(items[start : start + CONSERVED_STREAMS]) for start in starts)
        return [
            *(events.Conservation(time=now, streams=part) for part in before),
            events.Conservation(time=now, streams=last, lost=self.evidence.lost_events),
        ]

    # --- peers ----------------------------------------------------------------------------------

    def heard(self, name: str | None, now: float) -> None:
        """Somebody who speaks for the execution was heard."""
        self.heard_at = now
        if name:
            self.contacts[name] = now

    def renew(self, now: float) -> None:
        """Everybody has a new lease: it was the broker that did not listen."""
        self.heard_at = self.agents_heard_at = now
        self.contacts = dict.fromkeys(self.contacts, now)

    # --- words ----------------------------------------------------------------------------------

    def topic(self, channel: int) -> bytes:
        """Of the live events of a channel."""
        found = self._topics.get(channel)
        if found is None:
            view = self.view(0.0)
            names = view["experiment"], view["run"], view["task"]
            found = self._topics[channel] = topic(Channel(channel), *names, view["execution"])
        return found

    def view(self, now: float) -> dict[str, Any]:
        """As in LISTING (`docs/protocol.md`, section A view of an execution)."""
        heads = {Channel(channel).text: position for channel, position in sorted(self.heads.items())}
        if self.ended_view is not None:
            return {**self.ended_view, "heads": heads}
        evidence, submitted = self.evidence, self.evidence.submitted
        final = self.state.final
        return {
            "execution": self.id.hex(),
            "task": submitted.task if submitted else "",
            "experiment": submitted.experiment if submitted else "",
            "run": submitted.run if submitted else "",
            "user": submitted.user if submitted else "",
            "host": submitted.host if submitted else "",
            "state": str(self.state),
            "reason": self.reason,
            "delivering": evidence.ended and not final,
            "submitted": submitted.time if submitted else None,
            "started": self.started_at,
            "ended": self.ended_at,
            "ranks": evidence.ranks,
            "ranks_started": len(evidence.ranks_started),
            "ranks_ended": len(evidence.ranks_ended),
            "hosts": sorted({agent.host for agent in evidence.agents_started.values()}),
            "contact": {} if final else {name: str(contact(now - at)) for name, at in sorted(self.contacts.items())},
            "heads": heads,
            "lost": evidence.lost_events,
        }


def _unusable(event: events.EventBase) -> str | None:
    """What is wrong with an event that has the right types and yet cannot be evidence."""
    if isinstance(event, events.AgentClosed):
        try:
            for name in event.streams:
                Stream.parse(name)
        except ValueError as error:
            return str(error)
    return None
