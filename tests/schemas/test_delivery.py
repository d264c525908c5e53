from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from theorbo.schemas.delivery import Delivery, Missing, SendChunk
from theorbo.schemas.frames import Command, Flag, Header, Message
from theorbo.schemas.limits import BATCH_BYTES, BATCH_EVENTS, CHUNK_BYTES, RESEND_S
from theorbo.schemas.names import Channel, Source, SourceKind, Stream
from theorbo.schemas.records import Attachment, drop_first, encode_record, split_body

EXECUTION = bytes(range(16))
RANK = Source(SourceKind.RANK, 0)
OTHER = Source(SourceKind.RANK, 1)


def record(number, **fields):
    return encode_record({"kind": "log", "time": float(number), **fields})


def with_attachment(size, digits="ab"):
    attachment = Attachment(digits * 32, size)
    return attachment, encode_record({"kind": "data", "attachments": [attachment._asdict()]})


class Journal:
    """The broker's half, by the protocol's rules: the next number is taken, what is known is dropped."""

    def __init__(self):
        self.streams = {}

    def put(self, message):
        """The answer to a PUT."""
        header, stream = message.header, Stream(message.header.source, Channel(message.header.channel))
        bodies = self.streams.setdefault(stream, [])
        if header.first > len(bodies) + 1:
            return self.ack(stream, Flag.REWIND)
        known = len(bodies) + 1 - header.first
        if known < header.count:
            assert len(split_body(message.body)) == header.count
            bodies += split_body(drop_first(message.body, known))
        return self.ack(stream, 0)

    def ack(self, stream, flags):
        return Header(
            execution=EXECUTION, channel=stream.channel, source=stream.source,
            first=len(self.streams[stream]), flags=flags,
        )  # fmt: skip


def connected():
    delivery = Delivery(EXECUTION)
    delivery.welcomed()
    return delivery


def puts(delivery, now=0.0):
    return [each for each in delivery.outgoing(now) if isinstance(each, Message)]


def span(message):
    return message.header.first, message.header.last


# What can happen between a sender and a broker over a bad network.
happenings = st.lists(
    st.one_of(
        st.tuples(
            st.just("offer"), st.integers(0, 1), st.sampled_from([Channel.LOG, Channel.SIGNALS]), st.integers(1, 40)
        ),
        st.tuples(st.just("send")),
        st.tuples(st.just("arrive")),
        st.tuples(st.just("lose")),  # the next message
        st.tuples(st.just("repeat")),  # the next message comes twice
        st.tuples(st.just("acknowledge")),
        st.tuples(st.just("lose ack")),
        st.tuples(st.just("cut")),  # everything under way is lost, a new connection
        st.tuples(st.just("wait")),
    ),
    max_size=60,
)  # fmt: skip


@given(happenings)
def test_nothing_is_lost_and_nothing_is_doubled_whatever_happens(happenings):
    delivery, journal = connected(), Journal()
    offered, messages, answers, now = {}, [], [], 0.0
    for what, *arguments in happenings:
        if what == "offer":
            rank, channel, count = arguments
            stream = Stream(Source(SourceKind.RANK, rank), channel)
            for _ in range(count):
                numbers = offered.setdefault(stream, [])
                text = record(len(numbers))
                assert delivery.offer(*stream, text) == len(numbers) + 1
                numbers.append(text.strip(b"\x1e\n"))
        elif what == "send":
            messages += puts(delivery, now)
        elif what == "arrive" and messages:
            answers.append(journal.put(messages.pop(0)))
        elif what == "lose" and messages:
            messages.pop(0)
        elif what == "repeat" and messages:
            answers.append(journal.put(messages[0]))
        elif what == "acknowledge" and answers:
            delivery.handle_ack(answers.pop(0), now)
        elif what == "lose ack" and answers:
            answers.pop(0)
        elif what == "cut":
            messages, answers = [], []
            delivery.disconnected()
            assert delivery.outgoing(now) == []
            delivery.welcomed()
        elif what == "wait":
            now += RESEND_S + 1
        for stream, taken in journal.streams.items():
            assert taken == offered[stream][: len(taken)]
            assert delivery.acknowledged(stream) <= len(taken)
    for _ in range(5):  # in peace everything arrives
        now += RESEND_S + 1
        messages += puts(delivery, now)
        for message in messages:
            answers.append(journal.put(message))
        for answer in answers:
            delivery.handle_ack(answer, now)
        messages, answers = [], []
    assert journal.streams == offered
    assert delivery.idle
    assert delivery.counts() == {stream: len(texts) for stream, texts in offered.items()}


def test_nothing_is_sent_before_the_welcome():
    delivery = Delivery(EXECUTION)
    delivery.offer(RANK, Channel.LOG, record(1))
    assert delivery.outgoing(0.0) == []
    delivery.welcomed()
    (message,) = puts(delivery, 7.0)
    assert message.command == Command.PUT
    assert message.header == Header(
        execution=EXECUTION, channel=Channel.LOG, source=RANK, first=1, count=1, time=7.0
    )  # fmt: skip
    assert message.body == record(1)


def test_what_is_under_way_is_not_sent_again():
    delivery = connected()
    delivery.offer(RANK, Channel.LOG, record(1))
    assert len(puts(delivery)) == 1
    delivery.offer(RANK, Channel.LOG, record(2))
    assert [span(message) for message in puts(delivery)] == [(2, 2)]
    assert puts(delivery) == []


def test_batches_of_all_streams_go_by_the_age_of_their_first_records():
    delivery = connected()
    for channel in (Channel.METRICS, Channel.STDOUT, Channel.LOG, Channel.METRICS, Channel.RESULTS, Channel.SIGNALS):
        delivery.offer(RANK, channel, record(1))
    delivery.offer(OTHER, Channel.SIGNALS, record(1))
    expected = [
        (RANK, Channel.METRICS, (1, 2)), (RANK, Channel.STDOUT, (1, 1)), (RANK, Channel.LOG, (1, 1)),
        (RANK, Channel.RESULTS, (1, 1)), (RANK, Channel.SIGNALS, (1, 1)), (OTHER, Channel.SIGNALS, (1, 1)),
    ]  # fmt: skip
    assert [(m.header.source, m.header.channel, span(m)) for m in puts(delivery)] == expected
    delivery.welcomed()  # and likewise when all is sent again
    assert [(m.header.source, m.header.channel, span(m)) for m in puts(delivery)] == expected


def test_a_signal_or_result_never_goes_before_what_was_offered_before_it():
    delivery = connected()
    for channel in (Channel.SIGNALS, Channel.SIGNALS, Channel.RESULTS, Channel.LOG, Channel.RESULTS, Channel.SIGNALS):
        delivery.offer(RANK, channel, record(1))
    assert [(message.header.channel, span(message)) for message in puts(delivery)] == [
        (Channel.SIGNALS, (1, 2)), (Channel.RESULTS, (1, 1)), (Channel.LOG, (1, 1)),
        (Channel.RESULTS, (2, 2)), (Channel.SIGNALS, (3, 3)),
    ]  # fmt: skip


def test_an_attachment_holds_up_its_own_stream_only():
    delivery = connected()
    attachment, text = with_attachment(10)
    delivery.offer(RANK, Channel.RESULTS, text)
    for channel in (Channel.LOG, Channel.RESULTS, Channel.SIGNALS):
        delivery.offer(RANK, channel, record(1))
    chunk, log, signal = delivery.outgoing(0.0)
    assert (chunk, log.header.channel, signal.header.channel) == (
        SendChunk(attachment, 0, 10), Channel.LOG, Channel.SIGNALS,
    )  # fmt: skip
    delivery.handle_stored(attachment, 10, 0.0)
    assert [(m.header.channel, span(m)) for m in puts(delivery)] == [
        (Channel.RESULTS, (1, 1)),
        (Channel.RESULTS, (2, 2)),
    ]


def test_what_waits_is_sent_in_few_messages_of_bounded_size_and_count():
    delivery = connected()
    for number in range(2 * BATCH_EVENTS + 1):
        delivery.offer(RANK, Channel.LOG, record(number))
    large = record(1, text="x" * (BATCH_BYTES // 2))
    for _ in range(3):
        delivery.offer(OTHER, Channel.LOG, large)
    assert [m.header.count for m in puts(delivery)] == [BATCH_EVENTS, BATCH_EVENTS, 1, 1, 1, 1]


def test_the_room_is_what_is_not_acknowledged():
    delivery = Delivery(EXECUTION, window_bytes=100)
    delivery.welcomed()
    text = record(1)
    delivery.offer(RANK, Channel.LOG, text)
    assert delivery.room_bytes == 100 - len(text)
    puts(delivery)
    delivery.handle_ack(Header(source=RANK, channel=Channel.LOG, first=1), 0.0)
    assert delivery.room_bytes == 100
    assert delivery.idle


def test_a_broker_that_is_ahead_by_an_earlier_agent_is_believed_only_as_far_as_was_read():
    delivery = connected()
    delivery.start(Stream(RANK, Channel.LOG), 5)
    assert delivery.offer(RANK, Channel.LOG, record(6)) == 6
    puts(delivery)
    delivery.handle_ack(Header(source=RANK, channel=Channel.LOG, first=9), 0.0)
    assert delivery.acknowledged(Stream(RANK, Channel.LOG)) == 6


def test_an_acknowledgement_of_an_unknown_stream_is_passed_over():
    delivery = connected()
    delivery.handle_ack(Header(source=OTHER, channel=Channel.LOG, first=3), 0.0)
    delivery.handle_ack(Header(), 0.0)
    assert delivery.idle


# --- another journal -----------------------------------------------------------------------------

LOGS = Stream(RANK, Channel.LOG)


def acknowledge(delivery, number, stream=LOGS, flags=0):
    return delivery.handle_ack(
        Header(source=stream.source, channel=stream.channel, first=number, flags=flags), 0.0
    )  # fmt: skip


def delivered(count):
    """A delivery of which a journal has had so many events."""
    delivery = Delivery(EXECUTION)
    assert not delivery.welcomed("one")
    for number in range(count):
        delivery.offer(RANK, Channel.LOG, record(number))
    puts(delivery)
    acknowledge(delivery, count)
    return delivery


def questions(messages):
    return [message for message in messages if message.header.count == 0]


def test_another_journal_is_asked_after_every_stream_before_anything_of_it_is_sent():
    delivery = delivered(3)
    delivery.offer(RANK, Channel.LOG, record(3))
    assert delivery.welcomed("two")
    (question,) = puts(delivery)
    assert (question.header.first, question.header.count, question.body) == (1, 0, b"")
    assert delivery.asked(LOGS)
    assert not delivery.idle
    assert puts(delivery, 1.0) == []
    assert questions(puts(delivery, 1.0 + 2 * RESEND_S)) != []  # the answer was lost
    assert acknowledge(delivery, 3) == []
    assert [span(message) for message in puts(delivery)] == [(4, 4)]


def test_what_another_journal_lacks_and_is_not_here_is_missing():
    delivery = delivered(7)
    delivery.offer(RANK, Channel.LOG, record(7))
    delivery.welcomed("two")
    puts(delivery)
    assert acknowledge(delivery, 2, flags=Flag.REWIND) == [Missing(LOGS, 3, 7)]
    assert acknowledge(delivery, 2, flags=Flag.REWIND) == []  # told once
    assert [span(message) for message in puts(delivery)] == [(8, 8)]


def test_what_is_here_again_is_offered_from_its_first_number_on():
    delivery = delivered(7)
    assert delivery.welcomed("two")
    delivery.start(LOGS, 4, ask=True)
    for number in range(4, 7):
        assert delivery.offer(RANK, Channel.LOG, record(number)) == number + 1
    assert len(puts(delivery)) == len(questions(puts(delivery, 100.0))) == 1
    assert acknowledge(delivery, 3) == [Missing(LOGS, 4, 4)]
    assert [span(message) for message in puts(delivery)] == [(5, 7)]
    acknowledge(delivery, 7)
    assert delivery.idle
    assert delivery.room_bytes == Delivery(EXECUTION).room_bytes


def test_the_same_journal_that_seems_to_go_back_is_an_old_answer():
    delivery = delivered(7)
    assert not delivery.welcomed("one")
    assert acknowledge(delivery, 2, flags=Flag.REWIND) == []
    assert delivery.acknowledged(LOGS) == 7
    assert puts(delivery) == []


def test_a_checkpoint_tells_which_journal_its_acknowledgements_are_of():
    delivery = Delivery(EXECUTION, journal="one")
    delivery.start(LOGS, 5)
    assert delivery.welcomed("two")
    assert Delivery(EXECUTION).welcomed("two") is False


def test_a_batch_that_is_refused_for_ever_is_given_up_and_the_next_goes_on():
    delivery = delivered(2)
    delivery.offer(RANK, Channel.LOG, record(2))
    (refused,) = puts(delivery)
    delivery.offer(RANK, Channel.LOG, record(3))
    assert delivery.refused(refused.header) == Missing(LOGS, 3, 3)
    assert delivery.refused(refused.header) is None
    assert delivery.refused(Header()) is None
    assert [span(message) for message in puts(delivery)] == [(4, 4)]


def test_an_earlier_sender_may_have_been_further():
    delivery = connected()
    delivery.start(LOGS, 0, ask=True)
    delivery.offer(RANK, Channel.LOG, record(1))
    assert acknowledge(delivery, 9) == []
    assert (delivery.journaled(LOGS), delivery.acknowledged(LOGS)) == (9, 1)


# --- attachments ---------------------------------------------------------------------------------


def test_a_record_waits_for_its_attachment_and_all_behind_it_wait_too():
    delivery = connected()
    attachment, text = with_attachment(CHUNK_BYTES + 10)
    delivery.offer(RANK, Channel.RESULTS, text)
    delivery.offer(RANK, Channel.RESULTS, record(2))
    delivery.offer(RANK, Channel.LOG, record(3))
    first, log = delivery.outgoing(0.0)
    assert first == SendChunk(attachment, 0, CHUNK_BYTES)
    assert log.header.channel == Channel.LOG
    assert delivery.outgoing(0.0) == []
    assert delivery.handle_stored(attachment, CHUNK_BYTES, 0.0) == [SendChunk(attachment, CHUNK_BYTES, 10)]
    assert delivery.handle_stored(attachment, CHUNK_BYTES + 10, 0.0) == []
    assert [span(message) for message in puts(delivery)] == [(1, 1), (2, 2)]


def test_an_old_answer_starts_no_second_train_of_chunks():
    delivery = connected()
    attachment, text = with_attachment(4 * CHUNK_BYTES)
    delivery.offer(RANK, Channel.RESULTS, text)
    delivery.outgoing(0.0)
    assert len(delivery.handle_stored(attachment, CHUNK_BYTES, 0.0)) == 1
    assert delivery.handle_stored(attachment, CHUNK_BYTES, 0.0) == []
    delivery.welcomed()
    assert delivery.handle_stored(attachment, 2 * CHUNK_BYTES, 0.0) == []  # nothing was asked on this connection
    assert delivery.outgoing(0.0) == [SendChunk(attachment, 0, CHUNK_BYTES)]
    assert delivery.handle_stored(attachment, 2 * CHUNK_BYTES, 0.0) == [
        SendChunk(attachment, 2 * CHUNK_BYTES, CHUNK_BYTES)
    ]


def test_an_attachment_that_is_given_up_holds_nothing_up():
    delivery = connected()
    attachment, text = with_attachment(10)
    delivery.offer(RANK, Channel.RESULTS, text)
    delivery.outgoing(0.0)
    delivery.give_up(attachment)
    assert [span(message) for message in puts(delivery)] == [(1, 1)]


def test_two_records_may_name_the_same_attachment():
    delivery = connected()
    attachment, text = with_attachment(10)
    delivery.offer(RANK, Channel.RESULTS, text)
    delivery.offer(OTHER, Channel.RESULTS, text)
    assert delivery.outgoing(0.0) == [SendChunk(attachment, 0, 10)]
    delivery.handle_stored(attachment, 10, 0.0)
    assert [message.header.source for message in puts(delivery)] == [RANK, OTHER]


def test_after_a_long_silence_everything_is_sent_again():
    delivery = connected()
    delivery.offer(RANK, Channel.LOG, record(1))
    assert len(puts(delivery, 100.0)) == 1
    assert puts(delivery, 100.0 + RESEND_S / 2) == []
    assert [span(message) for message in puts(delivery, 101.0 + RESEND_S)] == [(1, 1)]


def test_a_busy_stream_does_not_keep_what_another_has_lost_from_being_sent_again():
    delivery = connected()
    attachment, text = with_attachment(10)
    delivery.offer(RANK, Channel.RESULTS, text)
    delivery.offer(OTHER, Channel.SIGNALS, record(1))
    assert len(delivery.outgoing(100.0)) == 2  # the broker drops both: its disk is full for a moment
    sent_again = []
    for number in range(1, 2 * int(RESEND_S)):
        now = 100.0 + number
        delivery.offer(RANK, Channel.LOG, record(number))
        sent_again += delivery.outgoing(now)
        delivery.handle_ack(Header(source=RANK, channel=Channel.LOG, first=number), now)
    assert SendChunk(attachment, 0, 10) in sent_again
    assert any(isinstance(item, Message) and item.header.source == OTHER for item in sent_again)
