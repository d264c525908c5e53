"""REQUEST over sockets and with a journal on a disk: one request, also where the broker is killed in between."""

from __future__ import annotations

import threading

import pytest

from tests.proxy.proxy import Proxy
from theorbo.schemas.connection import Connection
from theorbo.schemas.errors import Refused
from theorbo.schemas.frames import Command, Header, decode_json, encode_json
from theorbo.schemas.names import BROKER

from .bus import decoded
from .talk import Talk, submitted


def test_it_reaches_the_agent_and_its_answer_tells_the_position_in_the_journal(broker):
    file = broker.connection_file
    with submitted(file) as executor, Talk(file, "agent", executor.execution) as agent, Talk(file) as bystander:
        wish = encode_json(action="stop", by="ada", reason="the beam is off")
        answer = bystander.link.ask(Command.REQUEST, Header(execution=executor.execution), wish)
        (control,) = agent.wait(Command.CONTROL)
        assert (control.header.source, control.header.position) == (BROKER, answer.header.position)
        (event,) = decoded(control.body)
        assert (event.action, event.by, event.reason) == ("stop", "ada", "the beam is off")
        read = encode_json(channel="signals", first=answer.header.position, last=answer.header.position)
        found = bystander.link.ask(Command.READ, Header(execution=executor.execution), read)
        assert (found.body, found.header.sequence) == (control.body, answer.header.sequence)


def test_asked_again_of_a_broker_that_was_killed_it_is_the_same_request(broker):
    file = broker.connection_file
    with submitted(file) as executor:
        header, wish = Header(execution=executor.execution), encode_json(action="cancel", by="ada", token="once")
        with Talk(file) as bystander:
            first = bystander.link.ask(Command.REQUEST, header, wish)
        broker.kill()
        broker.restart()
        with Talk(file) as bystander, Talk(file, "agent", executor.execution) as agent:
            again = bystander.link.ask(Command.REQUEST, header, wish)
            assert (again.header.position, again.header.sequence) == (first.header.position, first.header.sequence)
            assert agent.wait(Command.CONTROL)[0].header.position == first.header.position
            listing = bystander.link.ask(Command.LIST, header, encode_json())
        (view,) = decode_json(listing.body)["executions"]
        assert view["heads"] == {"signals": first.header.position}


def test_one_that_is_lost_with_its_connection_is_asked_again(broker, isolation):
    connection = Connection.load(broker.connection_file)
    with submitted(broker.connection_file) as executor, Proxy(connection.router[0]) as proxy:
        file = isolation / "through.json"
        connection._replace(router=(proxy.address,), publisher=connection.publisher[:1]).save(file)

        def lose():
            proxy.cut()
            proxy.pass_all()

        with Talk(file) as bystander:
            proxy.half_open()
            losing = threading.Timer(0.3, lose)
            losing.start()
            wish = encode_json(action="cancel", by="ada", token="once")
            answer = bystander.link.ask(Command.REQUEST, Header(execution=executor.execution), wish)
            losing.join()
        assert answer.command == Command.REQUESTED


def test_of_an_execution_that_nobody_knows_it_is_refused(broker):
    with Talk(broker.connection_file) as bystander, pytest.raises(Refused) as refused:
        bystander.link.ask(Command.REQUEST, Header(execution=bytes(15) + b"x"), encode_json(action="kill", by="ada"))
    assert refused.value.code == "unknown_execution"
