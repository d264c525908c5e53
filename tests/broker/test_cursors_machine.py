"""Readers of one journal: each gets each batch that it wants once, in order, never more than its credit."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from theorbo.broker.cursors import Cursors
from theorbo.broker.values import Batch, JournalRead, ReadJournal, Unsent
from theorbo.schemas.frames import NO_EXECUTION, Command, Header, Message, encode_json
from theorbo.schemas.names import Channel
from theorbo.schemas.records import split_body

from .bus import RANK, log

EXECUTIONS = [b"a" * 16, b"b" * 16]
CHANNELS = [Channel.LOG, Channel.METRICS]
STREAMS = [(execution, channel) for execution in EXECUTIONS for channel in CHANNELS]
PEERS = [b"P", b"Q"]


@dataclass
class Reader:
    """What a client knows of its READ."""

    peer: bytes
    request: int
    execution: bytes
    follow: bool
    channels: list[Channel]
    after: int
    credit: int
    positions: tuple[int, int] | None = None
    got: list[tuple[int, bytes]] = field(default_factory=list)  # sequence and text
    unconfirmed: list[tuple[int, int]] = field(default_factory=list)  # sequence and size
    ended: bool = False

    def wants(self, batch: Batch) -> bool:
        return self.execution in (NO_EXECUTION, batch.execution) and batch.channel in self.channels

    def wanted(self, journal: list[Batch]) -> list[tuple[int, bytes]]:
        first, last = self.positions or (1, 2**62)
        return [
            (batch.sequence, text)
            for batch in journal
            if self.wants(batch) and batch.sequence > self.after
            for position, text in enumerate(split_body(batch.body), batch.position)
            if first <= position <= last
        ]


class CursorsMachine(RuleBasedStateMachine):
    readers = Bundle("readers")

    def __init__(self):
        super().__init__()
        self.cursors, self.journal = Cursors(), []
        self.open: dict[tuple[bytes, int], Reader] = {}
        self.requests = 0
        self.wishes: list[ReadJournal] = []
        self.reads: list[JournalRead] = []
        self.full: set[bytes] = set()  # peers whose queue takes nothing at the moment

    @property
    def committed(self):
        return len(self.journal)

    def perform(self, instructions):
        """As the skin does: what a full queue does not take comes back."""
        for it in instructions:
            if isinstance(it, ReadJournal):
                assert not any(wish[:2] == it[:2] for wish in [*self.wishes, *self.reads])
                self.wishes.append(it)
            elif it.peer in self.full:
                self.cursors.unsent(Unsent(it.peer, it.message, gone=False))
            else:
                self.receive(self.open[it.peer, it.message.header.request], it.message)

    def receive(self, reader, message):
        assert not reader.ended
        if message.command == Command.END:
            assert not reader.follow
            assert reader.got == reader.wanted(self.journal)
            reader.ended = True
            return
        header, size = message.header, len(message.body)
        assert size <= reader.credit or not reader.unconfirmed
        reader.credit -= size
        reader.unconfirmed.append((header.sequence, size))
        texts = split_body(message.body)
        assert len(texts) == header.count
        reader.got += [(header.sequence, text) for text in texts]

    # --- the journal ---------------------------------------------------------------------------------

    @rule(what=st.lists(st.tuples(st.sampled_from(STREAMS), st.integers(1, 3)), max_size=4))
    def commit(self, what):
        new = []
        for (execution, channel), count in what:
            sequence = self.committed + len(new) + 1
            same = [
                batch for batch in [*self.journal, *new] if (batch.execution, batch.channel) == (execution, channel)
            ]
            position = same[-1].last_position + 1 if same else 1
            body = b"".join(log(f"{sequence}.{number}") for number in range(count))
            new.append(Batch(sequence, execution, channel, position, RANK, position, count, 0, 1.0, body))
        self.journal += new
        self.perform(self.cursors.committed(new))

    @precondition(lambda self: self.wishes)
    @rule()
    def read_the_journal(self):
        """In a thread of its own: the answer may come after further commits."""
        wish, found, size, looked_to = self.wishes.pop(0), [], 0, self.committed
        for batch in self.journal:
            in_range = not wish.first_position or (
                wish.first_position <= min(batch.last_position, wish.last_position)
                and batch.position <= wish.last_position
            )
            if (
                (wish.first_position or batch.sequence > wish.after)
                and wish.execution in (NO_EXECUTION, batch.execution)
                and (wish.channels is None or batch.channel in wish.channels)
                and in_range
            ):
                found.append(batch)
                size += len(batch.body)
                if size >= wish.limit_bytes:
                    looked_to = batch.sequence
                    break
        self.reads.append(JournalRead(wish.peer, wish.request, wish.after, found, looked_to))

    @precondition(lambda self: self.reads)
    @rule()
    def answer(self):
        self.perform(self.cursors.journal_read(self.reads.pop(0), self.committed))

    @rule()
    def answer_all(self):
        for _ in range(20):
            if self.wishes or self.reads:
                self.read_the_journal() if self.wishes else self.answer()

    # --- readers -------------------------------------------------------------------------------------

    @rule(
        target=readers,
        peer=st.sampled_from(PEERS),
        execution=st.sampled_from([NO_EXECUTION, *EXECUTIONS]),
        channels=st.sampled_from([[Channel.LOG], [Channel.METRICS], CHANNELS]),
        follow=st.booleans(),
        after=st.integers(0, 6),
        credit=st.integers(0, 300),
    )
    def begin(self, peer, execution, channels, follow, after, credit):
        wish = {"follow": follow, "after": min(after, self.committed), "channels": [it.text for it in channels]}
        return self.start(Reader(peer, 0, execution, follow, channels, wish["after"], credit), wish)

    @rule(
        target=readers,
        peer=st.sampled_from(PEERS),
        execution=st.sampled_from(EXECUTIONS),
        first=st.integers(1, 6),
        more=st.integers(0, 6),
        credit=st.integers(0, 300),
    )
    def begin_range(self, peer, execution, first, more, credit):
        reader = Reader(peer, 0, execution, False, [Channel.LOG], 0, credit, (first, first + more))
        return self.start(reader, {"channel": "log", "first": first, "last": first + more})

    def start(self, reader, wish):
        self.requests += 1
        reader.request = self.requests
        self.open[reader.peer, reader.request] = reader
        message = Message(
            Command.READ,
            Header(request=reader.request, execution=reader.execution),
            encode_json(**wish, credit=reader.credit),
        )
        self.perform(self.cursors.read(reader.peer, message))
        return reader

    @rule(reader=readers, count=st.integers(0, 3), gift=st.sampled_from([0, 0, 50]))
    def process(self, reader, count, gift):
        """The client has processed some, says so, and gives back as much credit as these have used."""
        done, reader.unconfirmed = reader.unconfirmed[:count], reader.unconfirmed[count:]
        more = sum(size for _, size in done) + gift
        reader.credit += more
        sequence = done[-1][0] if done else 0
        message = Message(Command.CREDIT, Header(request=reader.request, count=more, sequence=sequence))
        self.perform(self.cursors.credit(reader.peer, message)[0])

    @rule(reader=consumes(readers))
    def close(self, reader):
        header = Header(request=reader.request)
        self.perform(self.cursors.close(reader.peer, Message(Command.CLOSE, header)))
        self.check(reader)
        del self.open[reader.peer, reader.request]

    @rule(peer=st.sampled_from(PEERS))
    def fill_queue(self, peer):
        self.full.add(peer)

    @rule()
    def tick(self):
        """By now there is room in the queues again."""
        self.full.clear()
        self.perform(self.cursors.tick())

    # --- what holds ----------------------------------------------------------------------------------

    @invariant()
    def each_has_a_beginning_of_what_it_wants(self):
        for reader in self.open.values():
            self.check(reader)

    def check(self, reader):
        wanted = reader.wanted(self.journal)
        assert reader.got == wanted[: len(reader.got)]

    def teardown(self):
        """With credit and room for all, each gets the rest."""
        for _ in range(2 * self.committed + 3):
            self.tick()
            for _ in range(8 * self.committed + 100):
                if not self.wishes and not self.reads:
                    break
                self.read_the_journal() if self.wishes else self.answer()
            for reader in self.open.values():
                self.process(reader, len(reader.unconfirmed), 0)
        for reader in self.open.values():
            assert reader.ended != reader.follow
            assert reader.ended or reader.got == reader.wanted(self.journal)


TestCursors = CursorsMachine.TestCase
TestCursors.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
