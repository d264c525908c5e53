"""The broker's decisions, pure: what has happened goes in, what is to be done comes out.

The rules:

1. Nothing leaves before it is on disk. A PUT becomes `Append`; acknowledging, forwarding, publishing and
   changing state follow on `Committed`, never earlier.
2. The journal takes batches in the order of `Append`, and never drops one; hence sequences, and positions
   within (execution, channel), are given at append, without gaps.
3. Of each stream the next number is accepted. What is there already is dropped (and acknowledged when it is
   on disk), a batch that begins too early is cut, behind a gap the sender is told to go back (REWIND). A
   reported loss closes its gap.
4. The broker opens channel signals only. Evidence is fed in the order of commit; what follows from it is an
   event of the broker's own, which takes the same road: append, commit, publish.
5. A final state comes when everything reported is on disk. What arrives later is journaled, marked LATE, and
   changes nothing; an agent that comes back later is told to end.
6. Every message of a peer is answered, or refused with a code, or its answer is promised (ACK, STORED).
7. Nobody is given up because the broker itself did not listen: after a gap between ticks all have a new lease.
8. For each source one process speaks: the one with the highest epoch. All that came before it are fenced off.

`Core.handle` is the only way in. It asks for no time, opens no file and no socket, and never raises for
what a peer has sent. Where to read on: `peers` and `sessions` for HELLO, `deliveries` for PUT and ACK, `executions` and
`streams` for what is known of an execution, `requests` for REQUEST, `controls` for what agents hear of it, `contacts`
and `forsaken` for silence, `cursors` for readers, `snapshots` and `views` for LIST and the beacon, `payloads` for
attachments, `damage` for rows of the journal that cannot be read, `reminders` for what did not fit into a peer's
queue, `commits` for what follows when something is on disk.
"""

from __future__ import annotations

from collections import Counter

from theorbo.broker import deliveries, snapshots
from theorbo.broker.commits import Commits
from theorbo.broker.cursors import Cursors
from theorbo.broker.damage import Damage
from theorbo.broker.deliveries import Deliveries
from theorbo.broker.executions import Execution
from theorbo.broker.payloads import Payloads
from theorbo.broker.peers import Peers
from theorbo.broker.requests import Requests
from theorbo.broker.sessions import Session
from theorbo.broker.values import (
    Append,
    ChunkRead,
    ChunkStored,
    Committed,
    Confirm,
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
    ReadJournal,
    Recall,
    Recalled,
    Received,
    Subscribed,
    Tick,
    Unsent,
)
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import (
    NO_EXECUTION,
    Command,
    ErrorCode,
    Header,
    Message,
    decode_message,
)
from theorbo.schemas.limits import (
    ENDED_IN_MEMORY,
    LOST_S,
    OPEN_EXECUTIONS,
    RECENT_S,
    SUSPECT_S,
)

_COMMANDS = frozenset({
    Command.HELLO, Command.PING, Command.PUT, Command.ATTACH, Command.READ, Command.CREDIT, Command.CLOSE,
    Command.LIST, Command.FETCH, Command.REQUEST, Command.BYE,
})  # fmt: skip
_OF_AN_EXECUTION = frozenset({Command.HELLO, Command.PUT, Command.ATTACH, Command.READ, Command.REQUEST})
"""For these the core has to know the execution; if it does not, it asks the journal first."""


class Core:
    """Everything the broker knows that is not on disk, and every decision it takes."""

    def __init__(self, broker: str, last_sequence: int, now: float, lost_after_s: float = LOST_S) -> None:
        """`broker` identifies the journal, `last_sequence` is its last. `lost_after_s`: so long a silence of all
        its peers makes an execution LOST.
        """
        self._broker = broker
        self._lost_after_s = lost_after_s
        self._executions: dict[bytes, Execution] = {}
        self._deliveries = Deliveries(last_sequence)
        self._cursors = Cursors()
        self._payloads = Payloads()
        self._damage = Damage(self._deliveries)
        self._peers = Peers(broker, self._executions, self._cursors, self._payloads, now)
        self._requests = Requests(self._deliveries, self._peers.sessions)
        self._beacon = snapshots.Beacon(broker)
        self._commits = Commits(
            last_sequence,
            self._executions,
            self._peers.sessions,
            self._deliveries,
            self._cursors,
            self._payloads,
            self._damage,
            self._requests,
        )
        self._confirmed: dict[bytes, Execution] = {}
        """Executions whose Executor has confirmed more than the journal knows."""
        self._ticked_at = now

    @property
    def open_executions(self) -> int:
        """How many executions have no final state yet."""
        return sum(not execution.state.final for execution in self._executions.values())

    @property
    def committed_sequence(self) -> int:
        """The journal's last batch of which the core has heard: no reader is given what comes after it."""
        return self._commits.last_sequence

    @property
    def heard_at(self) -> float:
        """When any peer was last heard."""
        return self._peers.heard_at

    @property
    def refused(self) -> Counter[str]:
        """Refusals by code since the start."""
        return self._peers.refusals.by_code

    @property
    def refused_of(self) -> Counter[tuple[str, str]]:
        """Refusals by code and origin since the start."""
        return self._peers.refusals.by_origin

    def wants(self, wish: ReadJournal) -> bool:
        """Whether somebody still waits for what is to be read; the peer may have closed its READ, or gone."""
        return self._cursors.waits(wish)

    def handle(self, it: Input, now: float) -> list[Instruction]:
        """What is to be done now that `it` has happened; `now` is Unix time in seconds."""
        out = self._handle(it, now)
        if self._confirmed and (isinstance(it, Tick | Ending) or any(isinstance(each, Append) for each in out)):
            out += self.confirmations()  # with a commit that comes anyway
        return out

    def confirmations(self) -> list[Instruction]:
        """What Executors have confirmed since the journal was last told so."""
        confirmed, self._confirmed = self._confirmed, {}
        return [Confirm(execution.id, execution.confirmed) for execution in confirmed.values()]

    def _handle(self, it: Input, now: float) -> list[Instruction]:
        match it:
            case Received():
                return self._received(it, now, journal_asked=False)
            case Committed():
                return self._commits.committed(it, now)
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
                self._peers.unsent(it)
                return []
            case Forgotten():
                execution = self._executions.get(it.execution)
                if execution and not execution.awaited:
                    del self._executions[it.execution]
                return []
            case JournalTrouble():
                return self._peers.trouble(it.problem, now)
            case Tick():
                return self._tick(now)
            case Ending():
                return self._peers.goodbye(now)

    # --- messages --------------------------------------------------------------------------------

    def _received(self, it: Received, now: float, *, journal_asked: bool) -> list[Instruction]:
        header = Header()
        try:
            message = decode_message(it.frames)
            header = message.header
            return self._answer(it, message, now, journal_asked)
        except ProtocolError as error:
            return self._peers.refuse(it.peer, header, error, now, it.principal)

    def _answer(self, it: Received, message: Message, now: float, journal_asked: bool) -> list[Instruction]:
        """Raises ProtocolError."""
        command, about = message.command, message.header.execution
        if command not in _COMMANDS:
            raise ProtocolError(ErrorCode.UNKNOWN_COMMAND, f"unknown command {command[:40]!r}")
        session = self._peers.sessions.get(it.peer)
        if command != Command.HELLO:
            if session is None or session.principal != it.principal:
                raise ProtocolError(ErrorCode.UNKNOWN_PEER, "say HELLO first (the broker may have been restarted)")
            self._peers.hear(session, now)
        missing = command in _OF_AN_EXECUTION and about != NO_EXECUTION and about not in self._executions
        if missing and not journal_asked:
            return [Recall(about, it)]
        if session is None or command == Command.HELLO:
            return self._peers.hello(it, message, now)
        if missing and command != Command.PUT:
            raise deliveries.unknown_execution(about)
        return self._converse(session, message, now)

    def _converse(self, session: Session, message: Message, now: float) -> list[Instruction]:
        match message.command:
            case Command.PUT:
                return self._put(session, message, now)
            case Command.PING:
                header = Header(request=message.header.request, execution=message.header.execution, time=now)
                return [self._peers.pong(session.peer, header)]
            case Command.CREDIT:
                out, supervised = self._cursors.credit(session.peer, message)
                if supervised and supervised.confirmed > supervised.noted:
                    supervised.noted = supervised.confirmed
                    self._confirmed[supervised.id] = supervised
                return out
            case Command.READ:
                supervised = self._executions.get(session.execution) if session.role == "executor" else None
                return self._cursors.read(session.peer, message, supervised)
            case Command.CLOSE:
                return self._cursors.close(session.peer, message)
            case Command.LIST:
                wish = snapshots.find(session.peer, message)
                return [wish] if wish.wanted.ended else self._handle(Listed(*wish, []), now)
            case Command.ATTACH:
                return [*self._payloads.attach(session, message)]
            case Command.FETCH:
                return [*self._payloads.fetch(session, message)]
            case Command.REQUEST:
                execution = self._executions.get(message.header.execution)
                return [*self._requests.ask(session, execution, message, now)]
            case _:  # BYE
                self._peers.bye(session)
                return self.confirmations()

    # --- deliveries ------------------------------------------------------------------------------

    def _put(self, session: Session, message: Message, now: float) -> list[Instruction]:
        """Raises ProtocolError."""
        header = message.header
        deliveries.check_put(session, header, message.body)
        out: list[Instruction] = []
        execution = self._executions.get(header.execution)
        if execution is None:
            submitted = deliveries.submission(header, message.body)
            if self.open_executions >= OPEN_EXECUTIONS:
                raise ProtocolError(ErrorCode.BUSY, f"{OPEN_EXECUTIONS} executions are open; submit again later")
            execution = self._executions[header.execution] = Execution(header.execution, now)
            self._peers.hear(session, now)
            out.append(Keep(execution.id, submitted.time, None, {}))
        return [*out, *self._deliveries.put(session, execution, header, message.body, now)]

    def _recalled(self, it: Recalled, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        if it.past is not None and it.execution not in self._executions:
            self._make_room()
            execution = Execution.recalled(it.execution, it.past, self.committed_sequence, now)
            self._executions[it.execution] = execution
            self._cursors.adopt(execution)
            out += self._commits.keep(execution, now)
            out += self._damage.found(it.past.damaged, self._executions, now)
            out += self._deliveries.own(execution, execution.decide(now))
        out += self._damage.recalled(it.execution, self._executions.get(it.execution), now)
        if it.retry:
            out += self._received(it.retry, now, journal_asked=True)
        return out

    def _make_room(self) -> None:
        """Ended executions that somebody wanted to know of go when there are too many."""
        ended = [each for each in self._executions.values() if each.ended_view is not None and not each.awaited]
        for execution in ended[: max(0, len(ended) + 1 - ENDED_IN_MEMORY)]:
            del self._executions[execution.id]

    def _journal_read(self, it: JournalRead, now: float) -> list[Instruction]:
        out = self._damage.found(it.damaged, self._executions, now)
        try:
            return out + self._cursors.journal_read(it, self.committed_sequence)
        except ProtocolError as error:
            return out + self._peers.refuse(it.peer, Header(request=it.request), error, now)

    def _payload(self, it: ChunkStored | ChunkRead, now: float) -> list[Instruction]:
        out: list[Instruction] = []
        try:
            answer = self._payloads.stored(it, now) if isinstance(it, ChunkStored) else self._payloads.fetched(it, now)
            out = [answer] if answer else []
        except ProtocolError as error:
            if isinstance(it, ChunkRead):
                out = self._peers.refuse(it.peer, it.header, error, now)
            else:
                header = Header(execution=it.reference.execution, position=it.reference.size)
                out = self._peers.refuse(it.peer, header, error, now, sha256=it.reference.sha256.hex())
        return [*out, *self._payloads.next_fetch(it)] if isinstance(it, ChunkRead) else out

    # --- time ------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Instruction]:
        out = self._peers.refusals.tick()
        stalled = not 0.0 <= now - self._ticked_at < SUSPECT_S
        self._ticked_at = now
        if stalled:
            out.append(Note("warning", "the broker did not run for a while; everybody has a new lease", {}))
            self._peers.renew(now)
            for execution in self._executions.values():
                execution.renew(now)
        self._peers.expire(now, self._lost_after_s)
        for execution in list(self._executions.values()):
            out += self._expire(execution, now)
        beacon = self._beacon.next(self._executions.values(), now)
        return [*out, *self._peers.remind(now), *self._cursors.tick(), beacon]

    def _expire(self, execution: Execution, now: float) -> list[Instruction]:
        """What silence leads to, LOST at last; out of memory when nothing has happened since the end."""
        out: list[Instruction] = [*self._deliveries.own(execution, execution.own_words(now))]
        if execution.awaited or execution.evidence.queued:
            return out
        lost_after_s = self._lost_after_s
        if not execution.decided.final and now - execution.heard_at >= lost_after_s:
            reason = f"neither Executor nor agents have been heard for {lost_after_s:.0f} s"
            return [*self._deliveries.own(execution, execution.give_up(reason, now))]
        if not execution.decided.final and execution.evidence.ended and now - execution.agents_heard_at >= lost_after_s:
            reason = (
                "the launcher has ended, and agents that have not delivered all were not heard for "
                f"{lost_after_s:.0f} s"
            )
            return [*self._deliveries.own(execution, execution.give_up(reason, now))]
        if execution.state.final and now - execution.changed_at >= RECENT_S:
            del self._executions[execution.id]
        return out
