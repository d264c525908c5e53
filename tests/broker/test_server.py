from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tests.conftest import RunningBroker
from theorbo.schemas.connection import Connection, KeyPair, key_file
from theorbo.schemas.errors import Refused, Unavailable
from theorbo.schemas.frames import Command, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import BATCH_EVENTS, EMBEDDED_IDLE_S, MESSAGE_BYTES, SUBSCRIPTION_BYTES, SUBSCRIPTIONS
from theorbo.schemas.link import configure, open_link, start_own_broker
from theorbo.schemas.names import EXECUTOR, Channel, Speaker, new_incarnation, topic
from theorbo.schemas.records import split_body

from .bus import AGENT, RANK, decoded, log, record
from .talk import DEADLINE_S, Talk, lines, submitted

LOG, SIGNALS = Channel.LOG, Channel.SIGNALS


class Plugs:
    """Sockets without a link: they say what they like, and are closed at the end."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket] = []

    def open(self, kind: int, address: str, connection: Connection | None) -> zmq.Socket:
        socket = self._context.socket(kind)
        self._sockets.append(socket)
        if connection:
            configure(socket, connection)
        socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        socket.connect(address)
        return socket

    def dealer(self, broker) -> zmq.Socket:
        connection = Connection.load(broker.connection_file)
        return self.open(zmq.DEALER, connection.router[0], connection)

    def sub(self, broker, *topics: bytes) -> zmq.Socket:
        connection = Connection.load(broker.connection_file)
        socket = self.open(zmq.SUB, connection.publisher[0], connection)
        for topic_ in topics:
            socket.subscribe(topic_)
        return socket

    def monitor(self, socket: zmq.Socket, events: int) -> zmq.Socket:
        """Readable when one of the events has happened to the socket."""
        self._sockets.insert(0, socket.get_monitor_socket(events))
        return self._sockets[0]

    def close(self) -> None:
        for opened in self._sockets:
            opened.close(0)
        self._context.term()


@pytest.fixture
def plugs() -> Iterator[Plugs]:
    plugs = Plugs()
    yield plugs
    plugs.close()


def logged(broker, event: str) -> list[dict]:
    return [entry for line in broker.log.splitlines() if (entry := json.loads(line))["event"] == event]


class TestConversation:
    def test_what_is_put_is_acknowledged_and_followed(self, broker):
        with submitted(broker.connection_file) as executor:
            executor.read(follow=True)
            executor.put_and_wait(RANK, LOG, 1, *lines(1, 20))
            executor.until(lambda: len(executor.texts()) == 20, "20 lines")
            assert executor.texts() == [f"line {number}" for number in range(1, 21)]
            (view,) = executor.list()
            assert view["state"] == "PENDING"
            assert view["heads"] == {"signals": 1, "log": 20}

    def test_bytes_arrive_as_they_were(self, broker):
        text = "".join(chr(c) for c in range(0x2FF)) + "\u2028 \U0001f3bb ;;; \\ \x7f"
        with submitted(broker.connection_file) as executor:
            executor.read(follow=True, channels=["log"])
            executor.put(RANK, LOG, 1, log(text))
            executor.until(executor.texts)
            assert executor.texts() == [text]

    def test_an_attachment_goes_in_and_out_in_chunks(self, broker):
        payload = os.urandom(600_000)
        digest = hashlib.sha256(payload).digest()
        with submitted(broker.connection_file) as executor:
            received = 0
            while received < len(payload):
                chunk = payload[received : received + 256 * 1024]
                header = Header(execution=executor.execution, first=received, count=len(chunk), position=len(payload))
                before = len(executor.got(Command.STORED))
                executor.link.send(Message(Command.ATTACH, header, digest + chunk))
                received = executor.wait(Command.STORED, before + 1)[-1].header.first
            got = b""
            while len(got) < len(payload):
                header = Header(execution=executor.execution, first=len(got), count=256 * 1024)
                got += executor.link.ask(Command.FETCH, header, digest).body
            assert got == payload

    def test_live_events_come_after_the_nonce_and_beacons_repeat_the_heads(self, broker, plugs):
        with submitted(broker.connection_file) as executor:
            sub = plugs.sub(broker, b"log/mfx1/", b"beacon/", b"nonce/4711")
            while (frames := sub.recv_multipart())[0] != b"nonce/4711":
                assert frames[0] == b"beacon/"
            executor.put(RANK, LOG, 1, *lines(1, 3))
            while (frames := sub.recv_multipart())[0] == b"beacon/":
                pass
            assert frames[0] == topic(LOG, "mfx1", "7", "galaxies", executor.execution.hex())
            header = Header.decode(frames[1])
            assert (header.source, header.first, header.count, header.position) == (RANK, 1, 3, 1)
            assert header.time > 1e9
            assert len(split_body(frames[2])) == 3
            while True:
                frames = sub.recv_multipart()
                heads = decode_json(frames[2])["heads"].get(executor.execution.hex())
                if heads == {"signals": 1, "log": 3}:
                    break

    def test_control_reaches_the_agent(self, broker):
        file = broker.connection_file
        with submitted(file) as executor, Talk(file, "agent", executor.execution) as agent:
            request = record("control_requested", action="cancel", by="alice")
            executor.put(EXECUTOR, SIGNALS, 2, request)
            assert agent.wait(Command.CONTROL)[0].body == request


class TestBadInput:
    def test_malformed_frames_are_refused_counted_and_logged_and_the_loop_goes_on(self, broker, plugs):
        socket = plugs.dealer(broker)
        for frames in ([b"PING"], [b"PING", b"TB\x01short", b""], [b""] * 7, [os.urandom(3000)] * 3):
            socket.send_multipart(frames)
            command, _, body = socket.recv_multipart()
            assert command == Command.REFUSED
            assert decode_json(body)["code"] == "malformed"
        with submitted(broker.connection_file) as executor:
            executor.put_and_wait(RANK, LOG, 1, log("still here"))
        origins = {entry["origin"] for entry in logged(broker, "refused a message")}
        assert len(logged(broker, "refused a message")) == 4
        assert all("has not said HELLO" in origin for origin in origins)
        broker.stop()
        assert logged(broker, "broker has ended")[0]["refused"] == {"malformed": 4}

    def test_another_protocol_version_is_told(self, broker, plugs):
        socket = plugs.dealer(broker)
        socket.send_multipart([b"HELLO", b"TB\x02" + bytes(100), b"{}"])
        command, _, body = socket.recv_multipart()
        assert command == Command.REFUSED
        assert decode_json(body)["code"] == "version"
        assert "install matching versions" in decode_json(body)["message"]

    def test_an_oversized_frame_closes_the_connection_and_nothing_else(self, broker, plugs):
        socket = plugs.dealer(broker)
        monitor = plugs.monitor(socket, zmq.EVENT_DISCONNECTED)
        with submitted(broker.connection_file) as executor:
            socket.send_multipart([b"PUT", Header().encode(), b"x" * (MESSAGE_BYTES + 1)])
            assert monitor.poll(int(DEADLINE_S * 1000))
            executor.put_and_wait(RANK, LOG, 1, log("still here"))

    def test_a_key_that_is_not_on_the_list_gets_nothing(self, broker, plugs):
        with submitted(broker.connection_file) as executor:
            executor.put_and_wait(RANK, LOG, 1, log("not secret"))
            public, secret = zmq.curve_keypair()
            KeyPair(public.decode(), secret.decode()).save(key_file())
            socket, sub = plugs.dealer(broker), plugs.sub(broker, b"")
            with contextlib.suppress(zmq.Again):
                socket.send_multipart(
                    Message(Command.HELLO, Header(), encode_json(role="observer")).encode(), zmq.NOBLOCK
                )
            executor.put_and_wait(RANK, LOG, 2, log("secret"))
            assert socket.poll(1500) == 0
            assert sub.poll(0) == 0

    def test_a_client_without_any_key_gets_nothing(self, broker, plugs):
        socket = plugs.open(zmq.DEALER, Connection.load(broker.connection_file).router[0], None)
        with contextlib.suppress(zmq.Again):  # libzmq may have dropped the connection for good by now
            socket.send_multipart(Message(Command.HELLO, Header(), encode_json(role="observer")).encode(), zmq.NOBLOCK)
        assert socket.poll(1000) == 0


class TestSubscriptions:
    def test_a_connection_with_too_many_is_closed_and_nobody_else_notices(self, broker, plugs):
        honest, greedy = plugs.sub(broker, b"beacon/"), plugs.sub(broker)
        monitor = plugs.monitor(greedy, zmq.EVENT_DISCONNECTED)
        for number in range(1, SUBSCRIPTIONS + 2):
            greedy.subscribe(b"nonce/%d" % number)
            if number % 500 == 0:  # libzmq drops those for which there is no room
                while greedy.recv_multipart()[0] != b"nonce/%d" % number:
                    pass
        assert monitor.poll(int(DEADLINE_S * 1000)), "the connection goes on"
        assert honest.recv_multipart()[0] == b"beacon/"

    def test_a_topic_that_is_too_long_closes_its_connection(self, broker, plugs):
        honest, greedy = plugs.sub(broker, b"beacon/"), plugs.sub(broker)
        monitor = plugs.monitor(greedy, zmq.EVENT_DISCONNECTED)
        greedy.subscribe(b"x" * (SUBSCRIPTION_BYTES + 1))
        assert monitor.poll(int(DEADLINE_S * 1000)), "the connection goes on"
        assert honest.recv_multipart()[0] == b"beacon/"


class TestRestart:
    def test_after_kill_9_everything_acknowledged_is_there_once(self, broker):
        with submitted(broker.connection_file) as executor:
            first = 1
            while executor.acknowledged(RANK, LOG) < 5000:
                executor.put(RANK, LOG, first, *lines(first, 50))
                first += 50
                executor.listen()
            broker.process.send_signal(signal.SIGSTOP)  # so that something is under way
            executor.put(RANK, LOG, first, *lines(first, 50))
            first += 50
            broker.kill()
            executor.listen()
            acknowledged = executor.acknowledged(RANK, LOG)
            assert first - 1 > acknowledged
            broker.restart()
            executor.heard.clear()
            request = 0

            def has_ended() -> bool:
                """After every WELCOME (a slow restart makes the link connect twice) it is read anew."""
                nonlocal request
                if executor.got(Command.WELCOME):
                    executor.heard.clear()
                    request = executor.read(follow=False, channels=["log"])
                # The answer to a former READ may be under way when WELCOME comes again.
                executor.heard = [message for message in executor.heard if message.header.request in (0, request)]
                return bool(executor.got(Command.END))

            executor.until(has_ended, "the end of what there is")
            there = executor.texts()
            assert len(there) >= acknowledged
            assert there == [f"line {number}" for number in range(1, len(there) + 1)]
            for again in range(acknowledged + 1, first + 1, BATCH_EVENTS):
                executor.put(RANK, LOG, again, *lines(again, min(BATCH_EVENTS, first + 1 - again)))
            executor.until(lambda: executor.acknowledged(RANK, LOG) >= first, "the last acknowledgement")
            (view,) = executor.list()
            assert view["heads"]["log"] == first

    def test_states_and_results_are_known_after_a_restart(self, broker):
        with submitted(broker.connection_file) as executor:
            with Talk(broker.connection_file, "agent", executor.execution) as agent:
                agent.put(AGENT, SIGNALS, 1, record("agent_started", host="h"))
                agent.put(RANK, SIGNALS, 1, record("rank_started", host="h"), record("rank_ended", exit_code=0))
                agent.put_and_wait(AGENT, SIGNALS, 2, record("agent_closed", streams={"rank:0/signals": 2}))
                executor.put_and_wait(EXECUTOR, SIGNALS, 2, record("launcher_gone", reason="it had done its work"))
            executor.until(lambda: [v for v in executor.list(all=True) if v["state"] == "COMPLETED"], "COMPLETED")
        broker.restart()
        with Talk(broker.connection_file) as observer:
            (view,) = observer.list(all=True)
            assert view["state"] == "COMPLETED"
            assert view["heads"] == {"signals": 9}
            assert observer.list() == []

    def test_sigterm_says_goodbye_and_leaves_a_clean_journal(self, broker):
        with submitted(broker.connection_file) as executor:
            executor.put(RANK, LOG, 1, *lines(1, 1000))
            executor.until(lambda: executor.acknowledged(RANK, LOG) >= 1000)
            assert broker.stop() == 0
            executor.wait(Command.GOODBYE)
        assert not broker.connection_file.exists()
        assert not (broker.state / "journal.sqlite-wal").exists()
        connection = sqlite3.connect(broker.state / "journal.sqlite")
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT sum(count) FROM batches WHERE channel = 2").fetchone() == (1000,)
        connection.close()

    def test_what_was_sent_before_sigterm_is_acknowledged_or_not_in_the_journal(self, broker):
        with submitted(broker.connection_file) as executor:
            for first in range(1, 20_001, 100):
                executor.put(RANK, LOG, first, *lines(first, 100))
            executor.until(lambda: executor.acknowledged(RANK, LOG) > 0)
            broker.stop()
            executor.wait(Command.GOODBYE)
            connection = sqlite3.connect(broker.state / "journal.sqlite")
            (there,) = connection.execute("SELECT sum(count) FROM batches WHERE channel = 2").fetchone()
            connection.close()
            assert executor.acknowledged(RANK, LOG) == there

    def test_a_full_disk_stops_acknowledgements_until_there_is_room(self, isolation):
        state = isolation / "small"
        state.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", state], capture_output=True).returncode:
            pytest.skip("only root may mount a small file system")
        broker = None
        try:
            broker = RunningBroker(state)
            with submitted(broker.connection_file) as executor:
                ballast = state / "ballast"
                with ballast.open("wb") as file:
                    space = os.statvfs(state)
                    file.write(b"x" * (space.f_bavail * space.f_frsize))
                executor.put(RANK, LOG, 1, log("x" * 100_000))
                executor.until(lambda: "is the disk full?" in broker.log, "a word in the log")
                assert executor.acknowledged(RANK, LOG) == 0
                assert executor.list()[0]["heads"] == {"signals": 1}
                executor.until(lambda: "journal cannot be written" in executor.link.problem, "a word to its peers")
                ballast.unlink()
                executor.until(lambda: executor.acknowledged(RANK, LOG) == 1, "the acknowledgement")
                executor.until(lambda: not executor.link.problem, "the end of the trouble")
        finally:
            if broker:
                broker.kill()
            subprocess.run(["umount", "--lazy", state], check=True)

    def test_a_broker_whose_journal_is_removed_ends_instead_of_acknowledging_into_nowhere(self, broker):
        (broker.state / "journal.sqlite").unlink()
        assert broker.process.wait(DEADLINE_S) == 6
        assert "was removed or replaced" in broker.log
        assert "Traceback" not in broker.log
        assert not broker.connection_file.exists()

    def test_what_an_executor_has_confirmed_is_known_after_a_restart(self, broker):
        with submitted(broker.connection_file) as executor:
            executor.put_and_wait(RANK, LOG, 1, *lines(1, 5))
            executor.read(follow=True)
            last = executor.wait(Command.EVENTS, 2)[-1].header
            credit = Header(request=last.request, execution=executor.execution, count=100, sequence=last.sequence)
            executor.link.send(Message(Command.CREDIT, credit))
            executor.list()  # the broker has it
            broker.stop()
            broker.restart()
            with Talk(broker.connection_file, "executor", executor.execution, epoch=2) as second:
                told = decode_json(second.welcome.body)
                assert (told["accepted"], told["confirmed"], told["given"]) == (1, last.sequence, last.sequence)
                assert second.list()[0]["executor_epoch"] == 2
            former = Speaker(executor.execution, EXECUTOR, 1, new_incarnation())
            with pytest.raises(Refused, match="epoch 2, this one 1"):
                open_link(str(broker.connection_file), former)

    def test_a_row_that_is_damaged_on_disk_is_reported_as_a_loss(self, broker):
        with submitted(broker.connection_file) as executor:
            executor.put_and_wait(RANK, LOG, 1, *lines(1, 3))
            executor.put_and_wait(RANK, LOG, 4, *lines(4, 3))
            broker.stop()
            connection = sqlite3.connect(broker.state / "journal.sqlite")
            connection.execute(
                "UPDATE batches SET body = replace(body, 'line 2', 'lime 2') WHERE first = 1 AND channel = 2"
            )
            connection.commit()
            connection.close()
            broker.restart()
            executor.heard.clear()
            read = 0

            def has_come() -> bool:
                """After every WELCOME (a slow restart makes the link connect twice) what was read is read again, by
                three readers that come across the row before it is set aside.
                """
                nonlocal read
                if len(executor.got(Command.WELCOME)) > read:
                    read = len(executor.got(Command.WELCOME))
                    for _ in range(3):
                        executor.read(follow=True)
                return "line 6" in executor.texts()

            executor.until(has_come, "the rows after the damaged one")
            assert "line 1" not in executor.texts()

            def losses(talk: Talk) -> list[tuple[str, int, int, int]]:
                found = [e for m in talk.got(Command.EVENTS) for e in decoded(m.body) if e.kind == "loss"]
                return sorted((e.stream, e.first, e.last, e.count) for e in found)

            executor.until(lambda: losses(executor), "the loss")
            with Talk(broker.connection_file, execution=executor.execution) as reader:
                reader.read(follow=False)
                reader.wait(Command.END)
                assert reader.texts() == ["line 4", "line 5", "line 6"]
                assert losses(reader) == [("rank:0/log", 1, 3, 3)]
            assert executor.list()[0]["lost"] == 3  # once, however often it was read

    def test_silence_of_the_configured_length_makes_an_execution_lost(self, isolation):
        (isolation / "short").mkdir()
        broker = RunningBroker(isolation / "short", "--lost-after", "2")
        submitted(broker.connection_file).close()
        with Talk(broker.connection_file) as observer:
            observer.until(lambda: [v for v in observer.list(all=True) if v["state"] == "LOST"], "LOST")
        broker.stop()


class TestCommand:
    def test_a_second_broker_on_the_same_journal_is_refused_and_the_first_serves_on(self, broker, run_theorbo):
        second = run_theorbo("broker", "--state", broker.state, "--bind", "tcp://127.0.0.1:0")
        assert second.returncode == 6
        assert second.stderr.count("\n") == 1
        assert f"pid {broker.process.pid}" in second.stderr
        with submitted(broker.connection_file) as executor:
            executor.put_and_wait(RANK, LOG, 1, log("x"))

    def test_a_port_in_use_is_one_line_and_nothing_is_left(self, tmp_path, run_theorbo):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            refused = run_theorbo("broker", "--state", tmp_path / "s", "--bind", f"tcp://127.0.0.1:{port}")
        assert refused.returncode == 6
        assert refused.stderr.count("\n") == 1
        assert f"port {port} on 127.0.0.1 is in use" in refused.stderr
        assert "port 0" in refused.stderr
        left = {entry.name for entry in (tmp_path / "s").iterdir()}
        assert left == {"broker.lock", "broker-key.json", "authorized_keys"}

    def test_an_address_of_another_machine_is_named(self, tmp_path, run_theorbo):
        refused = run_theorbo("broker", "--state", tmp_path / "s", "--bind", "tcp://192.0.2.1:0")
        assert refused.returncode == 6
        assert "192.0.2.1 is no address of this machine" in refused.stderr

    def test_a_newer_journal_is_refused_in_one_line(self, tmp_path, run_theorbo):
        (tmp_path / "s").mkdir()
        connection = sqlite3.connect(tmp_path / "s" / "journal.sqlite")
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        refused = run_theorbo("broker", "--state", tmp_path / "s", "--bind", "tcp://127.0.0.1:0")
        assert refused.returncode == 6
        assert refused.stderr.count("\n") == 1
        assert "schema version 99" in refused.stderr
        assert not (tmp_path / "s" / "connection.json").exists()

    def test_a_broker_for_all_interfaces_names_this_host(self, isolation):
        (isolation / "wide").mkdir()
        broker = RunningBroker(isolation / "wide", "--bind", "tcp://0.0.0.0:0", "--publisher", "tcp://0.0.0.0:0")
        connection = Connection.load(broker.connection_file)
        broker.stop()
        assert any(socket.gethostname() in address for address in connection.router)
        assert any("//127.0.0.1:" in address for address in connection.router)
        assert len(connection.router) == len(connection.publisher)

    def test_the_log_is_one_json_object_a_line(self, broker, wait_for):
        (ready,) = wait_for(lambda: logged(broker, "broker is ready"), "its first words")
        assert ready["level"] == "info"
        assert ready["connection"] == str(broker.connection_file)

    def test_an_idle_broker_costs_next_to_nothing(self, broker):
        with Talk(broker.connection_file) as observer:
            before, began = cpu_s(broker.process.pid), time.monotonic()
            observer.until(lambda: time.monotonic() - began > 3.0)
            assert (cpu_s(broker.process.pid) - before) / (time.monotonic() - began) < 0.01


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class TestEmbedded:
    @pytest.fixture(autouse=True)
    def no_broker_is_left(self, isolation, wait_for):
        yield
        connection = isolation / "state" / "connection.json"
        if connection.exists():
            pid = Connection.load(connection).pid
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: not connection.exists(), "the end of the embedded broker")

    def test_it_serves_on_short_ipc_addresses_and_ends_by_itself_without_a_trace(self, isolation, wait_for):
        connection_file = isolation / "state" / "connection.json"
        link = open_link(None)
        connection = Connection.load(connection_file)
        assert connection.public_key is None
        assert all(address.startswith("ipc://") and len(address) < 107 for address in connection.router)
        sockets = Path(connection.router[0].removeprefix("ipc://")).parent
        assert sockets.stat().st_mode & 0o777 == 0o700
        link.close()
        wait_for(lambda: not connection_file.exists(), "the removal of the connection file")
        wait_for(lambda: not sockets.exists(), "the removal of the sockets")
        assert not (isolation / "state" / "journal.sqlite-wal").exists()

    def test_it_stays_while_somebody_is_connected_or_an_execution_is_open(self, isolation, monkeypatch):
        connected = isolation / "state" / "connection.json"
        start_own_broker()
        with Talk(connected) as observer:
            monkeypatch.setenv("THEORBO_STATE", str(isolation / "other"))
            unfinished = isolation / "other" / "connection.json"
            start_own_broker()
            submitted(unfinished).link.close()
            began = time.monotonic()
            observer.until(lambda: time.monotonic() - began > EMBEDDED_IDLE_S + 1.5)
            assert connected.exists()
            assert unfinished.exists()
            os.kill(Connection.load(unfinished).pid, signal.SIGTERM)

    def test_two_that_are_started_at_once_become_one(self, isolation, wait_for):
        reader, writer = os.pipe()
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "theorbo.broker", "--embedded", "--ready-fd", str(writer)],
                pass_fds=(writer,), stderr=subprocess.DEVNULL,
            )
            for _ in range(2)
        ]  # fmt: skip
        os.close(writer)
        with open(reader) as pipe:
            answers = pipe.read()
        assert "ready " in answers
        assert "busy " in answers
        loser = wait_for(lambda: next((p for p in processes if p.poll() is not None), None), "the loser's end")
        winner = next(process for process in processes if process is not loser)
        winner.terminate()
        assert loser.returncode == 6
        assert winner.wait(DEADLINE_S) == 0

    def test_a_broker_that_finds_it_in_use_says_that_it_ends_by_itself(self, isolation):
        start_own_broker()
        command = [sys.executable, "-m", "theorbo.broker", "--bind", "tcp://127.0.0.1:0"]
        with Talk(isolation / "state" / "connection.json") as observer:
            refused = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            observer.until(lambda: refused.poll() is not None, "the refusal")
        assert refused.returncode == 6
        assert "ends by itself" in refused.communicate()[1]

    def test_a_broker_that_finds_it_idle_takes_its_place(self, isolation):
        start_own_broker()
        running = RunningBroker(isolation / "state")
        assert "your own broker, to end" in running.log
        assert running.stop() == 0

    def test_one_that_was_killed_is_started_again_by_whoever_misses_it(self, isolation):
        link = open_link(None)
        former = link.connection.pid
        os.kill(former, signal.SIGKILL)
        deadline = time.monotonic() + DEADLINE_S
        while link.connection.pid == former or link.silent_for_s > 1:
            assert time.monotonic() < deadline
            link.receive(0.2)
            link.tick()
        link.close()

    def test_why_it_cannot_start_is_told(self, isolation, monkeypatch):
        connection = sqlite3.connect(isolation / "state" / "journal.sqlite")
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(isolation))
        with pytest.raises(Unavailable, match="schema version 99"):
            start_own_broker()
        assert list(isolation.glob("theorbo-*")) == []


def test_numbers_at_the_end_of_their_range_end_nothing(broker):
    with submitted(broker.connection_file) as executor:
        executor.put(RANK, LOG, 2**64 - 2, log("far away"))
        executor.put_and_wait(RANK, LOG, 1, log("near"))


def test_a_broker_whose_connection_file_is_elsewhere_is_told_and_not_tried_for_ever(
    isolation, tmp_path, monkeypatch, wait_for
):
    """It holds the lock of the user's own state directory: each start of another one finds it busy."""
    monkeypatch.setattr("theorbo.schemas.link.CONNECT_S", 2.0)
    elsewhere = tmp_path / "elsewhere.json"
    process = subprocess.Popen(
        [
            sys.executable, "-m", "theorbo.broker", "--state", str(isolation / "state"),
            "--bind", "tcp://127.0.0.1:0", "--connection", str(elsewhere),
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(elsewhere.exists)
        with pytest.raises(Unavailable, match="another broker"):
            open_link(None)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
