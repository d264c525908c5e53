"""Bad input for a real broker: on TCP with CURVE and on ipc:// without, while another client's conversation goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import zmq

from tests.broker.bus import RANK, decoded, log, put
from tests.broker.talk import Talk, lines, submitted
from tests.broker.test_server import Plugs
from theorbo.schemas.connection import Connection
from theorbo.schemas.delivery import Delivery
from theorbo.schemas.frames import Command, Header, Message, decode_message, encode_json
from theorbo.schemas.limits import ANSWER_S, FETCHES_PER_PEER, MESSAGE_BYTES, RECONNECT_MOST_S, SUSPECT_S
from theorbo.schemas.link import configure, open_link
from theorbo.schemas.names import Channel

from .mutations import golden_messages, hostile_frames, with_field
from .wire import (
    DEADLINE_S,
    OPENINGS,
    Proxy,
    Usage,
    closed_by_broker,
    dial,
    greeting,
    say,
    through_proxy,
    undisturbed,
)

CONNECTS = 2000
MESSAGES = 1500
LAST = 4_000_000_011
"""The request whose answer comes after all the others."""


@pytest.fixture
def plugs() -> Iterator[Plugs]:
    plugs = Plugs()
    yield plugs
    plugs.close()


@pytest.fixture
def own_broker(isolation: Path) -> Iterator[Connection]:
    """A broker on ipc://, without CURVE, as `theorbo run` starts it."""
    link = open_link(None)
    connection = link.connection
    link.close()
    yield connection
    os.kill(connection.pid, signal.SIGTERM)


def observed(connection_file: Path, execution: bytes) -> list[str]:
    """The texts of the log of an execution, read from the journal by another client."""
    with Talk(connection_file, execution=execution) as reader:
        reader.read(follow=False, channels=["log"])
        reader.wait(Command.END)
        return reader.texts()


def storm(addresses: list[str], chance: Random) -> Counter[str]:
    """Everything a connection may begin with that is no conversation; some of it is left hanging."""
    hanging: list[socket.socket] = []
    done: Counter[str] = Counter()
    for address in addresses:
        for name, opening in OPENINGS.items():
            for cut in (len(opening), chance.randrange(len(opening) + 1)):
                raw = dial(address)
                say(raw, opening[:cut])
                done[name] += 1
                raw.close() if chance.random() < 0.5 else hanging.append(raw)
        for _ in range(50):
            raw = dial(address)
            say(raw, chance.randbytes(chance.randrange(1, 5000)))
            done["random bytes"] += 1
            raw.close()
    for raw in hanging:
        raw.close()
    return done


class TestBelowTheProtocol:
    """Nothing of this reaches the broker's code: libzmq drops it, and nobody can be answered."""

    def test_what_is_no_zmtp_on_tcp_disturbs_nobody(self, broker):
        connection = Connection.load(broker.connection_file)
        with undisturbed(broker.connection_file, broker.process.pid):
            done = storm([*connection.router, *connection.publisher], Random(os.getpid()))
        assert set(OPENINGS) < set(done)

    def test_what_is_no_zmtp_on_ipc_disturbs_nobody(self, own_broker, isolation):
        with undisturbed(isolation / "state" / "connection.json", own_broker.pid):
            storm([*own_broker.router, *own_broker.publisher], Random(os.getpid()))

    def test_a_thousand_quick_connects_leave_nothing_behind(self, broker):
        connection = Connection.load(broker.connection_file)
        with undisturbed(broker.connection_file, broker.process.pid):
            for number in range(CONNECTS):
                dial((*connection.router, *connection.publisher)[number % 2]).close()

    def test_slow_talkers_hold_up_nobody(self, broker):
        [address] = Connection.load(broker.connection_file).router
        with undisturbed(broker.connection_file, broker.process.pid) as bystander:
            slow = [dial(address) for _ in range(100)]
            for byte in greeting(b"CURVE"):
                for raw in slow:
                    say(raw, bytes([byte]))
                bystander.steps(1)
            for raw in slow:
                raw.close()

    def test_without_curve_there_is_no_conversation(self, broker):
        """The NULL mechanism is told so by the end of the connection."""
        [address] = Connection.load(broker.connection_file).router
        raw = dial(address)
        say(raw, OPENINGS["NULL"])
        assert closed_by_broker(raw)
        raw.close()

    def test_a_recorded_session_that_is_played_again_is_rejected(self, broker, isolation):
        with through_proxy(broker.connection_file, isolation / "proxy.json") as (connection_file, proxy):
            with submitted(connection_file) as executor:
                executor.put_and_wait(RANK, Channel.LOG, 1, *lines(1, 3))
                execution = executor.execution
            before = len(broker.log.splitlines())
            for recorded in [bytes(each) for each in proxy.recorded]:
                raw = dial(Connection.load(broker.connection_file).router[0])
                say(raw, recorded)
                assert closed_by_broker(raw), "the replayed session was not ended"
                raw.close()
        assert observed(broker.connection_file, execution) == ["line 1", "line 2", "line 3"]
        assert len(broker.log.splitlines()) == before

    def test_flipped_bits_on_the_way_cost_connections_and_no_record(self, broker, isolation):
        flips, count, seed = 5, 300, os.getpid()
        with through_proxy(broker.connection_file, isolation / "proxy.json", flips=flips, seed=seed) as (place, proxy):
            with undisturbed(broker.connection_file, broker.process.pid):
                execution = deliver(place, broker.connection_file, count, proxy, flips)
            assert len(proxy.recorded) > flips
        assert observed(broker.connection_file, execution) == [f"line {number}" for number in range(1, count + 1)]

    def test_a_hello_that_is_lost_with_its_connection_is_said_again_on_the_one_that_libzmq_makes(
        self, broker, isolation
    ):
        """Else the client would wait for its answer, and then give up a connection that is in good order."""
        with through_proxy(broker.connection_file, isolation / "proxy.json", flips=1, first_at=700) as (place, proxy):
            open_link(str(place)).close()
            assert proxy.flipped == {0: [700]}
            assert len(proxy.recorded) == 2


def deliver(connection_file: Path, true_file: Path, count: int, proxy: Proxy, flips: int) -> bytes:
    """Lines of a rank over a bad connection, as an agent delivers them, until all are acknowledged. The last of them
    is offered when so many connections have been broken.
    """
    # A bit of a length makes both sides wait, until the client gives up; else a connection is broken at once.
    patience_s = flips * (max(ANSWER_S, SUSPECT_S) + RECONNECT_MOST_S) + DEADLINE_S
    with submitted(true_file) as executor:
        delivery = Delivery(executor.execution, window_bytes=2000)
        deadline, offered = time.monotonic() + patience_s, 0
        with Talk(connection_file, "agent", executor.execution, welcome_s=patience_s) as agent:
            delivery.welcomed()
            while offered < count or not delivery.idle:
                assert time.monotonic() < deadline, f"{offered} offered, {proxy.broken} broken by {proxy.flipped}"
                enough = proxy.broken >= flips
                if delivery.room_bytes and offered < (count if enough else count - 1):
                    offered += 1
                    delivery.offer(RANK, Channel.LOG, log(f"line {offered}"))
                for out in delivery.outgoing(time.time()):
                    assert isinstance(out, Message)
                    agent.link.send(out)
                agent.listen(0.01)
                for message in agent.heard:
                    if message.command == Command.ACK:
                        delivery.handle_ack(message.header, time.time())
                    elif message.command == Command.WELCOME:
                        delivery.welcomed()
                agent.heard.clear()
                if not enough and delivery.idle:
                    agent.link.send(Message(Command.PING))
        return executor.execution


class TestWithinTheProtocol:
    """Whoever has a key and sends rubbish is answered, counted, and named in the log."""

    def pester(self, connection: Connection, execution: bytes) -> Counter[str]:
        chance = Random(os.getpid())
        context = zmq.Context()
        plug = context.socket(zmq.DEALER)
        configure(plug, connection)
        plug.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        plug.connect(connection.router[0])
        hello = encode_json(role="observer", version="0", host="\udcff\x1b[2J" + "h" * 10_000, pid=7)
        plug.send_multipart([*Message(Command.HELLO, Header(), hello).encode()])
        codes: Counter[str] = Counter({plug.recv_multipart()[0].decode(): 1})
        clients = [frames for frames in golden_messages() if frames[0] not in (b"BYE", b"HELLO")]
        for number in range(MESSAGES):
            frames = chance.choice(clients)
            header = with_field(frames[1], "execution", execution)
            plug.send_multipart(hostile_frames(chance, (frames[0], header, frames[2])) or [b""])
            if number == MESSAGES - 1:
                plug.send_multipart([*Message(Command.PING, Header(request=LAST)).encode()])
            while number == MESSAGES - 1 or plug.poll(0):
                answer = plug.recv_multipart()
                if decode_message(answer).header.request == LAST:
                    break
                codes[json.loads(answer[2])["code"] if answer[0] == b"REFUSED" else answer[0].decode()] += 1
        plug.close(0)
        context.term()
        return codes

    def test_garbage_from_a_peer_with_a_key_is_refused_counted_and_logged_with_its_origin(self, broker):
        connection = Connection.load(broker.connection_file)
        with undisturbed(broker.connection_file, broker.process.pid) as bystander:
            codes = self.pester(connection, bystander.execution)
        assert {"WELCOME", "malformed", "version", "unknown_command", "not_allowed"} <= set(codes)
        assert broker.stop() == 0
        log = [json.loads(line) for line in broker.log.splitlines()]
        refused = next(entry for entry in log if entry["event"] == "broker has ended")["refused"]
        # The answer to FETCH comes from the thread of attachments, perhaps after that to the last PING.
        late = refused.pop("unknown_attachment", 0) - codes.pop("unknown_attachment", 0)
        assert 0 <= late <= FETCHES_PER_PEER
        assert {code: n for code, n in codes.items() if code in refused} == refused
        notes = [entry for entry in log if entry["event"] == "refused a message"]
        assert notes
        assert all(entry["origin"].startswith("observer of ") and "pid 7" in entry["origin"] for entry in notes)
        assert max(map(len, broker.log.splitlines())) < 10_000
        assert not [entry for entry in log if "bug" in entry["event"]]

    def test_the_same_on_ipc(self, own_broker, isolation):
        with undisturbed(isolation / "state" / "connection.json", own_broker.pid) as bystander:
            codes = self.pester(own_broker, bystander.execution)
        assert {"WELCOME", "malformed", "version", "unknown_command", "not_allowed"} <= set(codes)

    def test_messages_that_are_sent_again_are_in_the_journal_once(self, broker):
        with submitted(broker.connection_file) as executor:
            said = [
                put(RANK, Channel.LOG, first, *lines(first, 5), execution=executor.execution) for first in (1, 6, 11)
            ]
            for _ in range(20):
                for message in (*said, *reversed(said)):
                    executor.link_of(RANK).send(message)
            executor.until(lambda: executor.acknowledged(RANK, Channel.LOG) >= 15)
            assert observed(broker.connection_file, executor.execution) == [f"line {n}" for n in range(1, 16)]

    def test_frames_over_the_limit_cost_their_sender_the_connection(self, broker, plugs):
        with undisturbed(broker.connection_file, broker.process.pid):
            for _ in range(5):
                plug = plugs.dealer(broker)
                gone = plugs.monitor(plug, zmq.EVENT_DISCONNECTED)
                plug.send_multipart([b"PUT", Header().encode(), b"x" * (MESSAGE_BYTES + 1)])
                assert gone.poll(int(DEADLINE_S * 1000)), "the connection goes on"
                plug.close(0)

    def test_what_a_task_reports_that_is_no_event_is_kept_and_changes_nothing(self, broker):
        bad = [
            b'{"kind":"rank_ended","exit_code":"zero","time":1}',
            b"[" * 60_000,
            b"null",
        ]
        with submitted(broker.connection_file) as executor:
            executor.put_and_wait(RANK, Channel.SIGNALS, 1, *(b"\x1e" + text + b"\n" for text in bad))
            [view] = executor.list()
            assert view["state"] == "PENDING"
            executor.read(follow=False, channels=["signals"])
            executor.wait(Command.END)
            heard = [event for message in executor.got(Command.EVENTS) for event in decoded(message.body)]
        assert [event.kind for event in heard[1:]] == ["invalid"] * 3
        assert Usage(broker.process.pid).descriptors < 60
