"""The broker's decisions, pure: what has happened goes in, what is to be done comes out.

The rules:

1. Nothing leaves before it is on disk. A PUT becomes `Append`; acknowledging, forwarding, publishing and
   changing state follow on `Committed`, never earlier.
2. The journal takes batches in the order of `Append`, and never drops one; hence sequences, and positions
   within (execution, channel), are given at append, without gaps.
3. Of each stream the next number is accepted. What is there already is dropped (and acknowledged when it is
   on disk), a batch that begins too early is cut, behind a gap the sender is told to go back (REWIND).
4. The broker opens channel signals only. Evidence is fed in the order of commit; what follows from it is an
   event of the broker's own, which takes the same road: append, commit, publish.
5. A final state comes when everything reported is on disk. What arrives later is journaled, marked LATE, and
   changes nothing.
6. Every message of a peer is answered, or refused with a code, or its answer is promised (ACK, STORED).
7. Nobody is given up because the broker itself did not listen: after a gap between ticks all have a new lease.

`Core.handle` is the only way in. It asks for no time, opens no file and no socket, and never raises for
what a peer has sent. Where to read on: `deliveries` for PUT and ACK, `executions` for streams and states,
`cursors` for readers, `snapshots` for LIST and the beacon, `payloads` for attachments.
"""

from __future__ import annotations

from collections import Counter

from theorbo.broker import batches, deliveries, snapshots
from theorbo.broker.cursors import Cursors
from theorbo.broker.deliveries import Deliveries, acknowledgement
from theorbo.broker.executions import Execution
from theorbo.broker.payloads import Payloads
from theorbo.broker.sessions import Session
from theorbo.broker.values import (
    Batch,
    ChunkRead,
    ChunkStored,
    Committed,
    Ending,
    Forgotten,
    Input,
    Instruction,
    JournalRead,
    JournalTrouble,
    Keep,
    Listed,
    Note,
    Publish,
    Recall,
    Recalled,
    Received,
    Send,
    Subscribed,
    Tick,
    Unsent,
)
from theorbo.schemas import __version__
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import (
    NO_EXECUTION,
    PROTOCOL_VERSION,
    Command,
    ErrorCode,
    Header,
    Message,
    decode_json,
    decode_message,
    encode_json,
)
from theorbo.schemas.limits import HEARTBEAT_S, LOST_S, RECENT_S, REFUSALS_LOGGED, SUSPECT_S, WINDOW_BYTES
from theorbo.schemas.names import BROKER, Channel, Source, SourceKind

_COMMANDS = frozenset({
    Command.HELLO, Command.PING, Command.PUT, Command.ATTACH, Command.READ, Command.CREDIT, Command.CLOSE,
    Command.LIST, Command.FETCH, Command.BYE,
})  # fmt: skip
_OF_AN_EXECUTION = frozenset({Command.HELLO, Command.PUT, Command.ATTACH, Command.READ})
"""For these the core has to know the execution; if it does not, it asks the journal first."""


class Core:
    """Everything the broker knows that is not on disk, and every decision it takes."""

    def __init__(self, broker: str, last_sequence: int, now: float) -> None:
        """`broker` identifies the journal, `last_sequence` is its last."""
        self._broker = broker
        self._executions: dict[bytes, Execution] = {}
        self._sessions: dict[bytes, Session] = {}
        self._deliveries = Deliveries(last_sequence)
        self._cursors = Cursors()
        self._payloads = Payloads()
        self._journal_problem = ""
        self._ticked_at = now
        self._refusals_to_log = REFUSALS_LOGGED
        self.committed_sequence = last_sequence
        """The journal's last batch of which the core has heard: no reader is given what comes after it."""
        self.heard_at = now
        """When any peer was last heard."""
        self.refused: Counter[str] = Counter()
        """Refusals by code since the start."""

    @property
    def open_executions(self) -> int:
        """How many executions have no final state yet."""
        return sum(not execution.state.final for execution in self._executions.values())

    def handle(self, it: Input, now: float) -> list[Instruction]:
        """What is to be done now that `it` has happened; `now` is Unix time in seconds."""
        match it:
            case Received():
                return self._received(it, now, journal_asked=False)
            case Committed():
                return self._committed(it, now)
            case Recalled():
                return self._recalled(it, now)
            case JournalRead():
                return self._journal_read(it, now)
            case Listed():
                return [snapshots.listing(it, self._executions.values(), self.committed_sequence, now)]
            case ChunkStored() | ChunkRead():
                return self._payload(it, now)
            case Subscribed():
                nonce = it.topic.startswith(b"nonce/")
                return [Publish(it.topic, Header(time=now), b"")] if nonce else []
            case Unsent():
                if it.gone:
                    self._drop(it.peer)
                else:
                    self._cursors.unsent(it)
                return []
            case Forgotten():
                execution = self._executions.get(it.execution)
                if execution and not execution.in_flight:
                    del self._executions[it.execution]
                return []
            case JournalTrouble():
                self._journal_problem = it.problem
                return []
            case Tick():
                return self._tick(now)
            case Ending():
                return [Send(peer, Message(Command.GOODBYE, Header(time=now))) for peer in self._sessions]

    # --- messages --------------------------------------------------------------------------------

    def _received(self, it: Received, now: float, *, journal_asked: bool) -> list[Instruction]:
        header = Header()
        try:
            message = decode_message(it.frames)
            header = message.header
            return self._answer(it, message, now, journal_asked)
        except ProtocolError as error:
            return self._refuse(it.peer, header, error, now, it.principal)

    def _answer(self, it: Received, message: Message, now: float, journal_asked: bool) -> list[Instruction]:
        """Raises ProtocolError."""
        command, about = message.command, message.header.execution
        if command not in _COMMANDS:
            raise ProtocolError(ErrorCode.UNKNOWN_COMMAND, f"unknown command {command[:40]!r}")
        session = self._sessions.get(it.peer)
        if command != Command.HELLO:
            if session is None or session.principal != it.principal:
                raise ProtocolError(ErrorCode.UNKNOWN_PEER, "say HELLO first (the broker may have been restarted)")
            self._hear(session, now)
        missing = command in _OF_AN_EXECUTION and about != NO_EXECUTION and about not in self._executions
        if missing and not journal_asked:
            return [Recall(about, it)]
        if session is None or command == Command.HELLO:
            return self._hello(it, message, now)
        if missing and command != Command.PUT:
            raise deliveries.unknown_execution(about)
        return self._converse(session, message, now)

    def _converse(self, session: Session, message: Message, now: float) -> list[Instruction]:
        match message.command:
            case Command.PUT:
                return self._put(session, message, now)
            case Command.PING:
                header = Header(request=message.header.request, execution=message.header.execution, time=now)
                body = encode_json(problem=self._journal_problem) if self._journal_problem else b""
                return [Send(session.peer, Message(Command.PONG, header, body))]
            case Command.CREDIT:
                return self._cursors.credit(session.peer, message)
            case Command.READ:
                return self._cursors.read(session.peer, message)
            case Command.CLOSE:
                return self._cursors.close(session.peer, message)
            case Command.LIST:
                wish = snapshots.find(session.peer, message)
                return [wish] if wish.wanted.ended else self.handle(Listed(*wish, []), now)
            case Command.ATTACH:
                return [self._payloads.attach(session, message)]
            case Command.FETCH:
                return [self._payloads.fetch(session, message)]
            case _:  # BYE
                return self._bye(session)

    def _refuse(
        self, peer: bytes, header: Header, error: ProtocolError, now: float, principal: str = ""
    ) -> list[Instruction]:
        """REFUSED, counted, and in the log as long as that is no flood."""
        self.refused[error.code] += 1
        body = encode_json(code=error.code, message=str(error))
        out: list[Instruction] = [Send(peer, Message(Command.REFUSED, header._replace(time=now), body))]
        if error.code != ErrorCode.UNKNOWN_PEER and self._refusals_to_log > 0:
            self._refusals_to_log -= 1
            origin = str(self._sessions.get(peer) or f"a peer of {principal or 'this user'} that has not said HELLO")
            fields = {"code": error.code, "why": str(error), "origin": origin}
            if header.execution != NO_EXECUTION:
                fields["execution"] = header.execution.hex()
            out.append(Note("warning", "refused a message", fields))
        return out

    # --- peers -----------------------------------------------------------------------------------

    def _hello(self, it: Received, message: Message, now: float) -> list[Instruction]:
        session = Session(it.peer, it.principal, message.header, decode_json(message.body), now)
        execution = self._executions.get(session.execution)
        if session.role == "agent" and execution is None:
            raise deliveries.unknown_execution(session.execution)
        self._drop(it.peer)
        self._sessions[it.peer] = session
        self._hear(session, now)
        body = encode_json(
            broker=self._broker, version=__version__, protocol=PROTOCOL_VERSION,
            heartbeat_s=HEARTBEAT_S, window_bytes=WINDOW_BYTES,
        )  # fmt: skip
        header = Header(request=message.header.request, execution=session.execution, time=now)
        out: list[Instruction] = [Send(it.peer, Message(Command.WELCOME, header, body))]
        if execution and session.role == "agent" and not execution.decided.final:
            out += [Send(it.peer, Message(Command.CONTROL, *control)) for control in execution.controls]
        return out

    def _hear(self, session: Session, now: float) -> None:
        self.heard_at = session.heard_at = now
        execution = self._executions.get(session.execution)
        if execution and session.role != "observer":
            execution.heard(session.name, now)
            if session.role == "agent":
                execution.agents_heard_at = now

    def _bye(self, session: Session) -> list[Instruction]:
        execution = self._executions.get(session.execution)
        if execution and session.name:
            execution.contacts.pop(session.name, None)
        self._drop(session.peer)
        return []

    def _drop(self, peer: bytes) -> None:
        """Forget a peer and what it reads."""
        if self._sessions.pop(peer, None):
            self._cursors.drop(peer)

    # --- deliveries ------------------------------------------------------------------------------

    def _put(self, session: Session, message: Message, now: float) -> list[Instruction]:
        header = message.header
        deliveries.check_put(session, header, message.body)
        out: list[Instruction] = []
        execution = self._executions.get(header.execution)
        if execution is None:
            submitted = deliveries.submission(header, message.body)
            execution = self._executions[header.execution] = Execution(header.execution, now)
            execution.heard(session.name, now)
            out.append(Keep(execution.id, submitted.time, None, {}))
        if session.role == "agent" and header.source and header.source.kind is SourceKind.AGENT:
            session.name = str(header.source)
            execution.heard(session.name, now)
        answer = self._deliveries.put(session, execution, header, message.body, now)
        return [*out, answer] if answer else out

    def _committed(self, it: Committed, now: float) -> list[Instruction]:
        stored: list[Instruction] = []
        published: list[Instruction] = []
        states: list[Instruction] = []
        streams: dict[tuple[bytes, Source, int], Execution] = {}
        touched: dict[bytes, Execution] = {}
        new = [item for item in it.items if isinstance(item, Batch)]
        for item in it.items:
            if not isinstance(item, Batch):
                stored += self._payloads.noted(item, now)
        for batch in new:
            self.committed_sequence = batch.sequence
            execution = self._executions[batch.execution]
            self._deliveries.committed(execution, batch)
            execution.changed_at = now
            if batch.source != BROKER:
                streams[batch.execution, batch.source, batch.channel] = execution
            if batch.channel == Channel.SIGNALS:
                states += self._observe(execution, batch, now)
            if batch.channel == Channel.SIGNALS or execution.evidence.ended:
                touched[batch.execution] = execution
            topic = execution.topic(batch.channel)
            published += [Publish(topic, piece.header(), piece.body) for piece in batches.live_pieces(batch)]
        acknowledged = [acknowledgement(execution, *stream[1:], now) for stream, execution in streams.items()]
        forwarded = self._cursors.committed(new)
        for execution in touched.values():
            states += self._deliveries.own(execution, execution.decide(now))
        return [*stored, *acknowledged, *forwarded, *published, *states, *self._deliveries.feed_starved(now)]

    def _observe(self, execution: Execution, batch: Batch, now: float) -> list[Instruction]:
        """What committed signals lead to beside a change of state: control for agents, words for the log."""
        out: list[Instruction] = []
        known, before = len(execution.controls), execution.state
        if invalid := execution.observe(batch):
            fields = {"execution": execution.id.hex(), "source": str(batch.source), "problem": invalid[0].problem}
            text = "signals are malformed; they are kept, and change nothing"
            out.append(Note("warning", text, {**fields, "signals": len(invalid)}))
        agents = [
            session.peer
            for session in self._sessions.values()
            if session.role == "agent" and session.execution == execution.id
        ]
        for control in execution.controls[known:]:
            out += [Send(peer, Message(Command.CONTROL, *control)) for peer in agents]
        if execution.state is not before:
            fields = {"execution": execution.id.hex(), "state": str(execution.state), "reason": execution.reason}
            out.append(Note("info", "state changed", fields))
            out += self._keep(execution, now)
        return out

    def _keep(self, execution: Execution, now: float) -> list[Instruction]:
        """An execution whose final state is on disk is noted as ended."""
        if not execution.state.final or execution.ended_view is not None:
            return []
        view = execution.view(now)
        return [Keep(execution.id, view["submitted"] or now, now, view)]

    def _recalled(self, it: Recalled, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        if it.past is not None:
            execution = self._executions[it.execution] = Execution.recalled(it.execution, it.past, now)
            out += self._keep(execution, now)
            out += self._deliveries.own(execution, execution.decide(now))
        if it.retry:
            out += self._received(it.retry, now, journal_asked=True)
        return out

    def _journal_read(self, it: JournalRead, now: float) -> list[Instruction]:
        try:
            return self._cursors.journal_read(it, self.committed_sequence)
        except ProtocolError as error:
            return self._refuse(it.peer, Header(request=it.request), error, now)

    def _payload(self, it: ChunkStored | ChunkRead, now: float) -> list[Instruction]:
        try:
            return [self._payloads.stored(it, now) if isinstance(it, ChunkStored) else self._payloads.fetched(it, now)]
        except ProtocolError as error:
            header = it.header if isinstance(it, ChunkRead) else Header(execution=it.reference.execution)
            return self._refuse(it.peer, header, error, now)

    # --- time ------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        stalled = not 0.0 <= now - self._ticked_at < SUSPECT_S
        self._ticked_at = now
        self._refusals_to_log = REFUSALS_LOGGED
        if stalled:
            out.append(Note("warning", "the broker did not run for a while; everybody has a new lease", {}))
            for session in self._sessions.values():
                session.heard_at = now
            for execution in self._executions.values():
                execution.renew(now)
        for session in [session for session in self._sessions.values() if now - session.heard_at >= LOST_S]:
            self._drop(session.peer)
        for execution in list(self._executions.values()):
            out += self._expire(execution, now)
        return [*out, *self._cursors.tick(), snapshots.beacon(self._broker, self._executions.values(), now)]

    def _expire(self, execution: Execution, now: float) -> list[Instruction]:
        """LOST after silence; out of memory when nothing has happened since the end."""
        if execution.in_flight:
            return []
        if not execution.decided.final and now - execution.heard_at >= LOST_S:
            reason = f"neither Executor nor agents have been heard for {LOST_S:.0f} s"
            return [*self._deliveries.own(execution, execution.give_up(reason, now))]
        if not execution.decided.final and execution.evidence.ended and now - execution.agents_heard_at >= LOST_S:
            reason = f"the launcher has ended, and agents that have not delivered all were not heard for {LOST_S:.0f} s"
            return [*self._deliveries.own(execution, execution.give_up(reason, now))]
        if execution.state.final and now - execution.changed_at >= RECENT_S:
            del self._executions[execution.id]
        return []
