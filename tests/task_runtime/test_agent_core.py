from __future__ import annotations

import json
import math
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theorbo.schemas.delivery import SendChunk
from theorbo.schemas.errors import Refused
from theorbo.schemas.frames import Command, ErrorCode, Flag, Header, Message, encode_json
from theorbo.schemas.limits import (
    DAMAGES_TOLD,
    END_S,
    FIRST_LOOK_S,
    GRACE_S,
    LOOK_S,
    MIB,
    REPORTS_HELD,
    SPOOL_BYTES,
    SPOOL_RESERVE_BYTES,
    STOP_S,
    TIME_LIMIT_SLACK_S,
    WINDOW_BYTES,
)
from theorbo.schemas.names import Channel, Source, SourceKind, Stream
from theorbo.schemas.records import Attachment, drop_first, encode_record, split_body
from theorbo.schemas.spool import Pressure
from theorbo.task_runtime.agent_core import AgentCore, Life
from theorbo.task_runtime.instructions import Complain, Forget, Inspect, Report, TellLauncher
from theorbo.task_runtime.processes import Inspection, Process
from theorbo.task_runtime.rank_ending import SendSignal
from theorbo.task_runtime.stacks_signal import STACKS_SIGNAL
from theorbo.task_runtime.time_limit import TimeLimit

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
        self.identity = "a"

    def welcome(self):
        return Message(Command.WELCOME, body=encode_json(broker=self.identity))

    def recover(self, **kept):
        """Another journal: of the streams that are named only so many events are left."""
        self.identity += "'"
        for name, count in kept.items():
            source, channel = name.split("_")
            del self.streams[Stream(RANK if source == "rank" else AGENT, Channel[channel.upper()])][count:]

    def note_losses(self, texts):
        """Numbers that nobody can deliver any more are passed over."""
        for fields in map(json.loads, texts):
            if fields["kind"] == "loss" and fields.get("last"):
                held = self.streams.setdefault(Stream.parse(fields["stream"]), [])
                assert len(held) >= fields["first"] - 1
                held += [b"{}"] * (fields["last"] - len(held))

    def put(self, message):
        header, stream = message.header, Stream(message.header.source, Channel(message.header.channel))
        texts = self.streams.setdefault(stream, [])
        gap = header.first > len(texts) + 1
        known = len(texts) + 1 - header.first
        if not gap and known < header.count:
            new = split_body(drop_first(message.body, known))
            texts += new
            if stream == Stream(AGENT, Channel.SIGNALS):
                self.note_losses(new)
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
        self.core.handle(self.journal.welcome(), 0.0)

    def append(self, name, text):
        self.files[name] = self.files.get(name, b"") + text

    def perform(self, instructions):
        for each in instructions:
            if isinstance(each, Report):
                self.append("agent-0.rec", encode_record({**each.fields, "time": 0.0}))
                self.perform(self.core.written(len(self.files["agent-0.rec"])))
            else:
                self.performed.append(each)

    def ask(self, message, now):
        """A message of the broker's; what is to be done but for reports, which are written."""
        before = len(self.performed)
        self.perform(self.core.handle(message, now))
        return self.performed[before:]

    def look(self):
        for name, text in self.files.items():
            self.perform(self.core.resize(name, len(text)))
        for name in self.core.files.keys() - self.files.keys():
            self.perform(self.core.vanished(name))

    def read(self):
        self.look()
        while (wanted := self.core.next_read()) is not None:
            text, seen = self.files[wanted.file.name], wanted.file.unverified
            if seen and not wanted.file.verify(text[seen.offset - seen.tail.length : seen.offset]):
                self.perform(self.core.replaced(wanted.file))
                continue
            if not wanted.file.is_intact(text[wanted.offset - wanted.file.tail.length : wanted.offset]):
                self.perform(self.core.replaced(wanted.file))
                continue
            self.perform(self.core.take(wanted.file, text[wanted.offset : wanted.offset + wanted.length], 0.0))
        self.perform(self.core.advance(0.0))
        if self.core.wants_checkpoint:
            self.save()

    def send(self):
        """Messages under way to the broker."""
        return [each for each in self.core.outgoing(0.0) if isinstance(each, Message)]

    def round(self, *, save=True):
        self.read()
        for message in self.send():
            self.perform(self.core.handle(self.journal.put(message), 0.0))
        if save:
            self.save()

    def save(self):
        self.checkpoint = json.loads(json.dumps(self.core.checkpoint()))
        self.core.checkpoint_written()

    def logged(self):
        return [json.loads(text).get("text") for text in self.journal.streams.get(Stream(RANK, Channel.LOG), [])]

    def printed(self):
        return [json.loads(text).get("text") for text in self.journal.streams.get(Stream(RANK, Channel.STDOUT), [])]

    def losses(self):
        texts = self.journal.streams.get(Stream(AGENT, Channel.SIGNALS), [])
        return [fields for fields in map(json.loads, texts) if fields["kind"] == "loss"]

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
    assert sum(loss["count"] for loss in node.losses()) == torn
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
    for checkpoint in ([], {"files": {"rank-0.rec": {}}}, {"files": 3}, {"files": {"rank-0.rec": {"settled": 0}}}):
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
    mark = [SPOOL_BYTES, {"stdout": 1}, 0, 0]
    files = {"rank-0.out": {"settled": mark, "kept": mark, "seen": [0, 0, 0], "inode": 0}}
    core = AgentCore(EXECUTION, 0, {"files": files, "control": {"ranks": []}, "journal": ""})
    core.resize("rank-0.out", SPOOL_BYTES)
    assert core.pressure(0, can_free=True) == Pressure.FREE
    assert core.pressure(0, can_free=False) == Pressure.FULL


# --- another journal -----------------------------------------------------------------------------


def logs(numbers):
    return b"".join(log(number) for number in numbers)


@pytest.mark.parametrize("restarted", [False, True], ids=["same agent", "next agent"])
def test_what_a_recovered_journal_lacks_is_delivered_again_from_the_spool(restarted):
    node = Node()
    node.append("rank-0.rec", STARTED + logs(range(9)))
    node.append("rank-0.out", b"one\ntwo\n")
    node.round()
    node.round()
    node.journal.recover(rank_log=4, rank_stdout=0, agent_signals=0)
    if restarted:
        node.start()
    else:
        node.core.handle(node.journal.welcome(), 0.0)
    node.append("rank-0.rec", log(9))
    node.end()
    assert node.logged() == [str(number) for number in range(10)]
    assert node.printed() == ["one", "two"]
    assert node.losses() == []
    assert node.journal.kinds(AGENT)[0] == "agent_started"
    assert node.journal.kinds(AGENT).count("agent_closed") == 1


def after_a_hole(left):
    """A node whose agent has delivered 40 records, and freed the first of them, before the journal was recovered with
    `left` of them; the records, and the number of the first that the spool has.
    """
    node = Node()
    padded = [encode_record({"kind": "log", "time": 1.0, "text": str(n), "x": "x" * 60_000}) for n in range(40)]
    for begin in range(0, 40, 4):
        node.append("rank-0.rec", b"".join(padded[begin : begin + 4]))
        node.round()
    ((file, start, length),) = node.core.to_free()
    text = node.files["rank-0.rec"]
    node.files["rank-0.rec"] = text[:start] + bytes(length) + text[start + length :]  # a hole reads as zeros
    file.freed = start + length
    node.journal.recover(rank_log=left)
    return node, padded, file.kept.counts[Channel.LOG] + 1


@pytest.mark.parametrize("restarted", [False, True], ids=["same agent", "next agent"])
def test_what_neither_a_recovered_journal_nor_the_spool_has_is_told_by_number(restarted):
    node, _, first_left = after_a_hole(left=5)
    if restarted:
        node.start()
    else:
        node.core.handle(node.journal.welcome(), 0.0)
    node.append("rank-0.rec", log(40))
    node.end()
    (loss,) = node.losses()
    assert (loss["stream"], loss["first"], loss["last"]) == ("rank:0/log", 6, first_left - 1)
    assert loss["count"] == first_left - 6 > 10
    assert node.logged() == [*map(str, range(5)), *[None] * loss["count"], *map(str, range(first_left - 1, 41))]


def test_an_agent_that_dies_while_it_asks_a_recovered_journal_leaves_the_question_to_the_next():
    node = Node()
    node.append("rank-0.out", b"one\ntwo\n")
    node.round()
    node.files["rank-0.out"] = b""  # by the program
    node.round()
    node.round()
    node.journal.recover(rank_stdout=0)
    node.core.handle(node.journal.welcome(), 0.0)
    node.read()
    node.save()
    node.start()
    node.append("rank-0.out", b"three\n")
    node.end()
    assert [(loss["count"], loss.get("first"), loss.get("last")) for loss in node.losses()] == [
        (0, None, None), (2, 1, 2),
    ]  # fmt: skip
    assert node.printed() == [None, None, "three"]


def test_the_same_journal_never_goes_back():
    node = Node()
    node.append("rank-0.rec", logs(range(5)))
    node.round()
    old = Header(execution=EXECUTION, source=RANK, channel=Channel.LOG, first=2, flags=Flag.REWIND)
    assert node.core.handle(Message(Command.ACK, old), 0.0) == []
    node.core.handle(node.journal.welcome(), 0.0)
    node.end()
    assert node.losses() == []
    assert node.logged() == ["0", "1", "2", "3", "4"]


# --- files that are not as they were ---------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False], ids=["after its first lines", "later"])
@pytest.mark.parametrize("saved", [True, False], ids=["after a checkpoint", "before a checkpoint"])
def test_output_that_was_truncated_while_no_agent_lived_takes_no_number_twice(saved, first):
    node = Node()
    node.append("rank-0.out", b"".join(b"old %d\n" % number for number in range(10)))
    if not first:
        node.round()
    node.append("rank-0.out", b"".join(b"old %d\n" % number for number in range(10, 20)))
    node.round(save=saved)
    new = [f"new {number}" for number in range(30)]
    node.files["rank-0.out"] = "".join(f"{line}\n" for line in new).encode()  # larger than before
    node.start()
    node.end()
    assert node.printed() == [f"old {number}" for number in range(20)] + new
    (loss,) = node.losses()
    assert "truncated and written anew" in loss["detail"]


def test_without_any_checkpoint_what_the_journal_has_more_is_told_at_the_end():
    node = Node()
    node.append("rank-0.out", b"old 0\nold 1\nold 2\n")
    node.round(save=False)
    node.checkpoint = None  # somebody has removed it
    node.files["rank-0.out"] = b"new\n"
    node.start()
    node.end()
    (loss,) = node.losses()
    assert loss["detail"] == "the journal has 3 of it, rank-0.out only 1: it was changed unseen"
    closed = json.loads(node.journal.streams[Stream(AGENT, Channel.SIGNALS)][-1])
    assert closed["streams"] == {"rank:0/stdout": 3}


def test_output_that_was_truncated_and_written_to_more_than_before_between_two_looks_is_noticed():
    node = Node()
    node.append("rank-0.out", b"old 0\nold 1\n")
    node.round()
    node.files["rank-0.out"] = b"new 0\nnew 1\nnew 2\n"
    node.end()
    assert node.printed() == ["old 0", "old 1", "new 0", "new 1", "new 2"]
    assert "truncated and written anew" in node.losses()[0]["detail"]


@pytest.mark.parametrize("restarted", [False, True], ids=["same agent", "next agent"])
def test_a_file_that_vanishes_is_told_and_nothing_else_is_lost(restarted):
    node = Node()
    node.append("rank-0.rec", logs(range(3)))
    node.append("rank-1.rec", log("other"))
    node.round()
    node.append("rank-0.rec", logs(range(3, 5)))
    node.look()
    del node.files["rank-0.rec"]
    if restarted:
        node.start()
    node.round()
    node.append("rank-0.rec", log(5))
    node.append("rank-1.rec", log("more"))
    node.end()
    assert node.logged() == ["0", "1", "2", "5"]
    assert node.journal.streams[Stream(Source(SourceKind.RANK, 1), Channel.LOG)]
    assert len(node.losses()) == 1
    assert "rank-0.rec" in node.losses()[0]["detail"]


def test_a_file_full_of_damage_makes_few_events_that_count_all_of_it():
    node = Node()
    node.append("rank-0.rec", b"\x1e" * 300_000 + log(1))
    node.end()
    assert len(node.losses()) <= 3 * (DAMAGES_TOLD + 1)
    assert sum(loss["count"] for loss in node.losses()) == 300_000
    assert node.logged() == ["1"]


def test_while_the_disk_is_full_losses_beyond_a_number_are_summed():
    node = Node()
    waiting = []
    for _ in range(REPORTS_HELD + 50):
        node.append("rank-0.out", b"line\n")
        node.look()
        node.files["rank-0.out"] = b""
        reports = [out for out in node.core.resize("rank-0.out", 0) if isinstance(out, Report)]
        waiting += reports
        for _ in range(3):  # nothing of this is written
            for message in node.send():
                node.core.handle(node.journal.put(message), 0.0)
            node.save()
    assert len(waiting) <= REPORTS_HELD
    for each in waiting:
        node.perform([each])
    node.end()
    assert node.losses()[-1]["detail"].startswith("further losses")


def test_a_second_agent_knows_the_ranks_that_the_first_has_seen_start():
    node = running()
    node.start()
    node.round()
    assert node.ask(control(grace_s=5), 100.0) == [TellLauncher(5.0)]
    assert signals(node.core.signals_due([PROGRAM], 100.0)) == [signal.SIGTERM]


def test_the_brokers_own_kill_of_a_ghost_is_obeyed_as_often_as_it_comes():
    node = running()
    assert node.ask(control(position=0, action="kill"), 100.0) == [TellLauncher(0.0)]
    assert signals(node.core.signals_due([PROGRAM], 100.0)) == [signal.SIGKILL]
    node.perform(node.core.signals_due([], 100.1))
    node.append("rank-0.rec", STARTED)  # one that was being started
    node.round()
    assert node.ask(control(position=0, action="kill"), 101.0) == [TellLauncher(0.0)]
    assert signals(node.core.signals_due([PROGRAM], 101.0)) == [signal.SIGKILL]
    node.perform(node.core.signals_due([], 101.1))
    node.round()
    assert node.journal.kinds(AGENT) == ["agent_started", "control_accepted", "control_done"]


@pytest.mark.parametrize("code", ["malformed", "too_large"])
def test_what_the_broker_refuses_for_ever_is_a_numbered_loss_and_holds_nothing_up(code):
    node = Node()
    node.append("rank-0.rec", log(0))
    node.round()
    node.append("rank-0.rec", log(1))
    node.read()
    (refused,) = [message for message in node.send() if message.header.source == RANK]
    node.append("rank-0.rec", log(2))
    node.perform(node.core.handle(Message(Command.REFUSED, refused.header, encode_json(code=code, message="why")), 0.0))
    node.end()
    (loss,) = node.losses()
    assert (loss["stream"], loss["first"], loss["last"], loss["count"]) == ("rank:0/log", 2, 2, 1)
    assert node.logged() == ["0", None, "2"]


def test_files_of_others_in_the_spool_are_passed_over():
    node = Node()
    for name in ("agent-7.rec", "executor.rec", "broker.rec", "rank-0.rec.orig"):
        node.append(name, log(1))
    node.end()
    assert {stream.source for stream in node.journal.streams} == {AGENT}


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


def test_only_the_attachment_that_is_refused_is_given_up():
    node, first = offered_attachment()
    node.core.chunk(first, b"9876543210")
    same_size = Attachment("b" * 64, ATTACHMENT.size)
    other = {"kind": "data", "time": 1, "attachments": [same_size._asdict()]}
    node.append("rank-1.rec", encode_record(other))
    node.read()
    for wanted in node.core.outgoing(0.0):
        if isinstance(wanted, SendChunk):
            node.core.chunk(wanted, b"0123456789")
    body = encode_json(code=ErrorCode.MALFORMED, message="it has another digest", sha256=ATTACHMENT.sha256)
    refusal = Message(Command.REFUSED, Header(execution=EXECUTION, position=10), body)
    given_up = [each for each in node.core.handle(refusal, 0.0) if isinstance(each, Report)]
    assert [ATTACHMENT.sha256 in each.fields["detail"] for each in given_up] == [True]


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
    assert node.ask(control(grace_s=5), 100.0) == [TellLauncher(5.0)]
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
    assert node.ask(control(), 0.0) == [TellLauncher(GRACE_S)]
    assert node.core.handle(control(), 1.0) == []
    node.perform(node.core.signals_due([], 1.0))
    assert node.core.handle(control(), 2.0) == []
    node.round()
    node.start()
    assert node.core.handle(control(), 3.0) == []  # nor after the agent was killed
    assert node.journal.kinds(AGENT).count("control_done") == 1


def test_in_a_recovered_journal_another_request_may_have_the_same_position():
    """A kill was passed over, for a stop that the journal had lost had had its position."""
    node = running()
    node.ask(control(action="stop"), 0.0)
    for now in (0.0, 0.1):
        node.perform(node.core.signals_due([PROGRAM._replace(state="T")], now))
    node.round()
    assert node.journal.kinds(AGENT).count("control_done") == 1
    assert node.ask(control(action="kill"), 1.0) == []
    node.journal.recover(agent_signals=1)
    node.start()
    assert node.ask(control(action="kill"), 2.0) == [TellLauncher(0.0)]
    assert signal.SIGKILL in signals(node.core.signals_due([PROGRAM._replace(state="T")], 2.0))


def test_behind_its_last_word_an_agent_reports_nothing():
    node = running()
    node.append("rank-0.rec", ENDED)
    node.look()
    node.core.end()
    for _ in range(3):
        node.round()
    assert node.journal.kinds(AGENT)[-1] == "agent_closed"
    node.journal.recover(agent_signals=0)
    node.core.handle(node.journal.welcome(), 0.0)
    node.ask(control(), 1.0)
    node.end()
    assert node.journal.kinds(AGENT) == ["agent_started", "agent_closed"]


def test_kill_is_sigkill_at_once():
    node = running()
    assert node.ask(control(action="kill", grace_s=5), 0.0) == [TellLauncher(0.0)]
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
    node.ask(control(), 0.0)
    node.end()
    assert node.journal.kinds(AGENT) == ["agent_started", "control_accepted", "control_done", "agent_closed"]


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


def test_a_numbered_loss_is_told_though_what_waits_behind_it_fills_the_window():
    node, padded, _ = after_a_hole(left=5)
    node.core.handle(node.journal.welcome(), 0.0)
    node.append("rank-0.rec", b"".join(padded) * (1 + WINDOW_BYTES // sum(map(len, padded))))
    node.end()
    assert [loss["first"] for loss in node.losses()] == [6]
    assert node.core.life is Life.CLOSED


# --- receipts ------------------------------------------------------------------------------------

STANDING = PROGRAM._replace(state="T")


def reported(node, *kinds):
    """What the agent has reported of these kinds, as it stands in the journal."""
    node.round()
    texts = node.journal.streams.get(Stream(AGENT, Channel.SIGNALS), [])
    return [fields for fields in map(json.loads, texts) if fields["kind"] in kinds]


def look(node, *table, now=0.0):
    """The signals that follow from a look at the process table."""
    before = len(node.performed)
    node.perform(node.core.signals_due(list(table), now))
    return [each.number for each in node.performed[before:] if isinstance(each, SendSignal)]


def stopped_node():
    node = running()
    node.ask(control(action="stop"), 100.0)
    assert look(node, PROGRAM, now=100.0) == [signal.SIGSTOP]
    for now in (100.1, 100.2):
        assert look(node, STANDING, now=now) == []
    return node


def test_each_request_has_two_receipts_that_name_its_position():
    node = stopped_node()
    node.ask(control(position=9, action="continue"), 110.0)
    assert look(node, STANDING, now=110.0) == [signal.SIGCONT]
    look(node, PROGRAM, now=110.1)
    receipts = reported(node, "control_accepted", "control_done", "ranks_stopped", "ranks_continued")
    assert [(it["kind"], it.get("action"), it.get("request"), it.get("ranks")) for it in receipts] == [
        ("control_accepted", "stop", 7, None), ("ranks_stopped", None, None, [0]), ("control_done", "stop", 7, None),
        ("control_accepted", "continue", 9, None), ("ranks_continued", None, None, [0]),
        ("control_done", "continue", 9, None),
    ]  # fmt: skip
    assert [it["deadline"] for it in receipts if "deadline" in it] == [100.0 + STOP_S, 110.0 + STOP_S]
    assert not any(it.get("refused") for it in receipts)


def test_the_process_table_is_read_only_while_something_is_to_be_done():
    node = running()
    assert node.core.control.look_at == math.inf
    node.ask(control(action="stop"), 100.0)
    waits, now = [], 100.0
    for _ in range(12):
        look(node, PROGRAM, now=now)
        waits.append(node.core.control.look_at - now)
        now = node.core.control.look_at
    assert waits[0] == pytest.approx(FIRST_LOOK_S)
    assert max(waits) == pytest.approx(LOOK_S)
    node.ask(control(position=8, action="continue"), 200.0)
    look(node, STANDING, now=200.0)
    look(node, PROGRAM, now=200.1)
    assert node.core.control.look_at == math.inf


def test_what_does_not_stop_in_time_is_named_and_tried_on():
    node = running()
    node.ask(control(action="stop"), 100.0)
    waiting = PROGRAM._replace(state="D")
    look(node, waiting, now=100.0)
    assert look(node, waiting, now=100.0 + STOP_S) == [signal.SIGSTOP]
    (done,) = reported(node, "control_done")
    assert done["refused"] == "not stopped in time, and tried on: rank 0: process 11, state D"
    assert look(node, waiting, now=110.0) == [signal.SIGSTOP]
    for now in (111.0, 112.0):
        look(node, STANDING, now=now)
    assert len(reported(node, "control_done")) == 1
    assert [it["ranks"] for it in reported(node, "ranks_stopped")] == [[0]]


def test_a_process_that_not_even_sigkill_ends_is_named():
    node = running()
    node.ask(control(grace_s=5), 100.0)
    waiting = PROGRAM._replace(state="D")
    for now in (100.0, 105.0, 105.0 + END_S):
        look(node, waiting, now=now)
    (done,) = reported(node, "control_done")
    assert done["refused"] == "not even by SIGKILL ended: rank 0: process 11, state D"


def test_a_stopped_rank_that_is_cancelled_gets_sigterm_and_then_sigcont():
    node = stopped_node()
    node.ask(control(position=9, grace_s=5), 110.0)
    assert look(node, STANDING, now=110.0)[:2] == [signal.SIGTERM, signal.SIGCONT]
    assert look(node, PROGRAM, now=110.1) == []
    assert [it["ranks"] for it in reported(node, "ranks_continued")] == [[0]]
    node.ask(control(position=10, action="stop"), 110.2)
    assert look(node, PROGRAM, now=110.2) == []
    assert reported(node, "control_done")[-1]["refused"] == "the ranks are being ended"


def test_whoever_asks_last_has_it():
    node = running()
    node.ask(control(position=7, action="stop"), 100.0)
    node.ask(control(position=8, action="continue"), 100.0)
    node.ask(control(position=9, action="stop"), 100.0)
    node.ask(control(position=10), 100.0)
    assert look(node, PROGRAM, now=100.0) == [signal.SIGTERM]
    assert [(it["request"], it["refused"]) for it in reported(node, "control_done")] == [
        (7, "continued meanwhile"), (8, "stopped again meanwhile"), (9, "the ranks are being ended"),
    ]  # fmt: skip


def test_an_action_that_this_version_does_not_know_is_refused_and_ends_nothing():
    node = running()
    assert node.ask(control(action="explode"), 100.0) == []
    assert look(node, PROGRAM, now=100.0) == []
    (done,) = reported(node, "control_done")
    assert done["refused"] == "this agent knows cancel, kill, stop, continue, stacks, and not 'explode'"


def test_where_no_rank_runs_requests_are_answered_all_the_same():
    node = Node()
    node.ask(control(position=7, action="stop"), 100.0)
    look(node, now=100.0)
    node.ask(control(position=8, action="stacks"), 101.0)
    look(node, now=101.0)
    node.perform(node.core.inspected({}))
    node.ask(control(position=9, grace_s=5), 102.0)
    look(node, now=102.0)
    look(node, now=107.0 + END_S)
    assert [it["detail"] for it in reported(node, "control_done")] == [
        "no rank runs on this node; those that start will be stopped", "no rank runs on this node",
        "no rank has started on this node",
    ]  # fmt: skip
    node.core.end()
    node.ask(control(position=10, action="stop"), 120.0)
    node.end()
    assert reported(node, "control_done")[-1]["refused"] == "all ranks of this node have ended"


def test_stacks_are_asked_for_once_and_answered_by_what_was_found():
    node = running()
    node.ask(control(action="stacks"), 100.0)
    out = node.core.signals_due([PROGRAM], 100.0)
    assert out == [Inspect({0: [PROGRAM]})]
    node.perform(node.core.inspected({0: [Inspection(PROGRAM, "python", 1, "", 1 << (STACKS_SIGNAL - 1))]}))
    assert node.performed[-1] == SendSignal(PROGRAM, STACKS_SIGNAL)
    assert node.core.signals_due([PROGRAM], 101.0) == []
    assert reported(node, "control_done")[0]["detail"] == "stacks of rank 0 (1 processes) go to stderr"


def test_a_second_agent_goes_on_with_what_the_first_had_accepted():
    node = running()
    node.ask(control(action="stop"), 100.0)
    node.round()
    node.start()  # not told again by the broker
    node.round()
    assert look(node, PROGRAM, now=101.0) == [signal.SIGSTOP]
    for now in (101.1, 101.2):
        look(node, STANDING, now=now)
    assert [it["request"] for it in reported(node, "control_done")] == [7]
    assert len(reported(node, "control_accepted")) == 1


def test_a_second_agent_stops_what_starts_while_ranks_are_stopped_and_tells_nothing_twice():
    node = stopped_node()
    node.round()
    node.start()
    other = {"kind": "rank_started", "time": 1, "pid": 21, "host": "h", "parent_pid": 20, "process_group": 20}
    node.append("rank-1.rec", encode_record({**other, "start_ticks": 6}))
    node.round()
    assert look(node, STANDING, Process(21, 20, 20, 6, "S"), now=120.0) == [signal.SIGSTOP]
    for now in (120.1, 120.2):
        look(node, STANDING, Process(21, 20, 20, 6, "T"), now=now)
    assert [it["ranks"] for it in reported(node, "ranks_stopped")] == [[0], [1]]


def test_a_second_agent_keeps_the_first_ones_deadline_and_does_not_say_sigterm_twice():
    node = running()
    node.ask(control(grace_s=5), 100.0)
    assert look(node, PROGRAM, now=100.0) == [signal.SIGTERM]
    node.round()
    node.start()
    assert node.core.resumed(103.0) == [TellLauncher(2.0)]
    node.round()
    assert look(node, PROGRAM, now=103.0) == []
    assert node.core.handle(control(grace_s=5), 104.0) == []
    assert look(node, PROGRAM, now=105.0) == [signal.SIGKILL]


# --- the time limit ------------------------------------------------------------------------------


class LimitedNode(Node):
    """Its time limit is over at 160, and its slack at 160 + TIME_LIMIT_SLACK_S."""

    began_at = 100.0

    def start(self):
        limit = TimeLimit(60.0, grace_s=5.0)
        self.core = AgentCore(EXECUTION, 0, self.checkpoint, self.files.get("agent-0.rec", b""), time_limit=limit)
        self.perform(self.core.start("host", "1", now=self.began_at))
        self.core.handle(self.journal.welcome(), 0.0)

    def wait(self, now):
        before = len(self.performed)
        self.perform(self.core.advance(now))
        return self.performed[before:]


def limited():
    node = LimitedNode()
    node.append("rank-0.rec", STARTED)
    node.round()
    return node


OVER = 160.0 + TIME_LIMIT_SLACK_S


def test_an_agent_ends_the_ranks_itself_when_nobody_has_asked_some_time_after_the_time_limit():
    node = limited()
    assert node.wait(OVER - 0.1) == []
    assert node.wait(OVER) == [TellLauncher(5.0)]
    assert node.wait(OVER + 1) == []
    assert look(node, PROGRAM, now=OVER) == [signal.SIGTERM]
    assert look(node, PROGRAM, now=OVER + 5) == [signal.SIGKILL]
    (requested,) = reported(node, "control_requested")
    assert {key: requested[key] for key in ("action", "cause", "by", "reason", "grace_s")} == {
        "action": "cancel", "cause": "time_limit", "by": "agent:0", "reason": "time limit of 60 s reached",
        "grace_s": 5.0,
    }  # fmt: skip


def test_its_own_request_comes_back_with_a_position_and_has_its_receipts():
    node = limited()
    node.wait(OVER)
    look(node, PROGRAM, now=OVER)
    node.ask(control(position=12, grace_s=5), OVER + 1)
    assert look(node, PROGRAM, now=OVER + 1) == []
    look(node, now=OVER + 2)
    accepted, done = reported(node, "control_accepted", "control_done")
    assert (accepted["request"], accepted["deadline"]) == (12, OVER + 5 + END_S)
    assert (done["request"], done["detail"]) == (12, "all ranks have ended")


def test_where_somebody_has_asked_for_an_end_or_all_ranks_have_ended_no_limit_is_over():
    asked = limited()
    asked.ask(control(grace_s=100), 155.0)
    assert asked.wait(OVER) == []
    ended = limited()
    ended.append("rank-0.rec", ENDED)
    ended.round()
    assert ended.wait(OVER) == []
    stopped = limited()
    stopped.ask(control(action="stop"), 155.0)
    assert stopped.wait(OVER) == [TellLauncher(5.0)]


def test_a_second_agent_counts_from_the_start_of_the_first_and_goes_on_with_the_end():
    node = limited()
    first, rest = node.files["agent-0.rec"].split(b'"time":0.0', 1)
    node.files["agent-0.rec"] = first + b'"time":100.0' + rest
    node.began_at = 150.0
    node.checkpoint = None
    node.start()
    assert node.wait(OVER - 0.1) == []
    assert node.wait(OVER) == [TellLauncher(5.0)]
    node.start()
    assert [type(it) for it in node.core.resumed(OVER + 1)] == [TellLauncher]
    assert node.wait(OVER + 2) == []
