"""Clocks are set: by a day, forwards or back. It is nobody's end, and nothing waits for the day to pass."""

from __future__ import annotations

import pytest

from theorbo.schemas.delivery import Delivery
from theorbo.schemas.frames import Flag, Message
from theorbo.schemas.limits import LOST_S, RECENT_S, RESEND_S
from theorbo.schemas.names import Channel

from .bus import RANK, RUN, Bus, log, put

DAY_S = 86_400.0
JUMPS = pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
LOG = Channel.LOG


@pytest.fixture
def bus():
    bus = Bus()
    bus.now = 10 * DAY_S
    bus.submit()
    bus.pass_time(2, heard=(b"E", b"A"))
    return bus


@JUMPS
def test_nobody_expires_and_all_have_one_new_lease(bus, jump_s):
    bus.now += jump_s
    bus.pass_time(LOST_S - 2)
    assert bus.states() == []
    bus.pass_time(4)
    assert bus.states() == ["LOST"]


@JUMPS
def test_who_is_heard_lives_on(bus, jump_s):
    bus.now += jump_s
    bus.pass_time(2 * LOST_S, heard=(b"E", b"A"))
    bus.say(b"A", put(RANK, LOG, 1, log("a line")))
    bus.settle()
    assert bus.texts() == ["a line"]
    assert bus.states() == []


@JUMPS
def test_jump_after_jump_ends_nothing(bus, jump_s):
    for _ in range(5):
        bus.now += jump_s
        bus.pass_time(LOST_S / 2)
        bus.now -= jump_s
        bus.pass_time(LOST_S / 2)
    assert bus.states() == []


@JUMPS
def test_a_gap_is_told_again(bus, jump_s):
    bus.say(b"A", put(RANK, LOG, 5, log("too early")))
    bus.now += jump_s
    bus.pass_time(2, heard=(b"E", b"A"))
    bus.sent.clear()
    bus.say(b"A", put(RANK, LOG, 5, log("too early")))
    assert [send.message.header.flags for send in bus.sent if send.peer == b"A"] == [Flag.REWIND]


@JUMPS
def test_an_ended_execution_leaves_the_memory_and_stays_in_the_journal(bus, jump_s):
    bus.run_to_end(streams={"rank:0/log": 1, "rank:0/signals": 2, "launcher/signals": 2}, logs=1)
    assert bus.states()[-1] == "COMPLETED"
    bus.now += jump_s
    bus.pass_time(RECENT_S + 5)
    bus.published.clear()
    bus.pass_time(1)
    assert RUN.hex().encode() not in bus.published[-1].body
    assert bus.past(RUN) is not None


@JUMPS
def test_what_is_not_acknowledged_is_sent_again(jump_s):
    """A sender whose clock is set sends again no later than it would have, counted from the jump."""
    delivery = Delivery(RUN)
    delivery.welcomed()
    delivery.offer(RANK, LOG, log("a line"))
    now = 10 * DAY_S
    assert [out.header.count for out in delivery.outgoing(now) if isinstance(out, Message)] == [1]
    now += jump_s
    again = [out for wait in (0.0, RESEND_S + 1) for out in delivery.outgoing(now + wait)]
    assert [out.header.count for out in again if isinstance(out, Message)][:1] == [1]
