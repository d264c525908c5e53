"""Finding the broker where some of its addresses lead nowhere."""

import contextlib
import socket
import threading
import time

import pytest

from tests.proxy.proxy import Proxy
from tests.schemas.leading_nowhere import UNRESOLVABLE, blackhole, dead, mute
from theorbo.schemas import link_core, search
from theorbo.schemas.connection import Connection
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.frames import Command, Header, decode_json, encode_json
from theorbo.schemas.limits import HEARTBEAT_S, STAGGER_S, SUSPECT_S
from theorbo.schemas.link import Link, open_link
from theorbo.schemas.names import EXECUTOR, Speaker, new_incarnation
from theorbo.schemas.search import Candidate, host_of, live_address, numeric, resolved


@pytest.fixture
def through(broker, isolation):
    """Writes a connection file in which the broker has these addresses; `...` stands for its own."""

    def write(*routers):
        connection = Connection.load(broker.connection_file)
        addresses = tuple(connection.router[0] if router is ... else router for router in routers)
        place = isolation / "other.json"
        connection._replace(router=addresses, publisher=connection.publisher * len(addresses)).save(place)
        return place

    return write


def opened(path):
    """How long it takes until the broker has answered."""
    before = time.monotonic()
    link = open_link(str(path))
    took_s = time.monotonic() - before
    assert decode_json(link.ask(Command.LIST, Header(), encode_json()).body)["executions"] == []
    link.close()
    return took_s


@pytest.mark.parametrize("wrong", [dead, blackhole, mute, lambda: None])
def test_a_first_address_that_leads_nowhere_costs_a_fraction_of_a_second(through, wrong):
    with wrong() or contextlib.nullcontext(UNRESOLVABLE) as address:
        assert opened(through(address, ...)) < STAGGER_S + 0.5


def test_many_addresses_that_lead_nowhere_cost_little_each(through):
    with dead() as one, blackhole() as two, mute() as three:
        assert opened(through(UNRESOLVABLE, one, two, three, ...)) < 4 * STAGGER_S + 0.5


def test_a_name_that_stands_for_several_addresses_is_tried_at_all_of_them(broker, through, monkeypatch):
    port = int(Connection.load(broker.connection_file).router[0].rpartition(":")[2])

    def getaddrinfo(host, port, **_):
        assert host == "broker.facility"
        return [(None, None, None, "", (address, port)) for address in ("127.0.0.2", "127.0.0.3", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    path = through(f"tcp://broker.facility:{port}")
    assert opened(path) < 2 * STAGGER_S + 0.5


def test_a_name_server_that_does_not_answer_holds_nobody_up(through, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait() and [])
    assert opened(through(UNRESOLVABLE, ...)) < 0.5
    released.set()


def test_the_first_address_alone_is_used_where_it_answers(broker, through):
    with Proxy(Connection.load(broker.connection_file).router[0]) as second:
        opened(through(..., second.address))
        assert second.accepted == 0


def test_what_was_tried_is_named_and_why(through):
    with dead() as address:
        link = Link(through(UNRESOLVABLE, address))
        with pytest.raises(Unavailable) as raised:
            link.wait_welcome(1.0)
        link.close()
    assert address in str(raised.value)
    assert f"{UNRESOLVABLE} (Name or service not known)" in str(raised.value)


def test_an_address_that_falls_silent_is_left_for_one_that_answers(broker, through, wait_for):
    """Also by an Executor, whose second conversation ends the first."""
    address = Connection.load(broker.connection_file).router[0]
    with Proxy(address) as first, Proxy(address) as second:
        link = Link(through(first.address, second.address), Speaker(bytes(15) + b"1", EXECUTOR, 1, new_incarnation()))
        link.wait_welcome(5.0)
        assert second.accepted == 0
        first.half_open()
        began = time.monotonic()

        def heard():
            link.tick()
            return [message for message in link.receive(HEARTBEAT_S / 4) if message.command == Command.WELCOME]

        wait_for(heard, "the other address")
        assert time.monotonic() - began < SUSPECT_S + 2 * HEARTBEAT_S + 0.5
        assert second.accepted == 1
        link.close()


def test_of_many_addresses_also_the_last_ones_are_tried(broker, through, wait_for, monkeypatch):
    """Though a search is begun every few seconds, and looked after once a second: here both are quicker."""
    monkeypatch.setattr(link_core, "SUSPECT_S", 0.5)
    monkeypatch.setattr(search, "STAGGER_S", 0.2)
    address = Connection.load(broker.connection_file).router[0]
    with Proxy(address) as first, contextlib.ExitStack() as stack:
        link = Link(through(first.address, *(stack.enter_context(dead()) for _ in range(5)), ...))
        link.wait_welcome(5.0)
        first.half_open()

        def heard():
            link.tick()
            return [message for message in link.receive(0.05) if message.command == Command.WELCOME]

        wait_for(heard, "the last address")
        link.close()


def test_a_connection_that_comes_back_by_itself_is_kept(broker, through, wait_for):
    with Proxy(Connection.load(broker.connection_file).router[0]) as proxy:
        link = Link(through(proxy.address))
        link.wait_welcome(5.0)
        proxy.half_open()
        socket_before = link.socket

        def silent():
            link.tick()
            link.receive(HEARTBEAT_S / 4)
            return link.silent_for_s > SUSPECT_S + HEARTBEAT_S

        wait_for(silent, "silence")
        assert link.socket is socket_before
        proxy.pass_all()

        def heard():
            link.receive(HEARTBEAT_S / 4)
            link.tick()
            return link.silent_for_s < HEARTBEAT_S

        wait_for(heard, "the broker")
        assert decode_json(link.ask(Command.LIST, Header(), encode_json()).body)["executions"] == []
        link.close()


def test_addresses_are_told_from_names():
    assert numeric("tcp://127.0.0.1:5580")
    assert numeric("tcp://[fe80::1%eth0]:5580")
    assert numeric("ipc:///tmp/x/router")
    assert not numeric("tcp://login.facility:5580")
    assert host_of("tcp://[::1]:5580") == "::1"
    assert resolved("tcp://127.0.0.1:5580") == ["tcp://127.0.0.1:5580"]
    assert "tcp://127.0.0.1:80" in resolved("tcp://localhost:80")


def test_the_live_streams_are_found_where_the_conversation_is():
    connection = Connection(
        ("tcp://lab:1", "tcp://10.0.0.1:1"), ("tcp://lab:2", "tcp://10.0.0.1:2"), None, "a journal", 1, "lab", "1"
    )
    assert live_address(connection, Candidate(0, "tcp://192.168.7.1:1")) == "tcp://192.168.7.1:2"
    assert live_address(connection, Candidate(1, "tcp://10.0.0.1:1")) == "tcp://10.0.0.1:2"
    elsewhere = connection._replace(publisher=("tcp://other:2",))
    assert live_address(elsewhere, Candidate(0, "tcp://192.168.7.1:1")) == "tcp://other:2"
