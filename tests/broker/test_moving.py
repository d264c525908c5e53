"""Clients that come while a broker is being restarted, or moves."""

from __future__ import annotations

import resource
import threading
from concurrent.futures import Future

import pytest
import zmq

from tests.conftest import RunningBroker
from theorbo.broker import sockets
from theorbo.broker.sockets import Sockets
from theorbo.schemas.errors import UsageError
from theorbo.schemas.limits import CONNECT_S, MISSING_FILE_S
from theorbo.schemas.link import open_link

DEADLINE_S = 20.0


def coming(broker: RunningBroker) -> Future[str]:
    """Somebody who looks for the broker from now on, and tells to which address it was welcomed."""
    found: Future[str] = Future()

    def come() -> None:
        try:
            link = open_link(str(broker.connection_file))
        except Exception as error:
            found.set_exception(error)
            return
        address = link.connection.router[0]
        link.close()
        found.set_result(address)

    threading.Thread(target=come, daemon=True).start()
    return found


def test_whoever_comes_while_the_broker_moves_finds_it_at_its_new_address(broker):
    before = broker.connection_file.read_text()
    broker.kill()
    found = coming(broker)
    broker.move()
    broker.start()
    assert broker.connection_file.read_text() != before
    assert found.result(DEADLINE_S) in broker.connection_file.read_text()


def test_whoever_comes_while_the_broker_is_restarted_waits_for_its_connection_file(broker):
    broker.stop()
    assert not broker.connection_file.exists()
    found = coming(broker)
    broker.start()
    found.result(DEADLINE_S)


def test_a_name_that_is_mistyped_is_told_sooner_than_a_broker_that_is_away(broker):
    assert MISSING_FILE_S < CONNECT_S / 2
    with pytest.raises(UsageError, match="no connection file"):
        open_link(str(broker.connection_file.with_name("mistyped.json")))


def test_a_broker_takes_as_many_descriptors_as_it_may(isolation):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1, 512), hard))
    try:
        broker = RunningBroker(isolation / "broker")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert resource.prlimit(broker.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        broker.stop()


def test_a_handshake_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(sockets, "HANDSHAKE_S", 7.0)
    bound = Sockets("tcp://127.0.0.1:0", "", None, None)
    try:
        assert {bound.router.getsockopt(zmq.HANDSHAKE_IVL), bound.xpub.getsockopt(zmq.HANDSHAKE_IVL)} == {7000}
    finally:
        bound.close(0)
