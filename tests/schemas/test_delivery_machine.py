"""A sender and one broker after another: whatever happens, each number is delivered or told, never both."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from theorbo.schemas.delivery import Delivery, Missing, SendChunk
from theorbo.schemas.frames import Flag, Header
from theorbo.schemas.limits import CHUNK_BYTES, RESEND_S
from theorbo.schemas.names import Channel, Source, SourceKind, Stream
from theorbo.schemas.records import Attachment, attachments_of, encode_record, split_body

WINDOW_BYTES = 900
RANK = Source(SourceKind.RANK, 0)
STREAMS = [Stream(RANK, Channel.LOG), Stream(RANK, Channel.RESULTS), Stream(Source(SourceKind.RANK, 1), Channel.LOG)]
streams = st.sampled_from(STREAMS)


class Journal:
    """What a broker has on disk, by the protocol's rules."""

    def __init__(self):
        self.name = 1
        self.last = dict.fromkeys(STREAMS, 0)
        self.records = {stream: {} for stream in STREAMS}
        self.losses = []  # those that have been reported to it
        self.received = {}  # bytes of each attachment, without a gap

    def recovered(self, cuts, kept):
        """It was damaged, and is another one now: its end is gone, and what not everybody has named."""
        self.name += 1
        self.losses = []
        self.received = self.received if kept else {}
        for stream in STREAMS:
            self.last[stream] = max(0, self.last[stream] - cuts[stream])
            self.records[stream] = {n: r for n, r in self.records[stream].items() if n <= self.last[stream]}

    def put(self, header, body):
        stream = Stream(header.source, Channel(header.channel))
        if header.first > self.last[stream] + 1:
            return self.ack(stream, Flag.REWIND)
        for number, text in enumerate(split_body(body), header.first):
            if number == self.last[stream] + 1:
                assert all(self.has(attachment) for attachment in attachments_of(text))
                self.records[stream][number] = b"\x1e" + text + b"\n"
                self.last[stream] = number
        self.pass_over()
        return self.ack(stream)

    def pass_over(self):
        for stream, first, last in self.losses:
            if first - 1 <= self.last[stream] < last:
                self.last[stream] = last

    def ack(self, stream, flags=0):
        return Header(source=stream.source, channel=stream.channel, first=self.last[stream], flags=flags)

    def attach(self, chunk):
        received = self.received.setdefault(chunk.attachment, 0)
        if chunk.offset == received:
            self.received[chunk.attachment] = received + chunk.length
        return chunk.attachment, self.received[chunk.attachment]

    def has(self, attachment):
        return self.received.get(attachment) == attachment.size


class DeliveryMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.delivery, self.journal = Delivery(bytes(16), WINDOW_BYTES), Journal()
        self.spool = {stream: [] for stream in STREAMS}
        self.freed = dict.fromkeys(STREAMS, 0)  # up to this number nothing stands in the spool any more
        self.read = dict.fromkeys(STREAMS, 0)
        self.sent = dict.fromkeys(STREAMS, 0)  # the last number under way, while there is no reason to send again
        self.told = {stream: set() for stream in STREAMS}
        self.losses, self.messages, self.answers, self.heard = [], [], [], []
        self.connected, self.now = False, 100.0

    # --- the owner: a spool that is read as far as there is room -------------------------------------

    @rule(stream=streams, sizes=st.lists(st.integers(0, 120), min_size=1, max_size=4))
    def write(self, stream, sizes):
        for size in sizes:
            self.spool[stream].append(encode_record({"kind": "log", "n": len(self.spool[stream]), "text": "x" * size}))
        self.read_on()

    @rule(stream=streams, which=st.integers(0, 3))
    def write_with_attachment(self, stream, which):
        attachment = Attachment(f"{which:02x}" * 32, 5 + which % 2 * CHUNK_BYTES)  # others may name it too
        self.spool[stream].append(encode_record({"kind": "data", "attachments": [attachment._asdict()]}))
        self.read_on()

    def read_on(self):
        for stream in STREAMS:
            for record in self.spool[stream][self.read[stream] :]:
                if self.delivery.room_bytes < len(record):
                    break
                self.read[stream] += 1
                assert self.delivery.offer(*stream, record) == self.read[stream]

    @rule(stream=streams)
    def free(self, stream):
        self.freed[stream] = max(self.freed[stream], self.delivery.acknowledged(stream))

    # --- the network ---------------------------------------------------------------------------------

    @rule()
    def send(self):
        out = self.delivery.outgoing(self.now)
        assert self.connected or not out
        for item in out:
            if not isinstance(item, SendChunk):
                self.check_put(item.header, item.body)
            self.messages.append(item)

    def check_put(self, header, body):
        stream = Stream(header.source, Channel(header.channel))
        assert self.delivery.asked(stream) == (header.count == 0)  # first the answer
        if header.count:
            assert body == b"".join(self.spool[stream][header.first - 1 : header.last])
            last = self.sent[stream]
            if last is not None:  # what is acknowledged before it was sent again may be passed over
                assert last < header.first <= max(last, self.delivery.acknowledged(stream)) + 1
            self.sent[stream] = header.last

    @precondition(lambda self: self.messages)
    @rule(how=st.sampled_from(["arrive", "arrive", "arrive", "twice", "lost"]))
    def transmit(self, how):
        message = self.messages.pop(0)
        for _ in range({"arrive": 1, "twice": 2, "lost": 0}[how]):
            answer = self.journal.attach(message) if isinstance(message, SendChunk) else self.journal.put(*message[1:])
            self.answers.append(answer)

    @precondition(lambda self: self.answers)
    @rule(how=st.sampled_from(["arrive", "arrive", "arrive", "twice", "lost"]))
    def answer(self, how):
        answer = self.answers.pop(0)
        for _ in range({"arrive": 1, "twice": 2, "lost": 0}[how]):
            self.hear(answer)

    @precondition(lambda self: self.heard and self.connected)
    @rule(data=st.data())
    def hear_an_old_one(self, data):
        self.hear(data.draw(st.sampled_from(self.heard)))

    def hear(self, answer):
        self.heard.append(answer)
        if not isinstance(answer, Header):
            self.messages += self.delivery.handle_stored(*answer, self.now)
            return
        stream = Stream(answer.source, Channel(answer.channel))
        lacking = self.delivery.asked(stream) and answer.first < self.freed[stream]
        expected = [Missing(stream, answer.first + 1, self.freed[stream])] if lacking else []
        assert self.delivery.handle_ack(answer, self.now) == expected
        for missing in expected:
            self.losses.append(missing)
            self.told[stream] |= set(range(missing.first, missing.last + 1))
        if answer.flags & Flag.REWIND:
            self.sent[stream] = None
        self.read_on()

    @rule(stream=streams, flags=st.sampled_from([0, Flag.REWIND]))
    @precondition(lambda self: self.connected)
    def acknowledge_unasked(self, stream, flags):
        self.answers.append(self.journal.ack(stream, flags))

    @precondition(lambda self: self.connected)
    @rule()
    def tell_losses(self):
        self.journal.losses = list(self.losses)
        self.journal.pass_over()

    @rule()
    def wait(self):
        self.now += RESEND_S + 1
        self.sent = dict.fromkeys(STREAMS)

    @rule()
    def disconnect(self):
        self.delivery.disconnected()
        self.connected, self.messages, self.answers = False, [], []

    @rule()
    def welcome(self):
        self.messages, self.answers = [], []
        self.connected, self.sent = True, dict.fromkeys(STREAMS)
        another = self.delivery.journal not in ("", str(self.journal.name))
        assert self.delivery.welcomed(str(self.journal.name)) == another
        if another:
            self.heard = []
            for stream in STREAMS:
                self.delivery.start(stream, self.freed[stream], ask=True)
            self.read = dict(self.freed)
            self.read_on()

    @precondition(lambda self: self.delivery.journal)
    @rule(cuts=st.fixed_dictionaries({stream: st.integers(0, 5) for stream in STREAMS}), kept=st.booleans())
    def recover(self, cuts, kept):
        self.disconnect()
        self.journal.recovered(cuts, kept)

    @rule(rounds=st.integers(1, 3), how=st.sampled_from(["arrive", "arrive", "twice", "lost"]))
    def converse(self, rounds, how):
        """Much of the time all goes well, but for the last."""
        if not self.connected:
            self.welcome()
        for _ in range(rounds):
            self.send()
            while self.messages:
                self.transmit("arrive" if len(self.messages) > 1 else how)
            while self.answers:
                self.answer("arrive")

    # --- what holds ----------------------------------------------------------------------------------

    @invariant()
    def each_number_is_held_or_delivered_or_told(self):
        unacknowledged = 0
        for stream in STREAMS:
            acknowledged, told = self.delivery.acknowledged(stream), self.told[stream]
            records = self.journal.records[stream]
            assert all(record == self.spool[stream][number - 1] for number, record in records.items())
            assert not told & records.keys()
            assert told | records.keys() >= set(range(1, self.journal.last[stream] + 1))
            if self.delivery.journal == str(self.journal.name) and not self.delivery.asked(stream):
                assert told | records.keys() >= set(range(1, acknowledged + 1))
            unacknowledged += sum(map(len, self.spool[stream][acknowledged : self.read[stream]]))
        assert unacknowledged + self.delivery.room_bytes <= WINDOW_BYTES
        assert {n: c for n, c in self.delivery.counts().items() if c} == {n: c for n, c in self.read.items() if c}

    def teardown(self):
        """In peace everything gets there, without a new connection."""
        if not self.connected or self.delivery.journal != str(self.journal.name):
            self.welcome()
        for _ in range(20 + 3 * sum(map(len, self.spool.values()))):
            if self.delivery.idle and self.read == {stream: len(records) for stream, records in self.spool.items()}:
                break
            self.wait()
            self.read_on()
            self.send()
            while self.messages:
                self.transmit("arrive")
            self.tell_losses()
            while self.answers:
                self.answer("arrive")
        self.tell_losses()
        self.each_number_is_held_or_delivered_or_told()
        assert self.delivery.idle
        assert self.delivery.room_bytes == WINDOW_BYTES
        for stream, records in self.spool.items():
            assert self.journal.last[stream] == self.read[stream] == len(records)


TestDelivery = DeliveryMachine.TestCase
TestDelivery.settings = settings(max_examples=250, stateful_step_count=50, deadline=None)
