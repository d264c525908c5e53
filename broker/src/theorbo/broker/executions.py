"""One execution as the broker knows it: how far its streams are, what its signals say, its state.

Three things are told apart for each stream: what was *accepted* (it has a position and is on its way to the
disk), what is *committed* (on disk, acknowledged), and what was *reported* (the agent's count at its end).
The same holds for the state: *decided* is what the evidence says, `state` what has been committed; only the
latter is shown to anyone. And for what the Executor gets: *given* has been sent to it, *confirmed* has been
through its hooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from theorbo.broker.conservation import conservation
from theorbo.broker.contacts import Contacts
from theorbo.broker.controls import Controls
from theorbo.broker.forsaken import Forsaken
from theorbo.broker.signals import Control, in_short, unusable
from theorbo.broker.streams import StreamHead
from theorbo.broker.values import Batch, Past
from theorbo.schemas import events
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import ErrorCode, Flag
from theorbo.schemas.limits import BEGINNING_CHARACTERS, STREAMS
from theorbo.schemas.names import BROKER, EXECUTOR, Channel, Source, SourceKind, Stream, topic
from theorbo.schemas.outcome import Evidence
from theorbo.schemas.records import RS, encode_record, split_body
from theorbo.schemas.states import State, checked_transition


class Standing(NamedTuple):
    """The process that speaks for a source: the one with the highest epoch."""

    epoch: int
    incarnation: str
    """Empty where nobody has said which."""


class Observed(NamedTuple):
    """What committed signals lead to beside evidence."""

    invalid: list[str]
    """Why some cannot be understood, or not from there; they change nothing."""
    controls: list[Control]
    """Requests that agents have to hear of."""
    moved: list[tuple[Source, int]]
    """Streams that have gone past what is lost of them."""


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
        self._final_accepted = False  # the record of the final state is on its way to the disk, or there
        self.reason = ""
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.controls = Controls()
        self.contacts = Contacts()
        self.forsaken = Forsaken()
        self.heard_at = now
        self.agents_heard_at = now
        self.changed_at = now
        self._topics: dict[int, bytes] = {}
        self.ended_view: dict[str, Any] | None = None
        """Of an execution that had ended before this broker was started, or long ago."""
        self.speakers: dict[Source, Standing] = {}
        self.executor_host = ""
        """Where the Executor is that attached last, or submitted."""
        self.given = 0
        """The last sequence that may have been given to an Executor for its hooks."""
        self.confirmed = 0
        """The last sequence for which an Executor has called its hooks."""
        self.noted = 0
        """The same, as far as the journal was told."""

    @classmethod
    def recalled(cls, execution: bytes, past: Past, last_sequence: int, now: float) -> Execution:
        """As the journal has it, of which `last_sequence` is the last. Everyone of whom no end is known has a new
        lease.
        """
        self = cls(execution, now)
        for source, channel, number, count in past.streams:
            self.streams[source, channel] = StreamHead(number, number - count)
        self.heads = dict(past.heads)
        self.accepted_positions = dict(past.heads)
        self.confirmed = self.noted = past.confirmed
        self.given = last_sequence
        if past.ended_view is not None:
            self.ended_view = past.ended_view
            self.speakers[EXECUTOR] = Standing(past.ended_view.get("executor_epoch", 1), "")
            self.state = self.decided = State(past.ended_view["state"])
            self._final_accepted = True
            for batch in past.signals:
                self._pass_losses(batch, Observed([], [], []))
            return self
        for batch in past.signals:
            self.observe(batch)
        self.decided = self.state
        self._final_accepted = self.state.final
        for index in self.evidence.agents_started.keys() - self.evidence.agents_closed.keys():
            self.contacts.lease(Source(SourceKind.AGENT, index), now)
        self.contacts.lease(EXECUTOR, now)
        for rank in self.evidence.alive:
            self.contacts.reported(rank, now)
        return self

    # --- speakers -------------------------------------------------------------------------------

    def stand(self, source: Source, epoch: int, incarnation: str) -> None:
        """A process speaks for a source: from now on none that came before it does.

        Raises ProtocolError (`fenced`) if another one has taken over from this one.
        """
        known = self.speakers.get(source)
        if known == (epoch, incarnation):
            return
        if known and (epoch < known.epoch or (epoch == known.epoch and known.incarnation)):
            raise ProtocolError(
                ErrorCode.FENCED,
                f"another process speaks for {source} of execution {self.id.hex()}: "
                f"it has epoch {known.epoch}, this one {epoch}",
            )
        self.speakers[source] = Standing(epoch, incarnation)

    def _stood(self, source: Source, epoch: int, incarnation: str) -> None:
        """The same, as the journal has it; who has said HELLO meanwhile may be later."""
        known = self.speakers.get(source)
        if known is None or epoch > known.epoch:
            self.speakers[source] = Standing(epoch, incarnation)

    def confirm(self, sequence: int) -> None:
        """An Executor has called its hooks for everything up to a sequence."""
        self.confirmed = max(self.confirmed, min(sequence, self.given))

    # --- streams --------------------------------------------------------------------------------

    def stream(self, source: Source, channel: int) -> StreamHead:
        """How far a stream is; a new one is at 0. Raises ProtocolError if there are too many."""
        head = self.streams.get((source, channel))
        if head is None:
            if len(self.streams) >= STREAMS and source != BROKER:
                raise ProtocolError(
                    ErrorCode.TOO_LARGE, f"execution {self.id.hex()} has {STREAMS} streams; no more are taken"
                )
            head = self.streams[source, channel] = StreamHead()
        return head

    def accept(self, sequence: int, source: Source, channel: int, count: int, body: bytes) -> Batch:
        """The next `count` events of a stream, with their positions."""
        head = self.stream(source, channel)
        position = self.accepted_positions.get(channel, 0) + 1
        flags = Flag.LATE if self.decided.final and (source != BROKER or self._final_accepted) else 0
        batch = Batch(sequence, self.id, channel, position, source, head.accepted + 1, count, flags, 0.0, body)
        head.accept(count)
        if source == BROKER and self.decided.final and b'{"kind":"state_changed"' in body:
            self._final_accepted = True
        self.accepted_positions[channel] = batch.last_position
        self.in_flight += source != BROKER
        return batch

    def committed(self, batch: Batch) -> None:
        """A batch that was accepted is on disk."""
        self.streams[batch.source, batch.channel].commit(batch.last)
        self.heads[batch.channel] = batch.last_position
        self.in_flight -= batch.source != BROKER
        if batch.source.rank is not None:
            self.contacts.reported(batch.source.rank, batch.time)

    @property
    def awaited(self) -> bool:
        """Whether anything of it is on its way to the disk, the broker's own words included: it must be here then."""
        return self.accepted_positions != self.heads

    # --- evidence and state ---------------------------------------------------------------------

    def observe(self, batch: Batch) -> Observed:
        """Take over a committed batch of signals."""
        observed = Observed([], [], [])
        if batch.flags & Flag.LATE:
            self._pass_losses(batch, observed)
            return observed
        for offset, text in enumerate(split_body(batch.body)):
            event = events.decode_event(text)
            if problem := unusable(batch.source, event):
                observed.invalid.append(problem)
                continue
            self._take_over(batch.source, event, observed)
            if isinstance(event, events.ControlRequested):
                header = batch.header()._replace(first=batch.first + offset, count=1, position=batch.position + offset)
                control = Control(header, RS + text + b"\n")
                observed.controls.append(control)
                self.controls.add(control, event)
        return observed

    def _pass_losses(self, batch: Batch, observed: Observed) -> None:
        """What is late, or told before an end that is long ago, changes no state, but a stream must not wait for ever
        for what nobody can deliver any more.
        """
        for text in split_body(batch.body) if b'"loss"' in batch.body else ():
            event = events.decode_event(text)
            if isinstance(event, events.Loss) and not unusable(batch.source, event):
                observed.moved.extend(self._lose(event))

    def _take_over(self, source: Source, event: events.EventBase, observed: Observed) -> None:
        self.evidence.add(source, in_short(event))
        match event:
            case events.Loss():
                observed.moved.extend(self._lose(event))
            case events.StateChanged():
                self.state, self.reason = State(event.state), event.reason
                if self.state.final and self.ended_at is None:
                    self.ended_at = event.time
            case events.RankStarted() if self.started_at is None:
                self.started_at = event.time
            case events.LauncherEnded() | events.LauncherGone() if self.ended_at is None:
                self.ended_at = event.time
            case events.ExecutionSubmitted() if not self.executor_host:
                self.executor_host = event.host
                self._stood(source, 1, event.incarnation)
            case events.ExecutorAttached():
                self.executor_host = event.host
                self._stood(source, event.epoch, event.incarnation)
            case events.AgentStarted():
                self._stood(source, event.epoch, event.incarnation)
            case events.AgentClosed():
                self.contacts.closed(source)
            case events.ContactChanged():
                self.contacts.told(event)
            case events.ControlDone() if source.kind is SourceKind.AGENT:
                self.controls.done(source.index, event.request)

    def _lose(self, loss: events.Loss) -> list[tuple[Source, int]]:
        """Numbers of a stream are lost; the stream, if that moves it."""
        if not loss.first:
            return []
        source, channel = Stream.parse(loss.stream)
        try:
            head = self.stream(source, channel)
        except ProtocolError:
            return []  # too many streams; what was lost of this one is counted as evidence
        return [(source, int(channel))] if head.lose(loss.first, loss.last) else []

    @property
    def settled(self) -> bool:
        """Whether everything that was reported is on disk, or its loss is."""
        full = len(self.streams) >= STREAMS  # of a stream that was not taken any more the sender has told the loss
        return self.in_flight == 0 and all(
            self.streams[stream].committed >= last if stream in self.streams else full or last == 0
            for stream, last in self.evidence.reported.items()
        )

    @property
    def _greeted(self) -> Iterator[int]:
        """The agents that have said HELLO."""
        return (source.index for source in self.speakers if source.kind is SourceKind.AGENT)

    @property
    def _agents_closed(self) -> bool:
        """Whether all agents that have said HELLO have closed, or were given up: with a launcher that has died its
        word is not there to tell how many there are, and theirs may be on the way.
        """
        over = self.evidence.agents_closed.keys() | self.evidence.agents_given_up.keys()
        return self.evidence.launcher_ended is not None or over.issuperset(self._greeted)

    def decide(self, now: float) -> list[bytes]:
        """The records of the broker's own that now follow from the evidence, in order; mostly none."""
        records: list[bytes] = []
        while not self.decided.final:
            after, reason = self.evidence.state(self.decided)
            if after.final and self.decided is State.PENDING and (self.evidence.started or after is State.COMPLETED):
                after, reason = State.RUNNING, ""  # it did run, however briefly
            if after is State.COMPLETED and self.decided is State.STOPPED:
                after, reason = State.RUNNING, ""  # it must have been continued
            if after is self.decided or (after.final and not (self.settled and self._agents_closed)):
                break
            records += self._change(after, reason, now)
        return records

    def own_words(self, now: float) -> list[bytes]:
        """To be asked each second: the records that follow from silence; mostly none."""
        if self.decided.final or not self.heads:
            return []
        given_up = self.forsaken.given_up(self.evidence, self._greeted, self.contacts, now)
        told = [*self.contacts.changes(now), *given_up]
        return [encode_record(events.record_fields(event)) for event in told]

    def give_up(self, reason: str, now: float) -> list[bytes]:
        """The records of an execution that is LOST."""
        return self._change(State.LOST, reason, now)

    def _change(self, after: State, reason: str, now: float) -> list[bytes]:
        changed = events.StateChanged(
            time=now,
            state=checked_transition(self.decided, after),
            previous=self.decided,
            reason=reason[:BEGINNING_CHARACTERS],
        )
        self.decided = after
        closing = self._conservation(now) if after.final else []
        return [encode_record(events.record_fields(event)) for event in (*closing, changed)]

    def _conservation(self, now: float) -> list[events.Conservation]:
        return conservation(self.evidence, self.streams, now)

    # --- peers ----------------------------------------------------------------------------------

    def heard(self, source: Source, now: float) -> None:
        """Somebody who speaks for the execution was heard."""
        self.heard_at = now
        self.contacts.heard(source, now)
        if source.kind is SourceKind.AGENT:
            self.agents_heard_at = now

    def renew(self, now: float) -> None:
        """Everybody has a new lease: it was the broker that did not listen, or its clock that was set."""
        self.heard_at = self.agents_heard_at = now
        self.changed_at = now  # else a jump would take what has just ended out of the beacon
        self.contacts.renew(now)
        self.forsaken.renew(now)

    # --- words ----------------------------------------------------------------------------------

    def topic(self, channel: int) -> bytes:
        """Of the live events of a channel."""
        found = self._topics.get(channel)
        if found is None:
            found = self._topics[channel] = topic(Channel(channel), *self._names, self.id.hex())
        return found

    @property
    def _names(self) -> tuple[str, str, str]:
        """Experiment, run and task."""
        if view := self.ended_view:
            return view["experiment"], view["run"], view["task"]
        submitted = self.evidence.submitted
        return (submitted.experiment, submitted.run, submitted.task) if submitted else ("", "", "")
