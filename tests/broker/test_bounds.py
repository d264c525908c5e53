"""Every bound of the core: what happens at it, and that it holds whatever is sent."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from theorbo.broker.core import Core
from theorbo.broker.values import (
    ChunkRead,
    ChunkStored,
    Committed,
    Keep,
    ReadChunk,
    ReadJournal,
    Received,
    Reference,
    Send,
    StoreChunk,
    Tick,
    Unsent,
)
from theorbo.schemas.frames import Command, Flag, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import (
    BEGINNING_CHARACTERS,
    CHUNK_BYTES,
    CHUNKS_PENDING_BYTES,
    CONTROLS,
    CREDIT_BYTES,
    ENDED_IN_MEMORY,
    FETCHES_PER_PEER,
    HOSTS_SHOWN,
    LIVE_BYTES,
    PEER_CREDIT_BYTES,
    REFUSAL_CHARACTERS,
    REFUSALS_LOGGED,
    REFUSED_ORIGINS,
)
from theorbo.schemas.names import EXECUTOR, Channel, Source, SourceKind

from .bus import AGENT, RANK, RUN, SUBMITTED, Bus, log, put, record
from .test_core import view_of

LOG, SIGNALS = Channel.LOG, Channel.SIGNALS


@pytest.fixture
def bus() -> Bus:
    bus = Bus()
    bus.submit()
    return bus


def read(bus: Bus, peer: bytes, request: int, **wish: object) -> None:
    bus.say(peer, Message(Command.READ, Header(request=request, execution=RUN), encode_json(**wish)))


class TestCredit:
    def sent_bytes(self, bus: Bus, peer: bytes = b"O") -> int:
        return sum(len(message.body) for message in bus.to(peer, Command.EVENTS))

    @pytest.fixture(autouse=True)
    def much(self, bus):
        """60 MiB of log, more than anybody may be sent unread."""
        body = [log("x" * 100_000) for _ in range(10)]
        for number in range(60):
            bus.say(b"A", put(RANK, LOG, 10 * number + 1, *body))
        bus.settle()
        bus.hello(b"O", "observer")

    def test_of_one_read_is_limited_whatever_it_asks_for(self, bus):
        read(bus, b"O", 1, follow=True, credit=2**62)
        assert CREDIT_BYTES - 1_100_000 < self.sent_bytes(bus) <= CREDIT_BYTES
        bus.sent.clear()
        bus.say(b"O", Message(Command.CREDIT, Header(request=1, count=2**32 - 1)))
        bus.say(b"O", Message(Command.CREDIT, Header(request=1, count=2**32 - 1)))
        assert self.sent_bytes(bus) <= 2 * CREDIT_BYTES

    def test_of_all_reads_of_a_peer_together_is_limited(self, bus):
        bus.read = lambda wish: None  # nothing is sent: all credit stays
        bus.give_read = bus.give
        granted = []
        for request in range(1, 11):
            wishes = bus.core.handle(
                Received(
                    b"O", "alice",
                    list(Message(Command.READ, Header(request=request), encode_json(follow=True)).encode()),
                ),
                bus.now,
            )  # fmt: skip
            granted += [cursor.credit_bytes for cursor in bus.core._cursors._cursors.values()][-1:]
            assert all(isinstance(wish, ReadJournal) for wish in wishes)
        assert sum(granted) == PEER_CREDIT_BYTES
        assert granted == [CREDIT_BYTES] * 4 + [0] * 6

    def test_a_reader_that_got_none_is_still_served_one_batch_at_a_time(self, bus):
        for request in range(1, 6):
            read(bus, b"O", request, follow=False, credit=2**62)
        got = [message for message in bus.to(b"O", Command.EVENTS) if message.header.request == 5]
        assert got


class TestReadsInAll:
    def test_are_limited(self, bus, monkeypatch):
        monkeypatch.setattr("theorbo.broker.cursors.READS", 3)
        for peer in (b"O", b"P"):
            bus.hello(peer, "observer")
            for request in (1, 2):
                read(bus, peer, request, follow=True)
        assert (bus.refusals(b"O"), bus.refusals(b"P")) == ([], ["busy"])

    def test_what_nobody_waits_for_is_not_read(self, bus):
        bus.hello(b"O", "observer")
        wish = bus.core.handle(
            Received(b"O", "alice", list(Message(Command.READ, Header(request=1), b"{}").encode())), bus.now
        )[0]
        assert bus.core.wants(wish)
        bus.say(b"O", Message(Command.CLOSE, Header(request=1)))
        assert not bus.core.wants(wish)


class TestFetch:
    def fetch(self, bus: Bus, request: int, peer: bytes = b"O") -> None:
        header = Header(request=request, execution=RUN, count=CHUNK_BYTES)
        bus.say(peer, Message(Command.FETCH, header, bytes(32)))

    def begun(self, bus: Bus) -> list[ReadChunk]:
        return [each for each in bus.instructions if isinstance(each, ReadChunk)]

    def test_one_chunk_of_a_peer_is_read_at_a_time_and_more_than_some_are_refused(self, bus):
        bus.hello(b"O", "observer")
        for request in range(1, FETCHES_PER_PEER + 3):
            self.fetch(bus, request)
        assert [each.header.request for each in self.begun(bus)] == [1]
        assert bus.refusals(b"O") == ["busy"] * 2
        for number in range(FETCHES_PER_PEER):
            bus.give(ChunkRead(b"O", self.begun(bus)[number].header, 10, b"x" if number % 2 else None))
        assert [each.header.request for each in self.begun(bus)] == list(range(1, FETCHES_PER_PEER + 1))
        self.fetch(bus, 99)
        assert self.begun(bus)[-1].header.request == 99

    def test_who_has_gone_is_not_read_for(self, bus):
        bus.hello(b"O", "observer")
        self.fetch(bus, 1)
        self.fetch(bus, 2)
        bus.say(b"O", Message(Command.BYE))
        bus.give(ChunkRead(b"O", self.begun(bus)[0].header, 10, b"x"))
        assert len(self.begun(bus)) == 1

    def test_all_peers_together_have_a_limit_and_take_turns(self, bus):
        at_once = CHUNKS_PENDING_BYTES // CHUNK_BYTES
        for number in range(at_once + 5):
            bus.hello(b"O%d" % number, "observer")
            self.fetch(bus, 1, b"O%d" % number)
        assert len(self.begun(bus)) == at_once
        for each in self.begun(bus):
            bus.give(ChunkRead(each.peer, each.header, 10, b"x"))
        assert len(self.begun(bus)) == at_once + 5


def test_chunks_that_wait_to_be_written_are_limited(bus):
    digest, at_once = bytes(32), CHUNKS_PENDING_BYTES // CHUNK_BYTES
    attach = Message(Command.ATTACH, Header(execution=RUN, count=1, position=10), digest + b"x")
    for _ in range(at_once + 10):
        bus.say(b"A", attach)
    assert sum(isinstance(each, StoreChunk) for each in bus.instructions) == at_once
    assert bus.refusals(b"A") == []
    bus.give(ChunkStored(b"A", Reference(RUN, digest, 10), 1, complete=False))
    bus.say(b"A", attach)
    assert sum(isinstance(each, StoreChunk) for each in bus.instructions) == at_once + 1


class TestStreams:
    def test_what_cannot_be_accepted_begins_no_stream(self, bus):
        before = set(bus.core._executions[RUN].streams)
        for rank in range(500):
            bus.say(b"A", put(Source(SourceKind.RANK, rank), LOG, 2, log("behind a gap")))
            question = Header(execution=RUN, channel=LOG, source=Source(SourceKind.RANK, rank), first=1)
            bus.say(b"A", Message(Command.PUT, question))
        assert set(bus.core._executions[RUN].streams) == before
        assert [m.header.flags for m in bus.to(b"A", Command.ACK)] == [Flag.REWIND, 0] * 500
        assert bus.pending == []

    def test_their_number_is_limited(self, bus, monkeypatch):
        monkeypatch.setattr("theorbo.broker.executions.STREAMS", 10)
        for rank in range(20):
            bus.say(b"A", put(Source(SourceKind.RANK, rank), LOG, 1, log("x")))
        assert bus.refusals(b"A") == ["too_large"] * 11
        bus.settle()
        assert len(bus.core._executions[RUN].streams) == 10
        bus.say(b"A", put(Source(SourceKind.RANK, 0), LOG, 2, log("those that are there go on")))
        bus.pass_time(130)
        assert bus.states() == ["LOST"]

    def test_a_loss_of_one_too_many_ends_nothing(self, bus, monkeypatch):
        monkeypatch.setattr("theorbo.broker.executions.STREAMS", 2)
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("loss", stream="rank:7/log", first=1, last=2, count=2, detail="?")))
        bus.settle()
        assert view_of(bus)["lost"] == 2

    def test_one_too_many_does_not_keep_an_execution_from_its_end(self, bus, monkeypatch):
        """Its agent was refused, has told the loss, and counts the stream at its end."""
        monkeypatch.setattr("theorbo.broker.executions.STREAMS", 6)
        streams = {"rank:0/signals": 2, "rank:0/log": 3, "launcher/signals": 2, "rank:0/metrics": 7}
        bus.run_to_end(streams=streams, logs=3)
        assert (RANK, Channel.METRICS) not in bus.core._executions[RUN].streams
        assert bus.states() == ["RUNNING", "COMPLETED"]


class TestPeers:
    def test_observers_are_limited_and_others_are_not_kept_out_by_them(self, bus, monkeypatch):
        monkeypatch.setattr("theorbo.broker.sessions.OBSERVERS", 3)
        for number in range(5):
            bus.hello(b"O%d" % number, "observer")
        assert [bus.refusals(b"O%d" % number) for number in range(5)] == [[], [], [], ["busy"], ["busy"]]
        bus.hello(b"B", "agent", RUN, node=1)
        bus.hello(b"O0", "observer")
        assert (bus.refusals(b"B"), bus.refusals(b"O0")) == ([], [])
        bus.say(b"O1", Message(Command.BYE))
        bus.hello(b"O4", "observer")
        assert bus.refusals(b"O4") == ["busy"]
        assert len(bus.to(b"O4", Command.WELCOME)) == 1

    def test_peers_of_all_roles_are_limited(self, bus, monkeypatch):
        monkeypatch.setattr("theorbo.broker.sessions.SESSIONS", 3)
        for node in range(1, 4):
            bus.hello(b"B%d" % node, "agent", RUN, node=node)
        assert [bus.refusals(b"B%d" % node) for node in range(1, 4)] == [[], ["busy"], ["busy"]]
        bus.hello(b"A'", "agent", RUN)  # in the place of A
        assert bus.refusals(b"A'") == []

    def test_open_executions_are_limited(self, bus, monkeypatch):
        monkeypatch.setattr("theorbo.broker.core.OPEN_EXECUTIONS", 1)
        bus.hello(b"E2", "executor", b"another one.....")
        bus.say(b"E2", put(EXECUTOR, SIGNALS, 1, SUBMITTED, execution=b"another one....."))
        assert bus.refusals(b"E2") == ["busy"]
        assert bus.pending == []

    def test_ended_executions_in_memory_are_limited(self, bus):
        for number in range(1, ENDED_IN_MEMORY + 50):
            execution = number.to_bytes(16, "big")
            bus.kept[execution] = Keep(execution, 1.0, 2.0, {"state": "FAILED", "submitted": 1.0})
            bus.hello(b"O", "observer")
            bus.say(b"O", Message(Command.READ, Header(request=1, execution=execution), b"{}"))
        assert len(bus.core._executions) == ENDED_IN_MEMORY + 1


class TestTexts:
    def test_a_refusal_is_short(self, bus):
        bus.hello(b"O", "observer")
        bus.say(b"O", Message(Command.READ, Header(), encode_json(channels=["x" * 100_000])))
        (refused,) = bus.to(b"O", Command.REFUSED)
        assert len(decode_json(refused.body)["message"]) == REFUSAL_CHARACTERS

    def test_views_are_of_bounded_size(self, bus):
        for node in range(2 * HOSTS_SHOWN):
            bus.hello(b"B%d" % node, "agent", RUN, node=node, epoch=2, incarnation="second")
            started = record("agent_started", host=f"{node:04d}" + "h" * 10_000)
            bus.say(b"B%d" % node, put(Source(SourceKind.AGENT, node), SIGNALS, 1, started))
        failed = record("task_failed", error="e" * 100_000, traceback="t" * 20_000)
        bus.say(
            b"B0", put(RANK, SIGNALS, 1, failed, record("rank_started", host="h"), record("rank_ended", exit_code=1))
        )
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, record("launcher_gone", reason="r")))
        for node in range(2 * HOSTS_SHOWN):
            bus.say(b"B%d" % node, put(Source(SourceKind.AGENT, node), SIGNALS, 2, record("agent_closed", streams={})))
        bus.settle()
        view = view_of(bus)
        assert view["state"] == "FAILED"
        assert len(view["reason"]) == BEGINNING_CHARACTERS
        assert len(view["hosts"]) == HOSTS_SHOWN
        assert len(view["nodes"]) == HOSTS_SHOWN
        assert len(encode_json(**view)) < 60_000

    def test_contacts_that_are_shown_are_those_not_heard_for_longest(self, bus):
        for node in range(2 * HOSTS_SHOWN):
            bus.hello(b"B%d" % node, "agent", RUN, node=node, epoch=2, incarnation="second")
        silent = Source(SourceKind.AGENT, 150)
        bus.pass_time(6, heard=tuple(b"B%d" % node for node in range(2 * HOSTS_SHOWN) if node != 150))
        contact = view_of(bus)["contact"]
        assert len(contact) == HOSTS_SHOWN
        assert contact[str(silent)] == "suspect"
        assert "executor" in contact

    def test_requests_that_are_repeated_to_agents_are_limited(self, bus):
        for number in range(CONTROLS + 20):
            bus.say(b"E", put(EXECUTOR, SIGNALS, number + 2, record("control_requested", action="cancel", by="a")))
        bus.settle()
        bus.sent.clear()
        bus.hello(b"A", "agent", RUN)
        assert [m.header.first for m in bus.to(b"A", Command.CONTROL)] == list(range(22, CONTROLS + 22))


class TestBeacon:
    def test_of_very_many_executions_tells_all_in_turn(self):
        bus = Bus()
        wanted = set()
        for number in range(2500):
            execution = random.Random(number).randbytes(16)
            wanted.add(execution.hex())
            bus.hello(b"E%d" % number, "executor", execution)
            bus.say(b"E%d" % number, put(EXECUTOR, SIGNALS, 1, SUBMITTED, execution=execution))
        bus.settle()
        told: list[str] = []
        for _ in range(3):
            bus.give(Tick())
            beacon = bus.published[-1]
            assert len(beacon.body) <= LIVE_BYTES
            told += decode_json(beacon.body)["heads"]
        assert set(told) == wanted
        assert len(told[: len(wanted)]) == len(set(told[: len(wanted)]))


class TestFullQueues:
    def test_an_acknowledgement_that_did_not_leave_is_said_again(self, bus):
        bus.say(b"A", put(RANK, LOG, 1, log("1")))
        bus.settle()
        lost = bus.to(b"A", Command.ACK)[-1]
        bus.say(b"A", put(RANK, LOG, 2, log("2")))
        bus.settle()
        bus.sent.clear()
        for _ in range(3):
            bus.give(Unsent(b"A", lost, gone=False))
        bus.pass_time(1)
        assert [m.header.first for m in bus.to(b"A", Command.ACK)] == [2]
        bus.pass_time(1)
        assert len(bus.to(b"A", Command.ACK)) == 1

    def test_a_request_that_did_not_leave_is_said_again(self, bus):
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, record("control_requested", action="cancel", by="a")))
        bus.settle()
        (control,) = bus.to(b"A", Command.CONTROL)
        bus.sent.clear()
        bus.give(Unsent(b"A", control, gone=False))
        bus.pass_time(1)
        assert bus.to(b"A", Command.CONTROL) == [control]

    def test_a_stop_that_did_not_leave_is_not_said_behind_the_continue_that_came_after_it(self, bus):
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, record("control_requested", action="stop", by="a")))
        bus.settle()
        (stop,) = bus.to(b"A", Command.CONTROL)
        bus.give(Unsent(b"A", stop, gone=False))
        bus.say(b"E", put(EXECUTOR, SIGNALS, 3, record("control_requested", action="continue", by="a")))
        bus.settle()
        go_on = bus.to(b"A", Command.CONTROL)[-1]
        bus.sent.clear()
        bus.pass_time(1)
        assert bus.to(b"A", Command.CONTROL) == [go_on]

    def test_nothing_is_said_to_who_has_gone(self, bus):
        bus.say(b"A", put(RANK, LOG, 1, log("1")))
        bus.settle()
        bus.give(Unsent(b"A", bus.to(b"A", Command.ACK)[-1], gone=False))
        bus.give(Unsent(b"A", bus.to(b"A", Command.ACK)[-1], gone=True))
        bus.sent.clear()
        bus.pass_time(1)
        assert bus.to(b"A", Command.ACK) == []


class TestRefusals:
    def test_are_counted_by_code_and_origin(self, bus):
        for peer, times in ((b"E", 3), (b"A", 2)):
            for _ in range(times):
                bus.say(peer, Message(b"DANCE"))
        assert bus.core.refused == {"unknown_command": 5}
        assert bus.core.refused_of == {
            ("unknown_command", "executor of alice, node1 pid 7"): 3,
            ("unknown_command", "agent of alice, node1 pid 7"): 2,
        }

    def test_origins_are_limited(self, bus):
        for number in range(REFUSED_ORIGINS + 10):
            bus.say(b"X", Message(Command.PING), principal=f"user{number}")
        assert len(bus.core.refused_of) == REFUSED_ORIGINS + 1
        assert bus.core.refused_of["", "others"] == 10

    def test_those_that_are_not_logged_one_by_one_are_logged_as_a_number(self, bus):
        bus.notes.clear()
        for _ in range(REFUSALS_LOGGED + 30):
            bus.say(b"A", Message(b"DANCE"))
        bus.give(Tick())
        assert bus.notes[-1].fields["messages"] == 30
        assert bus.notes[-1].fields["origin"].startswith("agent of alice")
        before = len(bus.notes)
        bus.give(Tick())
        assert len(bus.notes) == before


# --- whatever is sent --------------------------------------------------------------------------------


def conversation() -> list[Message]:
    """One of each message that a client can send."""
    who = {"role": "agent", "source": "agent:0", "epoch": 1, "incarnation": "the first"}
    return [
        Message(Command.HELLO, Header(execution=RUN), encode_json(**who)),
        Message(Command.HELLO, Header(), encode_json(role="observer", host="h", pid=1)),
        put(RANK, LOG, 1, log("a"), log("b")),
        put(RANK, LOG, 3, log("c")),
        put(AGENT, SIGNALS, 1, record("agent_started", host="h", epoch=1, incarnation="the first")),
        put(AGENT, SIGNALS, 2, record("loss", stream="rank:0/log", first=4, last=9, count=6, detail="d")),
        put(RANK, SIGNALS, 1, record("rank_started", host="h"), record("rank_ended", exit_code=1)),
        Message(Command.PUT, Header(execution=RUN, channel=2, source=RANK, first=1)),
        Message(Command.READ, Header(request=1, execution=RUN), encode_json(follow=True, credit=1000, since=1.5)),
        Message(Command.READ, Header(request=2, execution=RUN), encode_json(channel="log", first=1, last=5)),
        Message(Command.CREDIT, Header(request=1, count=1000, sequence=3)),
        Message(Command.LIST, Header(request=3), encode_json(all=True, limit=5, task="galaxies")),
        Message(Command.ATTACH, Header(execution=RUN, count=3, position=10), bytes(32) + b"abc"),
        Message(Command.FETCH, Header(request=4, execution=RUN, count=10), bytes(32)),
        Message(Command.PING, Header(request=5)),
        Message(Command.CLOSE, Header(request=1)),
    ]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_message_however_flipped_doubled_or_cut_ends_anything_or_leaves_before_it_is_on_disk(data):
    """Frames of true messages, with bits flipped, bytes cut or added, sent twice or in the wrong order."""
    bus = Bus()
    bus.submit()
    messages = conversation()
    choices = st.tuples(
        st.integers(0, len(messages) - 1), st.sampled_from([b"A", b"E", b"O"]), st.integers(0, 2),
        st.lists(st.integers(0, 4000), max_size=3), st.booleans(),
    )  # fmt: skip
    for number, peer, frame, flips, cut in data.draw(st.lists(choices, min_size=1, max_size=25)):
        frames = [bytearray(each) for each in messages[number].encode()]
        for flip in flips:
            if frames[frame]:
                frames[frame][flip // 8 % len(frames[frame])] ^= 1 << flip % 8
        if cut and flips:
            del frames[frame][flips[0] % (len(frames[frame]) + 1) :]
        published, sent = len(bus.published), len(bus.sent)
        bus.give(Received(peer, "alice", [bytes(each) for each in frames]))
        assert len(bus.published) == published
        on_disk = {(batch.source, batch.channel): batch.last for batch in bus.journal}
        for send in bus.sent[sent:]:
            if send.message.command == Command.ACK and not _lost(bus):
                header = send.message.header
                assert header.first <= on_disk.get((header.source, header.channel), 0)
        if data.draw(st.booleans()):
            bus.settle()
    bus.settle()
    bus.give(Tick())
    bus.hello(b"Z", "observer")
    bus.say(b"Z", Message(Command.PING, Header(request=77)))
    assert [message.header.request for message in bus.to(b"Z", Command.PONG)] == [77]
    numbers: dict[object, int] = {}
    for batch in bus.journal:
        stream = batch.execution, batch.source, batch.channel
        assert batch.first > numbers.get(stream, 0)
        numbers[stream] = batch.last


def _lost(bus: Bus) -> bool:
    """Whether a loss was reported: what is lost counts as acknowledged."""
    return any(b'"loss"' in batch.body for batch in bus.journal)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=5), st.booleans())
def test_frames_of_noise_are_refused(frames, greeted):
    core = Core("b", 0, 1.0)
    if greeted:
        hello = Message(Command.HELLO, Header(), encode_json(role="observer"))
        core.handle(Received(b"X", "", list(hello.encode())), 1.0)
    out = core.handle(Received(b"X", "", frames), 2.0)
    assert isinstance(out[0], Send)
    assert out[0].message.command == Command.REFUSED
    assert core.handle(Committed([]), 3.0) == []
