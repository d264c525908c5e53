"""Sender and broker in one process, between them a network and a power supply that fail as the seed has it."""

from __future__ import annotations

import random
from collections import deque

import pytest

from theorbo.schemas.delivery import Delivery
from theorbo.schemas.frames import Command, Message
from theorbo.schemas.names import EXECUTOR, Channel

from .bus import RANK, RUN, SUBMITTED, Bus, decoded, log

LINES = 300


class World:
    """An Executor that submits, then delivers the lines of a rank; a broker; and what is between them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.bus = Bus()
        self.delivery = Delivery(RUN, window_bytes=2_000)
        self.offered = 0
        self.to_broker: deque[Message] = deque()
        self.connection = 0
        self.delivery.offer(EXECUTOR, Channel.SIGNALS, SUBMITTED)
        self.reconnect()

    @property
    def peer(self) -> bytes:
        return b"E%d" % self.connection

    def reconnect(self) -> None:
        """The connection breaks: what is on it is lost, and a new one has another routing id."""
        self.delivery.disconnected()
        self.to_broker.clear()
        self.connection += 1
        self.bus.sent.clear()
        self.bus.hello(self.peer, "executor", RUN)

    def step(self) -> None:
        self.bus.now += 0.3
        if self.delivery.acknowledged((EXECUTOR, Channel.SIGNALS)) and self.offered < LINES:
            for _ in range(self.chance.randrange(4)):
                if self.delivery.room_bytes and self.offered < LINES:
                    self.offered += 1
                    self.delivery.offer(RANK, Channel.LOG, log(str(self.offered)))
        self.to_broker += [out for out in self.delivery.outgoing(self.bus.now) if isinstance(out, Message)]
        for _ in range(self.chance.randrange(4)):
            if self.to_broker:
                message = self.to_broker.popleft()
                if self.chance.random() < 0.05:
                    continue  # dropped: a full queue
                if self.chance.random() < 0.05:
                    self.to_broker.append(message)  # doubled, and out of order
                self.bus.say(self.peer, message)
        fate = self.chance.random()
        if fate < 0.5:
            self.bus.commit()
        elif fate < 0.53:
            self.bus.restart()  # kill -9
        elif fate < 0.56:
            self.reconnect()
        self.hear()

    def hear(self) -> None:
        sent, self.bus.sent = self.bus.sent, []
        for send in sent:
            if send.peer != self.peer or self.chance.random() < 0.05:
                continue  # to a connection of the past, or lost in a full queue
            match send.message.command:
                case Command.WELCOME:
                    self.delivery.welcomed()
                case Command.ACK:
                    self.delivery.handle_ack(send.message.header, self.bus.now)
                case Command.REFUSED:
                    self.bus.hello(self.peer, "executor", RUN)
        if self.chance.random() < 0.05:
            self.bus.hello(self.peer, "executor", RUN)  # nothing was heard for too long


@pytest.mark.parametrize("seed", range(25))
def test_everything_arrives_once_and_in_order_whatever_fails(seed):
    world = World(seed)
    for _ in range(20_000):
        world.step()
        if world.offered == LINES and world.delivery.idle:
            break
    else:
        pytest.fail("it does not come to an end")
    texts = [event.text for batch in world.bus.journal if batch.channel == Channel.LOG for event in decoded(batch.body)]
    assert texts == [str(number) for number in range(1, LINES + 1)]
    positions = [batch.position for batch in world.bus.journal if batch.channel == Channel.LOG]
    counts = [batch.count for batch in world.bus.journal if batch.channel == Channel.LOG]
    assert positions == [1 + sum(counts[:place]) for place in range(len(counts))]


@pytest.mark.parametrize("seed", range(25))
def test_what_the_sender_believes_delivered_is_on_disk_at_every_moment(seed):
    world = World(seed)
    for _ in range(400):
        world.step()
        on_disk = sum(batch.count for batch in world.bus.journal if batch.channel == Channel.LOG)
        assert world.delivery.acknowledged((RANK, Channel.LOG)) <= on_disk
