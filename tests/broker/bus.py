"""A broker's core with a journal of lists: what goes in is said in the protocol's words, what comes out is kept."""

from __future__ import annotations

from collections import Counter
from typing import Any

from theorbo.broker.core import Core
from theorbo.broker.values import (
    Append,
    Batch,
    Committed,
    Confirm,
    FindViews,
    Input,
    JournalRead,
    Keep,
    Listed,
    Note,
    Past,
    Publish,
    ReadJournal,
    Recall,
    Recalled,
    Received,
    Refer,
    Send,
    SetAside,
    Tick,
)
from theorbo.schemas import events
from theorbo.schemas.frames import NO_EXECUTION, Command, Header, Message, encode_json
from theorbo.schemas.limits import LOST_S
from theorbo.schemas.names import BROKER, EXECUTOR, LAUNCHER, Channel, Source, SourceKind
from theorbo.schemas.records import encode_record, split_body

RUN = bytes(range(16))
AGENT = Source(SourceKind.AGENT, 0)
RANK = Source(SourceKind.RANK, 0)


def record(kind: str, **fields: Any) -> bytes:
    return encode_record({"kind": kind, "time": 1.0, **fields})


def log(text: str) -> bytes:
    return record("log", text=text)


SUBMITTED = record("execution_submitted", task="galaxies", experiment="mfx1", run="7", user="alice", host="login")


def put(source: Source, channel: Channel, first: int, *records: bytes, execution: bytes = RUN) -> Message:
    header = Header(execution=execution, channel=channel, source=source, first=first, count=len(records))
    return Message(Command.PUT, header, b"".join(records))


class Bus:
    def __init__(self) -> None:
        self.now = 1000.0
        self.pending: list[Any] = []
        self.journal: list[Batch] = []
        self.kept: dict[bytes, Keep] = {}
        self.confirmed: dict[bytes, int] = {}
        self.damaged: set[int] = set()
        """Sequences of rows that cannot be read any more."""
        self.set_aside: list[int] = []
        self.lost_after_s = LOST_S
        self.restart()

    def restart(self) -> None:
        """A broker that knows no more than what was committed."""
        self.sent: list[Send] = []
        self.published: list[Publish] = []
        self.notes: list[Note] = []
        self.instructions: list[Any] = []
        self.pending.clear()
        self.core = Core("the-broker", self.journal[-1].sequence if self.journal else 0, self.now, self.lost_after_s)
        for execution, keep in list(self.kept.items()):
            if keep.ended is None:
                self.give(Recalled(execution, self.past(execution)))

    def give(self, it: Input) -> None:
        for instruction in self.core.handle(it, self.now):
            self.instructions.append(instruction)
            match instruction:
                case Send():
                    self.sent.append(instruction)
                case Publish():
                    self.published.append(instruction)
                case Note():
                    self.notes.append(instruction)
                case Append(batch):
                    self.pending.append(batch)
                case Refer(reference):
                    self.pending.append(reference)
                case Keep():
                    self.kept[instruction.execution] = instruction
                case Confirm(execution, sequence):
                    self.confirmed[execution] = max(sequence, self.confirmed.get(execution, 0))
                case SetAside():
                    self.set_aside.append(instruction.sequence)
                case ReadJournal():
                    self.give(self.read(instruction))
                case FindViews():
                    ended = [keep.view for keep in self.kept.values() if keep.ended is not None]
                    self.give(Listed(*instruction, ended))
                case Recall(execution, retry):
                    self.give(Recalled(execution, self.past(execution), retry))

    def read(self, wish: ReadJournal) -> JournalRead:
        batches: list[Batch] = []
        damaged = tuple(batch._replace(body=b"") for batch in self.journal if batch.sequence in self.damaged)
        for batch in self.journal:
            if (
                batch.sequence > wish.after
                and batch.sequence not in self.damaged
                and batch.time >= wish.since
                and wish.execution in (NO_EXECUTION, batch.execution)
                and (wish.channels is None or batch.channel in wish.channels)
                and (
                    not wish.first_position
                    or (batch.last_position >= wish.first_position and batch.position <= wish.last_position)
                )
            ):
                batches.append(batch)
                if sum(len(found.body) for found in batches) >= wish.limit_bytes:
                    return JournalRead(wish.peer, wish.request, wish.after, batches, batch.sequence, damaged=damaged)
        end = self.core.committed_sequence
        return JournalRead(wish.peer, wish.request, wish.after, batches, end, damaged=damaged)

    def past(self, execution: bytes) -> Past | None:
        if execution not in self.kept:
            return None
        every = [batch for batch in self.journal if batch.execution == execution]
        mine = [batch for batch in every if batch.sequence not in self.damaged]
        last = {(batch.source, batch.channel): batch.last for batch in mine}
        counts = Counter[tuple[Source, int]]()
        for batch in mine:
            counts[batch.source, batch.channel] += batch.count
        keep = self.kept[execution]
        return Past(
            [(*stream, number, counts[stream]) for stream, number in last.items()],
            {batch.channel: batch.last_position for batch in every},
            [
                batch
                for batch in mine
                if batch.channel == Channel.SIGNALS and (keep.ended is None or b'"loss"' in batch.body)
            ],
            None if keep.ended is None else keep.view,
            self.confirmed.get(execution, 0),
        )

    # --- what a test says ------------------------------------------------------------------------

    def say(self, peer: bytes, message: Message, principal: str = "alice") -> None:
        self.give(Received(peer, principal, list(message.encode())))

    def hello(
        self,
        peer: bytes,
        role: str,
        execution: bytes = NO_EXECUTION,
        principal: str = "alice",
        *,
        epoch: int = 1,
        incarnation: str = "the first",
        node: int = 0,
    ) -> None:
        who = {"executor": "executor", "agent": f"agent:{node}"}
        speaks = {"source": who[role], "epoch": epoch, "incarnation": incarnation} if role in who else {}
        body = encode_json(role=role, **speaks, version="0.1.0", host="node1", pid=7)
        self.say(peer, Message(Command.HELLO, Header(execution=execution), body), principal)

    def commit(self) -> None:
        """Everything that was appended so far reaches the disk."""
        items = [item._replace(time=self.now) if isinstance(item, Batch) else item for item in self.pending]
        self.pending.clear()
        self.journal += [item for item in items if isinstance(item, Batch)]
        self.give(Committed(items))

    def settle(self) -> None:
        """Commit until nothing more follows."""
        while self.pending:
            self.commit()

    def pass_time(self, seconds: float, *, heard: tuple[bytes, ...] = ()) -> None:
        """Ticks once a second, while those who are heard say PING."""
        for _ in range(int(seconds)):
            self.now += 1.0
            for peer in heard:
                self.say(peer, Message(Command.PING))
            self.give(Tick())
            self.settle()

    def submit(self) -> None:
        """An Executor `E` has submitted the execution RUN, and an agent `A` is there."""
        self.hello(b"E", "executor", RUN)
        self.say(b"E", put(EXECUTOR, Channel.SIGNALS, 1, SUBMITTED))
        self.commit()
        self.hello(b"A", "agent", RUN)
        self.sent.clear()
        self.published.clear()

    def run_to_end(self, *, streams: dict[str, int], logs: int, exit_code: int = 0) -> None:
        """What a Task of one rank reports, with `logs` lines, and `streams` as the agent counts them."""
        signals = Channel.SIGNALS
        started = record("launcher_started", host="node1", agents=1)
        self.say(b"A", put(LAUNCHER, signals, 1, started))
        self.say(b"A", put(AGENT, signals, 1, record("agent_started", host="node1")))
        self.say(b"A", put(RANK, signals, 1, record("rank_started", host="node1")))
        self.settle()
        for number in range(1, logs + 1):
            self.say(b"A", put(RANK, Channel.LOG, number, log(f"line {number}")))
        self.say(b"A", put(RANK, signals, 2, record("rank_ended", exit_code=exit_code)))
        self.say(b"A", put(LAUNCHER, signals, 2, record("launcher_ended", exit_code=exit_code)))
        self.settle()
        self.say(b"A", put(AGENT, signals, 2, record("agent_closed", streams=streams)))
        self.settle()

    # --- what a test looks at --------------------------------------------------------------------

    def to(self, peer: bytes, command: bytes) -> list[Message]:
        return [send.message for send in self.sent if send.peer == peer and send.message.command == command]

    def refusals(self, peer: bytes) -> list[str]:
        from theorbo.schemas.frames import decode_json

        return [decode_json(message.body)["code"] for message in self.to(peer, Command.REFUSED)]

    def texts(self, channel: Channel = Channel.LOG) -> list[str]:
        """The texts of a channel as they stand in the journal."""
        mine = [batch for batch in self.journal if batch.channel == channel]
        return [getattr(event, "text", event.kind) for batch in mine for event in decoded(batch.body)]

    def own_events(self) -> list[events.EventBase]:
        """What the broker itself has put into the journal."""
        return [event for batch in self.journal if batch.source == BROKER for event in decoded(batch.body)]

    def states(self) -> list[str]:
        return [event.state for event in self.own_events() if isinstance(event, events.StateChanged)]


def decoded(body: bytes) -> list[Any]:
    return [events.decode_event(text) for text in split_body(body)]
