from __future__ import annotations

import json
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theorbo.schemas.delivery import SendChunk
from theorbo.schemas.errors import Refused
from theorbo.schemas.frames import Command, ErrorCode, Flag, Header, Message, encode_json
from theorbo.schemas.limits import MIB, SPOOL_BYTES, SPOOL_RESERVE_BYTES
from theorbo.schemas.names import Channel, Source, SourceKind, Stream
from theorbo.schemas.records import Attachment, drop_first, encode_record, split_body
from theorbo.schemas.spool import Pressure
from theorbo.task_runtime.agent_core import AgentCore, Complain, Forget, Life, Report, TellLauncher
from theorbo.task_runtime.processes import Process
from theorbo.task_runtime.rank_ending import SendSignal

EXECUTION = bytes(range(16))
AGENT = Source(SourceKind.AGENT, 0)
RANK = Source(SourceKind.RANK, 0)
STARTED = encode_record(
    {"kind": "rank_started", "time": 1, "pid": 11, "host": "h", "parent_pid": 10, "process_group": 10, "start_ticks": 5}
)
ENDED = encode_record({"kind": "rank_ended", "time": 2, "pid": 11, "exit_code": 0})
PROGRAM = Process(11, 10, 10, 5)


class Journal:
    """A broker as far as an agent can tell."""

    def __init__(self):
        self.streams: dict[Stream, list[bytes]] = {}

    def put(self, message):
        header, stream = message.header, Stream(message.header.source, Channel(message.header.channel))
        texts = self.streams.setdefault(stream, [])
        gap = header.first > len(texts) + 1
        known = len(texts) + 1 - header.first
        if not gap and known < header.count:
            texts += split_body(drop_first(message.body, known))
        answer = header._replace(first=len(texts), flags=Flag.REWIND if gap else 0)
        return Message(Command.ACK, answer)

    def kinds(self, source, channel=Channel.SIGNALS):
        return [json.loads(text)["kind"] for text in self.streams.get(Stream(source, channel), [])]


class Node:
    """A spool in memory, an agent on it, and the journal. The agent may be killed at any time."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.checkpoint = None
        self.journal = Journal()
        self.performed = []
        self.start()

    def start(self):
        self.core = AgentCore(EXECUTION, 0, self.checkpoint, self.files.get("agent-0.rec", b""))
        self.perform(self.core.start("host", "1"))
        self.core.handle(Message(Command.WELCOME), 0.0)

    def append(self, name, text):
        self.files[name] = self.files.get(name, b"") + text

    def perform(self, instructions):
        for each in instructions:
            if isinstance(each, Report):
                self.append("agent-0.rec", encode_record({**each.fields, "time": 0.0}))
                self.perform(self.core.written(len(self.files["agent-0.rec"])))
            else:
                self.performed.append(each)

    def look(self):
        for name, text in self.files.items():
            self.perform(self.core.resize(name, len(text)))

    def read(self):
        self.look()
        while (wanted := self.core.next_read()) is not None:
            text = self.files[wanted.file.name][wanted.offset : wanted.offset + wanted.length]
            self.perform(self.core.take(wanted.file, text, 0.0))
        self.perform(self.core.advance(0.0))

    def send(self):
        """Messages under way to the broker."""
        return [each for each in self.core.outgoing(0.0) if isinstance(each, Message)]

    def round(self, *, save=True):
        self.read()
        for message in self.send():
            self.perform(self.core.handle(self.journal.put(message), 0.0))
        if save:
            self.checkpoint = json.loads(json.dumps(self.core.checkpoint()))

    def end(self):
        self.look()
        self.core.end()
        for _ in range(10):
            if self.core.life is Life.CLOSED:
                return
            self.round()
        raise AssertionError(self.core.life)


def log(number):
    return encode_record({"kind": "log", "time": 1.0, "text": str(number)})


def test_everything_is_delivered_and_the_agent_says_how_much_it_was():
    node = Node()
    node.append("rank-0.rec", STARTED + log(1) + log(2))
    node.append("rank-0.out", b"one\ntwo")
    node.append("executor.rec", log(0))  # an Executor delivers its own
    node.append("rank-0.rec.swp", b"?")
    node.round()
    node.append("rank-0.rec", ENDED)
    node.end()
    assert node.journal.kinds(RANK) == ["rank_started", "rank_ended"]
    assert node.journal.kinds(AGENT) == ["agent_started", "agent_closed"]
    assert {stream.source for stream in node.journal.streams} == {AGENT, RANK}
    closed = json.loads(node.journal.streams[Stream(AGENT, Channel.SIGNALS)][-1])
    assert closed["streams"] == {"rank:0/signals": 2, "rank:0/log": 2, "rank:0/stdout": 2}


happenings = st.lists(
    st.one_of(
        st.tuples(st.just("rec"), st.integers(1, 5)),
        st.tuples(st.just("torn")),
        st.tuples(st.just("out"), st.sampled_from([b"a line\n", b"half", b"\r\n", b"10%\r20%\r"])),
        st.tuples(st.just("read")),
        st.tuples(st.just("round")),
        st.tuples(st.just("round without checkpoint")),
        st.tuples(st.just("kill agent")),
        st.tuples(st.just("reconnect")),
        st.tuples(st.just("lose messages")),
    ),
    max_size=40,
)


@given(happenings)
def test_whenever_an_agent_is_killed_the_next_one_loses_and_doubles_nothing(happenings):
    node, logged, torn = Node(), 0, 0
    for what, *arguments in happenings:
        if what == "rec":
            for _ in range(arguments[0]):
                node.append("rank-0.rec", log(logged))
                logged += 1
        elif what == "torn":
            node.append("rank-0.rec", log(0)[:9])
            torn += 1
        elif what == "out":
            node.append("rank-0.out", arguments[0])
        elif what == "read":
            node.read()
        elif what == "round":
            node.round()
        elif what == "round without checkpoint":
            node.round(save=False)
        elif what == "kill agent":
            node.start()
        elif what == "reconnect":
            node.core.handle(Message(Command.WELCOME), 0.0)
        elif what == "lose messages":
            node.read()
            node.send()
            node.core.handle(Message(Command.WELCOME), 0.0)
    node.end()
    streams = node.journal.streams
    assert [json.loads(text)["text"] for text in streams.get(Stream(RANK, Channel.LOG), [])] == [
        str(number) for number in range(logged)
    ]
    alone = AgentCore(EXECUTION, 0)  # what an agent that lives for ever makes of the output
    alone.resize("rank-0.out", len(node.files.get("rank-0.out", b"")))
    lines = alone.files["rank-0.out"].take(node.files.get("rank-0.out", b""), 0.0, final=True)[0]
    assert streams.get(Stream(RANK, Channel.STDOUT), []) == [piece.record.strip(b"\x1e\n") for piece in lines]
    kinds = node.journal.kinds(AGENT)
    assert kinds.count("loss") == torn
    assert kinds.count("agent_closed") == 1
    assert kinds[-1] == "agent_closed"


def test_an_agent_that_takes_over_after_the_last_word_says_nothing_more():
    node = Node()
    node.append("rank-0.rec", STARTED + ENDED)
    node.end()
    before = node.files["agent-0.rec"]
    node.start()
    node.end()
    assert node.files["agent-0.rec"] == before


def test_a_checkpoint_that_cannot_be_understood_costs_only_time():
    node = Node()
    node.append("rank-0.rec", log(1))
    node.round()
    for checkpoint in ([], {"files": {"rank-0.rec": {}}}, {"files": 3}, {"files": {"rank-0.rec": {"counts": 0}}}):
        node.checkpoint = checkpoint
        node.start()
        node.round()
        assert len(node.journal.streams[Stream(RANK, Channel.LOG)]) == 1


def test_ranks_take_turns_and_bulk_output_starves_no_records():
    core = AgentCore(EXECUTION, 0)
    for name in ("rank-0.rec", "rank-0.out", "rank-1.out", "rank-1.rec", "rank-1.err"):
        core.resize(name, 10 * MIB)
    order = []
    for _ in range(10):
        wanted = core.next_read()
        assert core.next_read() == wanted  # asking changes nothing
        order.append(wanted.file.name)
        core.take(wanted.file, b"\x1e" + b"x" * 10, 0.0)
    turns = ["rank-0.out", "rank-0.rec", "rank-1.out", "rank-1.err", "rank-1.rec"]
    assert order == turns + turns


def test_in_a_turn_no_record_is_read_that_came_after_the_output_was_looked_at():
    core = AgentCore(EXECUTION, 0)
    core.resize("rank-0.rec", len(log(1)))
    core.resize("rank-0.out", 4)
    core.take(core.next_read().file, b"one\n", 0.0)
    core.resize("rank-0.rec", 2 * len(log(1)))  # the second record was written after a second line
    core.resize("rank-0.out", 8)
    wanted = core.next_read()
    assert (wanted.file.name, wanted.offset, wanted.length) == ("rank-0.rec", 0, len(log(1)))
    core.take(wanted.file, log(1), 0.0)
    assert core.next_read().file.name == "rank-0.out"


def test_output_is_to_be_looked_at_after_the_records_of_its_rank():
    core = AgentCore(EXECUTION, 0)
    for name in ("rank-0.out", "rank-0.rec", "rank-1.err", "launcher.rec"):
        core.resize(name, 1)
    assert core.outputs_beside("rank-0.rec") == ["rank-0.out"]
    for name in ("rank-0.out", "rank-1.err", "launcher.rec", "unknown"):
        assert core.outputs_beside(name) == []


def test_what_led_to_a_failure_is_sent_before_it():
    node = Node()
    node.append("rank-0.rec", STARTED)
    node.append("rank-0.out", b"line 1\n")
    node.append("rank-0.err", b"warning 1\n")
    node.append("rank-0.rec", log(1) + encode_record({"kind": "task_failed", "time": 1.0, "error": "E"}) + ENDED)
    node.read()
    sent = [(m.header.channel, m.header.count) for m in node.send() if m.header.source == RANK]
    assert sorted(sent[:2]) == [(Channel.STDOUT, 1), (Channel.STDERR, 1)]
    assert sent[2:] == [(Channel.SIGNALS, 1), (Channel.LOG, 1), (Channel.SIGNALS, 2)]


def test_nothing_is_read_without_room():
    node = Node()
    node.core.handle(Message(Command.GOODBYE), 0.0)
    node.append("rank-0.rec", b"".join(encode_record({"kind": "log", "text": "x" * 60_000}) for _ in range(200)))
    node.read()
    assert node.core.next_read() is None
    assert node.core.files["rank-0.rec"].offset < len(node.files["rank-0.rec"])
    node.core.handle(Message(Command.WELCOME), 0.0)
    for _ in range(4):
        node.round()
    assert len(node.journal.streams[Stream(RANK, Channel.LOG)]) == 200


def test_the_pressure_follows_from_what_is_not_delivered():
    core = AgentCore(EXECUTION, 0)
    core.resize("rank-0.out", SPOOL_BYTES - 10)
    assert core.pressure(0, can_free=True) == Pressure.FREE
    assert core.pressure(10, can_free=True) == Pressure.FULL
    assert core.pressure(10 + SPOOL_RESERVE_BYTES, can_free=True) == Pressure.EXHAUSTED


def test_what_is_delivered_and_cannot_be_freed_still_counts():
    core = AgentCore(EXECUTION, 0, {"files": {"rank-0.out": {"offset": SPOOL_BYTES, "counts": {"stdout": 1}}}})
    core.resize("rank-0.out", SPOOL_BYTES)
    assert core.pressure(0, can_free=True) == Pressure.FREE
    assert core.pressure(0, can_free=False) == Pressure.FULL


# --- attachments ---------------------------------------------------------------------------------

ATTACHMENT = Attachment("ab" * 32, 10)
NAMING = encode_record({"kind": "data", "time": 0, "attachments": [ATTACHMENT._asdict()]})


def stored(received):
    header = Header(execution=EXECUTION, first=received, position=ATTACHMENT.size)
    return Message(Command.STORED, header, bytes.fromhex(ATTACHMENT.sha256))


def offered_attachment():
    node = Node()
    node.append("rank-0.rec", NAMING)
    node.read()
    (wanted,) = [each for each in node.core.outgoing(0.0) if isinstance(each, SendChunk)]
    return node, wanted


def test_an_attachment_goes_first_then_its_record_then_its_file_may_go():
    node, wanted = offered_attachment()
    message = node.core.chunk(wanted, b"0123456789")
    assert message.body == bytes.fromhex(ATTACHMENT.sha256) + b"0123456789"
    assert (message.header.first, message.header.count, message.header.position) == (0, 10, 10)
    node.perform(node.core.handle(stored(10), 0.0))
    node.round()
    assert node.journal.kinds(RANK, Channel.RESULTS) == ["data"]
    assert node.performed == [Forget(ATTACHMENT)]


@pytest.mark.parametrize("content", [None, b"short"])
def test_for_a_missing_attachment_the_broker_is_asked_whether_it_has_it(content):
    node, wanted = offered_attachment()
    question = node.core.chunk(wanted, content)
    assert (question.header.count, question.body) == (0, bytes.fromhex(ATTACHMENT.sha256))
    node.perform(node.core.handle(stored(10), 0.0))
    node.round()
    assert node.journal.kinds(RANK, Channel.RESULTS) == ["data"]
    assert "loss" not in node.journal.kinds(AGENT)


@pytest.mark.parametrize(
    "answer",
    [
        stored(0),
        Message(
            Command.REFUSED,
            Header(execution=EXECUTION, position=10, count=10),
            encode_json(code=ErrorCode.MALFORMED, message="it has another digest"),
        ),
    ],
)
def test_an_attachment_that_nobody_has_is_a_loss_and_holds_nothing_up(answer):
    node, wanted = offered_attachment()
    node.core.chunk(wanted, None)
    node.perform(node.core.handle(answer, 0.0))
    node.core.handle(Message(Command.WELCOME), 0.0)
    node.round()
    assert node.journal.kinds(RANK, Channel.RESULTS) == ["data"]
    assert node.journal.kinds(AGENT) == ["agent_started", "loss"]


# --- control -------------------------------------------------------------------------------------


def control(position=7, action="cancel", **fields):
    body = encode_record({"kind": "control_requested", "time": 0, "action": action, "by": "me", **fields})
    return Message(Command.CONTROL, Header(execution=EXECUTION, position=position), body)


def running():
    node = Node()
    node.append("rank-0.rec", STARTED)
    node.round()
    return node


def signals(instructions):
    return [each.number for each in instructions if isinstance(each, SendSignal)]


def test_cancel_is_sigterm_then_sigkill_and_is_reported_when_done():
    node = running()
    assert node.core.handle(control(grace_s=5), 100.0) == [TellLauncher(5.0)]
    assert signals(node.core.signals_due([PROGRAM], 100.0)) == [signal.SIGTERM]
    assert node.core.signals_due([PROGRAM], 104.0) == []
    assert signals(node.core.signals_due([PROGRAM], 105.0)) == [signal.SIGKILL]
    node.perform(node.core.signals_due([], 105.1))
    node.round()
    done = json.loads(node.journal.streams[Stream(AGENT, Channel.SIGNALS)][-1])
    assert (done["kind"], done["action"], done["detail"]) == (
        "control_done", "cancel", "SIGKILL was needed for rank 0",
    )  # fmt: skip


def test_a_request_that_is_repeated_is_one_request():
    node = running()
    assert len(node.core.handle(control(), 0.0)) == 1
    assert node.core.handle(control(), 1.0) == []
    node.perform(node.core.signals_due([], 1.0))
    assert node.core.handle(control(), 2.0) == []
    node.round()
    node.start()
    assert node.core.handle(control(), 3.0) == []  # nor after the agent was killed
    assert node.journal.kinds(AGENT).count("control_done") == 1


def test_kill_is_sigkill_at_once():
    node = running()
    assert node.core.handle(control(action="kill", grace_s=5), 0.0) == [TellLauncher(0.0)]
    assert signals(node.core.signals_due([PROGRAM], 0.0)) == [signal.SIGKILL]


def test_a_rank_that_starts_after_the_request_is_ended_too():
    node = Node()
    node.core.handle(control(), 0.0)
    assert node.core.signals_due([PROGRAM], 0.0) == []
    node.append("rank-0.rec", STARTED)
    node.round()
    assert signals(node.core.signals_due([PROGRAM], 1.0)) == [signal.SIGTERM]


def test_a_request_that_is_under_way_at_the_end_is_done_by_then():
    node = Node()
    node.core.handle(control(), 0.0)
    node.end()
    assert node.journal.kinds(AGENT) == ["agent_started", "control_done", "agent_closed"]


def test_a_stranger_that_reports_nonsense_as_a_rank_harms_nobody():
    node = Node()
    node.append("rank-0.rec", b'\x1e{"kind":"rank_started", no json\n\x1e{"kind":"rank_started","pid":"x"}\n')
    node.round()
    node.core.handle(control(), 0.0)
    assert signals(node.core.signals_due([PROGRAM], 0.0)) == []


def test_a_broker_that_will_never_take_anything_is_an_error_and_other_refusals_are_told():
    node = Node()

    def refused(code):
        return Message(Command.REFUSED, Header(source=RANK, channel=2, first=3), encode_json(code=code, message="why"))

    (complaint,) = node.core.handle(refused("too_large"), 0.0)
    assert isinstance(complaint, Complain)
    assert "why" in complaint.text
    with pytest.raises(Refused, match="why"):
        node.core.handle(refused("unknown_execution"), 0.0)
