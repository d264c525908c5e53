"""The sockets of an observer: what they bring goes to a `Subscription`, which decides.

Sockets are read only when what they brought before was taken away: a reader that is slow loses live messages inside
libzmq, and gets them from the journal afterwards. With the policy `latest` all that is there is read, and what has
waited for longer than `LATEST_S` is left out: the queues hold half a minute of a stream that is not fast.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from typing import get_args

import zmq
import zmq.asyncio

from theorbo.observer.filters import Filter
from theorbo.observer.subscription import Instruction, Subscription
from theorbo.observer.tally import Tally
from theorbo.observer.values import (
    Batch,
    BrokerAway,
    BrokerBack,
    BrokerTrouble,
    Finished,
    Item,
    Missed,
    Observation,
    Policy,
    Snapshot,
    Subscribe,
    Unsubscribe,
)
from theorbo.schemas.errors import ProtocolError, Refused, UsageError
from theorbo.schemas.frames import Command, ErrorCode, Header, Message, decode_json, decode_message, encode_json
from theorbo.schemas.limits import HEARTBEAT_S, LATEST_S, PUBLISH_QUEUE_MESSAGES, SUSPECT_S
from theorbo.schemas.link import Link, configure, open_link
from theorbo.schemas.names import Channel
from theorbo.schemas.presentation import kind_of, single_events
from theorbo.schemas.search import connect

_MESSAGES_AT_A_TIME = 100  # of the live stream, before what they brought is handed over
_MAY_BE_LEFT_OUT = frozenset({Channel.LOG, Channel.METRICS, Channel.STDOUT, Channel.STDERR})


class Watcher:
    """What `watch` is made of, for those who have something to do between what comes together.

    In turn: `collect` everything that is there, `wait` until there is more; until `finished`. Use it in a
    `with` block, which closes the connections. Raises what `watch` raises.
    """

    def __init__(
        self,
        broker: str | None,
        wanted: Filter,
        *,
        until_ended: bool = False,
        policy: Policy = "complete",
        since: float | None = None,
        tally: Tally | None = None,
    ) -> None:
        """A `tally` counts all that is handed over, also of kinds that are not wanted."""
        if policy not in get_args(Policy):
            raise UsageError(f"there is no policy {policy!r}; there are {', '.join(get_args(Policy))}")
        self._tally = tally
        self._latest = policy == "latest"
        self.finished = False
        """Whether, with `until_ended`, all is over."""
        self._link = open_link(broker)
        try:
            self._filter = _narrowed(self._link, wanted)
        except BaseException:
            self._link.close()
            raise
        self._subscription = Subscription(
            self._filter, lambda: secrets.token_hex(16), self._link.new_request,
            until_ended=until_ended, policy=policy, since=since,
        )  # fmt: skip
        self._context = zmq.Context()
        self._topics: set[bytes] = set()
        self._live = self._subscriber()
        self._ready: list[Instruction] = self._subscription.join(self._link.connection.broker, time.monotonic())
        self._away = False
        self._trouble = ""
        self._tick_at = self._awake_at = time.monotonic()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._live.close()
        self._context.term()
        self._link.close()

    def _subscriber(self) -> zmq.Socket[bytes]:
        self._followed = (self._link.publisher, self._link.connection)
        socket = self._context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, PUBLISH_QUEUE_MESSAGES)
        configure(socket, self._link.connection)
        connect(socket, self._link.publisher)
        for topic in self._topics:
            socket.subscribe(topic)
        self._live_at = time.monotonic()
        return socket

    def collect(self) -> Iterator[Item]:
        """What there is to see now; reads what has arrived, without waiting."""
        yield from self._perform(self._ready)
        self._ready = []
        now = time.monotonic()
        messages = self._link.receive()
        published = self._published()
        due = now >= self._tick_at
        if due:  # before anything is handed over: while somebody takes their time with it the broker is not silent
            self._tick_at = now + HEARTBEAT_S
            yield from self._look_after_connections(now)
        if self._link.problem != self._trouble:
            self._trouble = self._link.problem
            yield BrokerTrouble(self._trouble)
        for message in messages:
            if message.command == Command.GOODBYE:
                yield from self._notice_away("the broker is being ended")
                continue
            if self._away:
                self._away = False
                yield BrokerBack()
            yield from self._perform(self._subscription.answered(message, now))
        for message in published:
            if self._latest and _may_be_left_out(message) and time.monotonic() - now > LATEST_S:
                continue  # its positions are missing, and told
            yield from self._perform(self._subscription.published(message, now))
        if due:
            yield from self._perform(self._subscription.tick(now))

    def _look_after_connections(self, now: float) -> Iterator[Item]:
        if now - self._awake_at < SUSPECT_S and self._link.silent_for_s >= SUSPECT_S:
            yield from self._notice_away(f"no answer from the broker of {self._link.path} for {SUSPECT_S:.0f} s")
        self._awake_at = now  # after a stop of our own, silence means nothing yet
        self._link.tick()
        # Where only the live stream has died (libzmq gives up a connection with garbled bytes for good) the beacon is
        # missing, while the broker answers.
        dead = now - self._live_at >= SUSPECT_S > self._link.silent_for_s
        if dead or (self._link.publisher, self._link.connection) != self._followed:
            self._live.close()
            self._live = self._subscriber()

    def _notice_away(self, text: str) -> Iterator[Item]:
        if not self._away:
            self._away = True
            yield BrokerAway(text)

    def _published(self) -> list[Message]:
        found: list[Message] = []
        for _ in range(PUBLISH_QUEUE_MESSAGES if self._latest else _MESSAGES_AT_A_TIME):
            try:
                frames = self._live.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._live_at = time.monotonic()
            try:
                found.append(decode_message(frames))
            except ProtocolError:
                continue  # if it held events, their positions are missing and will be asked for
        if not self._latest:
            return found
        newest = max((message.header.time for message in found if message.header.channel), default=0.0)
        return [item for item in found if not (_may_be_left_out(item) and item.header.time < newest - LATEST_S)]

    def _perform(self, instructions: list[Instruction]) -> Iterator[Item]:
        for instruction in instructions:
            match instruction:
                case Message():
                    self._link.send(instruction)
                case Subscribe(topic):
                    self._topics.add(topic)
                    self._live.subscribe(topic)
                case Unsubscribe(topic):
                    self._topics.discard(topic)
                    self._live.unsubscribe(topic)
                case Batch(header, view, body):
                    if self._tally:
                        self._tally.batch(header, body)
                    if header.channel in self._filter.channels:
                        for own, event in single_events(header, body):
                            if self._filter.wants(own.channel, kind_of(event)):
                                yield Observation(own, view, event)
                case Finished():
                    self.finished = True
                case Snapshot():
                    if self._tally:
                        self._tally.snapshot(instruction)
                    yield instruction
                case Missed():
                    if self._tally:
                        self._tally.missed(instruction)
                    yield instruction

    def _left_ms(self) -> int:
        return max(0, int((self._tick_at - time.monotonic()) * 1000) + 1)

    def wait(self) -> None:
        """Return when something has arrived or something is to be done."""
        poller = zmq.Poller()
        poller.register(self._link.socket, zmq.POLLIN)
        poller.register(self._live, zmq.POLLIN)
        poller.poll(self._left_ms())

    async def wait_async(self) -> None:
        """As `wait`, while other coroutines run."""
        poller = zmq.asyncio.Poller()
        poller.register(self._link.socket, zmq.POLLIN)
        poller.register(self._live, zmq.POLLIN)
        await poller.poll(self._left_ms())


def _may_be_left_out(message: Message) -> bool:
    """States and results are few, and what is said to the observer itself has no channel."""
    return message.header.channel in _MAY_BE_LEFT_OUT


def _narrowed(link: Link, wanted: Filter) -> Filter:
    """With the names of the execution, if that is asked for and known: its topics can then be named exactly."""
    if wanted.execution is None:
        return wanted
    try:
        answer = link.ask(Command.LIST, Header(execution=wanted.execution), encode_json(all=True, limit=1))
    except Refused as refusal:
        if refusal.code == ErrorCode.UNKNOWN_EXECUTION:
            return wanted  # it may still come
        raise
    for view in decode_json(answer.body).get("executions", []):
        if wanted.admits(view):
            return wanted._replace(experiment=view["experiment"], run=view["run"], task=view["task"])
    return wanted
