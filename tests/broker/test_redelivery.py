"""What the broker remembers for an Executor that takes over from another."""

from __future__ import annotations

from typing import Any

import pytest

from theorbo.broker.values import Confirm, Ending, Tick
from theorbo.schemas.frames import Command, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import RECENT_S
from theorbo.schemas.names import EXECUTOR, Channel

from .bus import RANK, RUN, Bus, log, put, record
from .test_core import STREAMS

LOG, SIGNALS = Channel.LOG, Channel.SIGNALS


@pytest.fixture
def bus() -> Bus:
    """With ten log lines in the journal, of sequences 2 to 11."""
    bus = Bus()
    bus.submit()
    for number in range(1, 11):
        bus.say(b"A", put(RANK, LOG, number, log(str(number))))
    bus.settle()
    return bus


def read(bus: Bus, peer: bytes = b"E", **wish: Any) -> None:
    bus.say(peer, Message(Command.READ, Header(request=1, execution=RUN), encode_json(**{"follow": True, **wish})))


def credit(bus: Bus, sequence: int, peer: bytes = b"E") -> None:
    bus.say(peer, Message(Command.CREDIT, Header(request=1, count=1000, sequence=sequence)))


def welcome(bus: Bus, epoch: int = 2) -> dict[str, Any]:
    bus.hello(b"E2", "executor", RUN, epoch=epoch, incarnation=f"number {epoch}")
    fields = decode_json(bus.to(b"E2", Command.WELCOME)[-1].body)
    return {name: fields[name] for name in ("accepted", "confirmed", "given")}


def confirms(bus: Bus) -> list[int]:
    return [each.sequence for each in bus.instructions if isinstance(each, Confirm)]


def test_an_executor_that_begins_has_nothing_behind_it():
    bus = Bus()
    bus.hello(b"E", "executor", RUN)
    (fields,) = (decode_json(message.body) for message in bus.to(b"E", Command.WELCOME))
    assert (fields["accepted"], fields["confirmed"], fields["given"]) == (0, 0, 0)


def test_observers_and_agents_are_not_told(bus):
    bus.hello(b"O", "observer")
    assert "given" not in decode_json(bus.to(b"O", Command.WELCOME)[0].body)


def test_who_takes_over_hears_what_was_confirmed_and_what_was_given(bus):
    size = len(log("1"))
    read(bus, channels=["log"], credit=5 * size)
    credit(bus, 4)
    given = bus.to(b"E", Command.EVENTS)[-1].header.sequence
    assert welcome(bus) == {"accepted": 1, "confirmed": 4, "given": given}
    assert 4 < given <= 11


def test_what_nobody_was_given_cannot_be_confirmed(bus):
    read(bus, channels=["log"], credit=1)
    credit(bus, 10**12)
    assert welcome(bus)["confirmed"] == bus.to(b"E", Command.EVENTS)[0].header.sequence


def test_a_read_from_beyond_the_end_confirms_nothing(bus):
    read(bus, after=10**15)
    credit(bus, 10**15)
    assert welcome(bus) == {"accepted": 1, "confirmed": 0, "given": 0}


def test_a_read_that_does_not_follow_is_not_for_hooks(bus):
    read(bus, follow=False, credit=100)
    credit(bus, 5)
    assert welcome(bus) == {"accepted": 1, "confirmed": 0, "given": 0}


def test_a_read_of_everything_is_not_for_hooks(bus):
    bus.say(b"E", Message(Command.READ, Header(request=1), encode_json(follow=True)))
    credit(bus, 5)
    assert welcome(bus) == {"accepted": 1, "confirmed": 0, "given": 0}


def test_an_observer_confirms_nothing(bus):
    bus.hello(b"O", "observer")
    read(bus, b"O")
    credit(bus, 5, b"O")
    bus.give(Tick())
    assert confirms(bus) == []
    assert welcome(bus)["confirmed"] == 0


class TestTheJournalIsTold:
    @pytest.fixture(autouse=True)
    def confirmed(self, bus):
        read(bus)
        for sequence in (3, 4, 5):
            credit(bus, sequence)

    def test_not_for_each_credit(self, bus):
        assert confirms(bus) == []

    def test_with_the_next_commit(self, bus):
        bus.say(b"A", put(RANK, LOG, 11, log("x")))
        assert confirms(bus) == [5]
        bus.say(b"A", put(RANK, LOG, 12, log("x")))
        assert confirms(bus) == [5]

    def test_each_second(self, bus):
        bus.give(Tick())
        bus.give(Tick())
        assert confirms(bus) == [5]

    def test_when_the_executor_says_bye(self, bus):
        bus.say(b"E", Message(Command.BYE))
        assert confirms(bus) == [5]

    def test_when_the_broker_ends(self, bus):
        bus.give(Ending())
        assert confirms(bus) == [5]

    def test_after_a_restart_it_is_known_and_all_there_was_may_have_been_given(self, bus):
        bus.give(Tick())
        bus.restart()
        assert welcome(bus) == {"accepted": 1, "confirmed": 5, "given": 11}

    def test_what_was_not_told_is_given_again_after_a_crash(self, bus):
        bus.restart()
        assert welcome(bus) == {"accepted": 1, "confirmed": 0, "given": 11}

    def test_also_of_an_execution_that_is_no_more_in_memory(self, bus):
        bus.run_to_end(streams={**STREAMS, "rank:0/log": 10}, logs=10)
        last = bus.journal[-1].sequence
        bus.pass_time(RECENT_S + 2)
        credit(bus, last)
        bus.give(Tick())
        assert bus.confirmed[RUN] == last
        assert RUN not in bus.core._executions
        assert welcome(bus) == {"accepted": 1, "confirmed": last, "given": last}

    def test_also_of_one_that_somebody_else_has_brought_back_into_memory(self, bus):
        bus.run_to_end(streams={**STREAMS, "rank:0/log": 10}, logs=10)
        last = bus.journal[-1].sequence
        bus.pass_time(RECENT_S + 2)
        bus.hello(b"O", "observer")
        read(bus, b"O", follow=False)
        credit(bus, last)
        assert welcome(bus) == {"accepted": 1, "confirmed": last, "given": last}


class TestAHoleInTheExecutorsOwnStream:
    """Its spool begins with number 5; the journal, after a recovery, has only number 1."""

    def attached(self, number: int, epoch: int = 2) -> bytes:
        fields = {"epoch": epoch, "incarnation": "number 2", "number": number, "user": "u", "host": "h"}
        return record("executor_attached", **fields)

    def test_is_reported_by_the_broker_and_closed(self, bus):
        welcome(bus)
        bus.say(b"E2", put(EXECUTOR, SIGNALS, 5, self.attached(5), record("launcher_gone", reason="r")))
        bus.settle()
        loss = bus.own_events()[0]
        assert (loss.stream, loss.first, loss.last, loss.count) == ("executor/signals", 2, 4, 3)
        assert bus.to(b"E2", Command.ACK)[-1].header.first == 6
        own = [batch for batch in bus.journal if batch.source == EXECUTOR]
        assert [(batch.first, batch.count) for batch in own] == [(1, 1), (5, 2)]
        bus.restart()
        assert welcome(bus)["accepted"] == 6

    @pytest.mark.parametrize(("number", "epoch"), [(4, 2), (5, 3)])
    def test_only_for_a_record_that_says_so(self, bus, number, epoch):
        welcome(bus)
        bus.say(b"E2", put(EXECUTOR, SIGNALS, 5, self.attached(number, epoch)))
        bus.settle()
        assert bus.own_events() == []
        assert bus.to(b"E2", Command.ACK)[-1].header.first == 1
