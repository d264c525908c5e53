from __future__ import annotations

import pytest

from theorbo.broker.values import JournalRead, Unsent
from theorbo.schemas.frames import Command, Header, Message, encode_json
from theorbo.schemas.names import Channel

from .bus import RANK, RUN, Bus, decoded, log, put, record

LOG = Channel.LOG


@pytest.fixture
def bus() -> Bus:
    """With an execution and ten log lines `0` … `9` on disk, in five batches of two."""
    bus = Bus()
    bus.submit()
    for number in range(0, 10, 2):
        bus.say(b"A", put(RANK, LOG, number + 1, log(str(number)), log(str(number + 1))))
        bus.commit()
    bus.hello(b"O", "observer")
    bus.sent.clear()
    return bus


def read(bus: Bus, request: int = 1, execution: bytes = RUN, **wish: object) -> None:
    bus.say(b"O", Message(Command.READ, Header(request=request, execution=execution), encode_json(**wish)))


def credit(bus: Bus, more: int, sequence: int, request: int = 1) -> None:
    bus.say(b"O", Message(Command.CREDIT, Header(request=request, count=more, sequence=sequence)))


def more(bus: Bus, first: int, *texts: str) -> None:
    bus.say(b"A", put(RANK, LOG, first, *map(log, texts)))
    bus.commit()


def texts(bus: Bus) -> list[str]:
    messages = bus.to(b"O", Command.EVENTS)
    return [event.text for message in messages for event in decoded(message.body) if event.kind == "log"]


def size(bus: Bus) -> int:
    """Of one of the batches."""
    return len(log("0") + log("1"))


def test_a_follower_gets_what_there_is_and_then_what_comes(bus):
    read(bus, follow=True, channels=["log"])
    assert texts(bus) == list("0123456789")
    more(bus, 11, "new")
    assert texts(bus) == [*"0123456789", "new"]
    assert bus.to(b"O", Command.END) == []


def test_a_follower_begins_after_the_sequence_it_names(bus):
    third = [batch.sequence for batch in bus.journal if batch.channel == LOG][2]
    read(bus, follow=True, after=third)
    assert texts(bus) == list("6789")


def test_only_the_channels_that_were_asked_for_come(bus):
    read(bus, follow=True, channels=["metrics"])
    more(bus, 11, "not wanted")
    bus.say(b"A", put(RANK, Channel.METRICS, 1, record("metric", name="n", value=1.0)))
    bus.commit()
    assert [message.header.channel for message in bus.to(b"O", Command.EVENTS)] == [Channel.METRICS]


def test_a_reader_of_one_execution_gets_nothing_of_another(bus):
    other = b"another one....."
    bus.hello(b"E2", "executor", other)
    read(bus, execution=RUN, follow=True)
    seen = len(bus.to(b"O", Command.EVENTS))
    from theorbo.schemas.names import EXECUTOR

    from .bus import SUBMITTED

    bus.say(b"E2", put(EXECUTOR, Channel.SIGNALS, 1, SUBMITTED, execution=other))
    bus.commit()
    assert len(bus.to(b"O", Command.EVENTS)) == seen
    read(bus, request=2, execution=bytes(16), follow=False)
    assert {message.header.execution for message in bus.to(b"O", Command.EVENTS)} == {RUN, other}


def test_a_reader_that_does_not_follow_gets_its_end(bus):
    read(bus, follow=False, channels=["log"])
    assert texts(bus) == list("0123456789")
    (end,) = bus.to(b"O", Command.END)
    assert end.header.request == 1
    assert end.header.sequence == bus.core.committed_sequence
    more(bus, 11, "too late")
    assert texts(bus) == list("0123456789")


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(1, 10, "0123456789"), (2, 2, "1"), (4, 7, "3456"), (10, 99, "9"), (11, 20, ""), (0, 1, "0")],
)
def test_a_range_of_positions_is_given_exactly(bus, first, last, expected):
    read(bus, channel="log", first=first, last=last)
    assert texts(bus) == list(expected)
    assert len(bus.to(b"O", Command.END)) == 1
    for message in bus.to(b"O", Command.EVENTS):
        event = decoded(message.body)[0]
        assert message.header.position == int(event.text) + 1
        assert message.header.first == int(event.text) + 1
        assert message.header.count == len(decoded(message.body))


def test_a_reader_is_sent_at_most_its_credit(bus):
    read(bus, follow=True, channels=["log"], credit=2 * size(bus))
    assert texts(bus) == list("0123")
    more(bus, 11, "new")
    assert texts(bus) == list("0123")
    credit(bus, size(bus), 0)
    assert texts(bus) == list("012345")
    credit(bus, 10 * size(bus), 0)
    assert texts(bus) == [*"0123456789", "new"]
    more(bus, 12, "newer")
    assert texts(bus)[-1] == "newer"


def test_a_range_is_held_back_by_credit_too_and_goes_on(bus):
    read(bus, channel="log", first=2, last=9, credit=size(bus))
    assert texts(bus) == ["1"]
    credit(bus, 10 * size(bus), 0)
    assert texts(bus) == list("12345678")
    assert len(bus.to(b"O", Command.END)) == 1


def test_a_credit_smaller_than_a_batch_lets_one_batch_at_a_time_pass(bus):
    read(bus, follow=True, channels=["log"], credit=1)
    assert texts(bus) == list("01")
    credit(bus, 1, 0)
    assert texts(bus) == list("01")
    credit(bus, 1, bus.to(b"O", Command.EVENTS)[-1].header.sequence)
    assert texts(bus) == list("0123")


def test_a_live_follower_whose_credit_ends_reads_on_from_the_journal_without_gap_or_double(bus):
    read(bus, follow=True, channels=["log"], credit=6 * size(bus))
    for number in range(10, 20):
        more(bus, number + 1, str(number))
    assert texts(bus) != [str(number) for number in range(20)]
    credit(bus, 1 << 20, bus.to(b"O", Command.EVENTS)[-1].header.sequence)
    assert texts(bus) == [str(number) for number in range(20)]


def test_what_did_not_leave_is_given_again_in_order(bus):
    read(bus, follow=True, channels=["log"])
    sent = bus.to(b"O", Command.EVENTS)
    bus.sent.clear()
    for message in sent[2:]:
        bus.give(Unsent(b"O", message, gone=False))
    more(bus, 11, "new")
    assert texts(bus) == []
    bus.pass_time(1)
    assert texts(bus) == [*"456789", "new"]


def test_a_closed_reader_gets_nothing_more(bus):
    read(bus, follow=True)
    bus.say(b"O", Message(Command.CLOSE, Header(request=1)))
    bus.sent.clear()
    more(bus, 11, "new")
    assert bus.to(b"O", Command.EVENTS) == []


def test_a_peer_whose_connection_is_gone_is_forgotten_with_its_readers(bus):
    read(bus, follow=True)
    bus.give(Unsent(b"O", Message(Command.PONG), gone=True))
    bus.sent.clear()
    more(bus, 11, "new")
    assert bus.to(b"O", Command.EVENTS) == []
    bus.say(b"O", Message(Command.PING))
    assert bus.refusals(b"O") == ["unknown_peer"]


def test_two_readers_of_one_peer_have_places_of_their_own(bus):
    read(bus, request=1, follow=True, channels=["log"], credit=size(bus))
    read(bus, request=2, follow=True, channels=["log"])
    by_request = [message.header.request for message in bus.to(b"O", Command.EVENTS)]
    assert by_request == [1, 2, 2, 2, 2, 2]


def test_a_journal_that_cannot_be_read_is_told_to_the_reader(bus, monkeypatch):
    monkeypatch.setattr(bus, "read", lambda wish: JournalRead(wish.peer, wish.request, wish.after, [], 0, "disk error"))
    read(bus, request=7, follow=True)
    assert bus.refusals(b"O") == ["journal"]
    assert bus.to(b"O", Command.REFUSED)[0].header.request == 7
    more(bus, 11, "new")
    assert texts(bus) == []
