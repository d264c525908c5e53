"""When a client says HELLO and PING, and when it looks for the broker elsewhere."""

import pytest

from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import Command, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import ANSWER_S, HEARTBEAT_S, SUSPECT_S
from theorbo.schemas.link_core import LinkCore, Reconnect, Say, Show
from theorbo.schemas.names import EXECUTOR, Speaker

RUN = bytes(range(16))
WELCOME = Message(Command.WELCOME, Header(), encode_json(broker="a journal"))
UNKNOWN = Message(Command.REFUSED, Header(), encode_json(code="unknown_peer"))


@pytest.fixture
def core():
    return LinkCore(Speaker(RUN, EXECUTOR, 3, "this one"), "login", 7, 100.0)


def said(instructions):
    return [each.message.command for each in instructions if isinstance(each, Say)]


def test_hello_says_who_speaks(core):
    [hello] = core.connected(100.0)
    assert hello.message.header.execution == RUN
    fields = decode_json(hello.message.body)
    assert (fields["role"], fields["source"], fields["epoch"], fields["incarnation"]) == (
        "executor", "executor", 3, "this one",
    )  # fmt: skip


def test_an_observer_speaks_for_nobody():
    [hello] = LinkCore(None, "login", 7, 0.0).connected(0.0)
    assert decode_json(hello.message.body)["role"] == "observer"


def test_many_refusals_are_answered_by_one_hello_until_it_is_answered(core):
    core.connected(100.0)
    core.received(WELCOME, 100.1)
    assert said(core.received(UNKNOWN, 200.0)) == [Command.HELLO]
    assert core.received(UNKNOWN, 200.1) == []
    assert said(core.received(UNKNOWN, 200.1 + HEARTBEAT_S)) == [Command.HELLO]


def test_a_broker_that_forgets_us_twice_in_a_second_is_greeted_twice(core):
    core.connected(100.0)
    core.received(WELCOME, 100.1)
    assert said(core.received(UNKNOWN, 100.2)) == [Command.HELLO]
    core.received(WELCOME, 100.3)
    assert said(core.received(UNKNOWN, 100.4)) == [Command.HELLO]


def test_hello_is_said_again_if_the_welcome_was_lost(core):
    core.connected(100.0)
    core.received(Message(Command.PONG), 100.0 + ANSWER_S - 0.5)
    assert said(core.tick(100.0 + ANSWER_S)) == [Command.HELLO]
    core.received(WELCOME, 106.0)
    assert Command.HELLO not in said(core.tick(112.0))


def test_a_question_that_met_a_broker_that_does_not_know_us_is_asked_again(core):
    question = Message(Command.LIST, Header(request=7))
    core.connected(100.0)
    core.received(WELCOME, 100.1)
    assert said(core.asks(question)) == [Command.LIST]
    assert said(core.received(UNKNOWN, 102.0)) == [Command.HELLO]
    shown, again = core.received(WELCOME, 102.1)
    assert (shown, again) == (Show(WELCOME), Say(question))
    core.received(Message(Command.LISTING, Header(request=7)), 102.2)
    assert core.received(WELCOME, 102.3) == [Show(WELCOME)], "it is answered"


def test_whoever_says_nothing_says_ping(core):
    core.connected(100.0)
    core.received(WELCOME, 100.0)
    core.said(100.0)
    assert core.tick(100.0 + HEARTBEAT_S / 2 - 0.1) == []
    [ping] = core.tick(100.0 + HEARTBEAT_S)
    assert (ping.message.command, ping.message.header.execution) == (Command.PING, RUN)


def test_an_idle_client_says_ping_at_every_tick_though_ticks_are_not_quite_regular(core):
    core.connected(100.0)
    core.received(WELCOME, 100.0)
    for tick in range(101, 110):
        now = tick + 0.001 * (tick % 2)  # late, and then in time
        core.received(Message(Command.PONG), now)
        assert said(core.tick(now)) == [Command.PING]
        core.said(now + 0.0005)


def test_who_waits_for_the_first_welcome_says_ping_and_then_hello_if_that_was_lost(core):
    core.connected(100.0)
    core.said(100.0)
    assert said(core.idle(100.0 + HEARTBEAT_S)) == [Command.PING]
    assert said(core.received(UNKNOWN, 100.0 + HEARTBEAT_S)) == [Command.HELLO]
    core.said(100.0 + SUSPECT_S)
    assert core.idle(100.0 + SUSPECT_S + 0.1) == [], "where to look for the broker is decided elsewhere"


def test_silence_is_answered_by_another_connection_once_in_a_while(core):
    core.connected(100.0)
    core.received(WELCOME, 100.0)
    core.said(104.9)
    assert core.tick(100.0 + SUSPECT_S) == [Reconnect()]
    assert Reconnect() not in core.tick(101.0 + SUSPECT_S)
    assert core.tick(100.0 + 2 * SUSPECT_S) == [Reconnect()]


def test_what_the_broker_says_is_shown_but_for_pong(core):
    assert core.received(WELCOME, 100.0) == [Show(WELCOME)]
    assert core.received(Message(Command.PONG, Header(), encode_json(problem="no space")), 101.0) == []
    assert core.problem == "no space"
    core.received(Message(Command.PONG), 102.0)
    assert core.problem == ""
    assert core.heard_at == 102.0


def test_a_body_that_is_no_json_is_an_error(core):
    with pytest.raises(ProtocolError):
        core.received(Message(Command.REFUSED, Header(), b"{"), 100.0)
