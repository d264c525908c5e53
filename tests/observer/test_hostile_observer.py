"""An observer that does everything wrong: neither Task nor Executor feel it, and the broker's memory is bounded."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from theorbo.schemas.connection import Connection
from theorbo.schemas.frames import Command, Header, Message, encode_json
from theorbo.schemas.limits import (
    KIB,
    LIVE_BYTES,
    MIB,
    PEER_CREDIT_BYTES,
    PEER_QUEUE_MESSAGES,
    PUBLISH_QUEUE_MESSAGES,
)
from theorbo.schemas.link import configure

TOPICS = 100_000
LISTS = 20_000
READS = 90
EVENTS = 20_000
EVENT_BYTES = 1000

TOPIC_BYTES = 2 * KIB
"""What libzmq needs for a subscription of 40 bytes (1.3 KiB), with room to spare."""
VIEW_BYTES = 2 * KIB
"""A LISTING of the one execution of this test."""


class Mad:
    """Subscribes to everything, reads nothing, asks without end."""

    def __init__(self, connection_file: Path) -> None:
        connection = Connection.load(connection_file)
        self._context = zmq.Context()
        self.sub = self._context.socket(zmq.SUB)
        self.dealer = self._context.socket(zmq.DEALER)
        for socket, address in ((self.sub, connection.publisher[0]), (self.dealer, connection.router[0])):
            configure(socket, connection)
            socket.setsockopt(zmq.RCVHWM, 1)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.connect(address)

    def say(self, command: bytes, header: Header = Header(), **fields: object) -> None:  # noqa: B008 - it is immutable
        self.dealer.send_multipart(Message(command, header, encode_json(**fields)).encode())

    def close(self) -> None:
        self.sub.close(0)
        self.dealer.close(0)
        self._context.term()


@pytest.fixture
def mad(broker) -> Iterator[Mad]:
    made = Mad(broker.connection_file)
    yield made
    made.close()


def resident_bytes(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * KIB


def test_an_observer_that_does_everything_wrong_changes_nothing_for_the_others(broker, producer, mad, tail):
    one = producer()
    honest = tail("--json", "--kind", "log", "--until-ended", "--verify", "--execution", one.id)
    honest.object()
    before = resident_bytes(broker.process.pid)

    mad.sub.subscribe(b"")  # everything, and it is never read
    for number in range(TOPICS):
        mad.sub.subscribe(b"log/%06d/%s/" % (number, secrets.token_hex(12).encode()))
    mad.say(Command.HELLO, role="observer", version="0", host="mad", pid=1)
    for number in range(READS):
        mad.say(Command.READ, Header(request=number + 1), follow=True, credit=2**62)
    for number in range(LISTS):
        mad.say(Command.LIST, Header(request=1000 + number), all=True)

    highest = 0
    for number in range(EVENTS):
        one.log(f"{number} {'x' * EVENT_BYTES}")
        if number % 500 == 0:
            one.flush()  # the broker takes what the Task reports: fails after a while if it does not
            highest = max(highest, resident_bytes(broker.process.pid))
    one.end()
    highest = max(highest, resident_bytes(broker.process.pid))

    objects = [json.loads(line) for line in honest.rest()]
    assert [item["number"] for item in objects if item["kind"] == "log"] == list(range(1, EVENTS + 1))
    assert (honest.process.returncode, objects[-1]["ok"]) == (0, True), objects[-1]["verdict"]
    # The live queue, what was read on credit or waits in the queue of the conversation, and the subscriptions.
    live = PUBLISH_QUEUE_MESSAGES * LIVE_BYTES
    asked = PEER_CREDIT_BYTES + PEER_QUEUE_MESSAGES * VIEW_BYTES
    assert highest - before < live + asked + TOPICS * TOPIC_BYTES + 64 * MIB
    assert broker.process.poll() is None
