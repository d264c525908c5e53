"""What hinders the broker is told to everybody, unasked."""

from __future__ import annotations

import pytest

from theorbo.broker.values import JournalTrouble
from theorbo.schemas.frames import Command, decode_json

from .bus import Bus


@pytest.fixture
def bus():
    bus = Bus()
    bus.hello(b"one", "observer")
    bus.hello(b"two", "observer")
    return bus


def told(bus: Bus, peer: bytes) -> list[str]:
    answers = bus.to(peer, Command.PONG)
    assert all(answer.header.request == 0 for answer in answers)
    return [str(decode_json(answer.body)["problem"]) if answer.body else "" for answer in answers]


def test_every_peer_hears_of_trouble_with_the_journal_and_of_its_end(bus):
    bus.give(JournalTrouble("the disk is full"))
    bus.give(JournalTrouble(""))
    assert told(bus, b"one") == told(bus, b"two") == ["the disk is full", ""]


def test_whoever_comes_meanwhile_hears_of_it_behind_the_welcome(bus):
    bus.hello(b"early", "observer")
    bus.give(JournalTrouble("the disk is full"))
    bus.sent.clear()
    bus.hello(b"late", "observer")
    assert [each.message.command for each in bus.sent] == [Command.WELCOME, Command.PONG]
    assert told(bus, b"late") == ["the disk is full"]
