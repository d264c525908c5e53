"""What is given bad input, and what must hold then. Each function takes one input, made by `chance`.

Each returns what it has exercised; that a target lets anything but its documented errors out is the failure.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from tests.broker.bus import AGENT, RANK, SUBMITTED, Bus, log, put
from theorbo.broker.requests import ACTIONS
from theorbo.broker.values import (
    Chunk,
    ChunkRead,
    ChunkStored,
    Forgotten,
    JournalTrouble,
    Received,
    Subscribed,
    Unsent,
)
from theorbo.executor import slurm
from theorbo.executor.conversation import Conversation
from theorbo.executor.core import Supervisor
from theorbo.executor.job_watch import JobWatch, Look
from theorbo.executor.queue_cache import Answer
from theorbo.executor.values import (
    Finish,
    GiveUp,
    JobTold,
    LauncherEnded,
    Send,
    Stimulus,
    Tick,
    Wanted,
    Wish,
    Withdrawn,
)
from theorbo.observer.filters import Filter
from theorbo.observer.splice import Ask, Splice
from theorbo.observer.subscription import Subscription
from theorbo.schemas import events
from theorbo.schemas.delivery import SendChunk
from theorbo.schemas.errors import ProtocolError, Refused
from theorbo.schemas.frames import Command, Header, Message, decode_json, decode_message
from theorbo.schemas.limits import HELD_BYTES, KIB, LOST_S, MESSAGE_BYTES, RECENT_S, RECORD_BYTES
from theorbo.schemas.names import EXECUTOR, LAUNCHER, Channel, Source, SourceKind, Speaker, topic
from theorbo.schemas.presentation import as_object, single_events
from theorbo.schemas.records import LineReader, RecordReader, attachments_of, channel_of, encode_record
from theorbo.task_runtime.agent_core import AgentCore
from theorbo.task_runtime.instructions import Inspect
from theorbo.task_runtime.time_limit import TimeLimit

from .mutations import (
    chunks,
    damaged,
    golden_messages,
    golden_records,
    hostile_file,
    hostile_frames,
    hostile_record,
    with_field,
)

REFUSAL_BYTES = 16 * KIB
"""REFUSED names what was wrong with a message; it does not send the message back."""

MEMORY_LEFT_BYTES = 64 * KIB
"""What a core may still hold when everybody has long gone."""

EXECUTIONS = (bytes(range(16)), bytes(range(1, 17)), b"\xab" * 16)


# --- the codecs --------------------------------------------------------------------------------------


def codec_of_frames(chance: Random) -> Counter[str]:
    """Messages: decoded, or refused by ProtocolError; what was decoded is the same after encoding."""
    seen: Counter[str] = Counter()
    for frames in golden_messages():
        hostile = hostile_frames(chance, frames)
        try:
            message = decode_message(hostile)
        except ProtocolError as error:
            seen[f"refused: {error.code}"] += 1
            continue
        assert repr(Header.decode(message.header.encode())) == repr(message.header)
        seen[f"decoded: {_word(message.command)}"] += 1
        with contextlib.suppress(ProtocolError):
            assert isinstance(decode_json(message.body), dict)
        for header, event in single_events(message.header, message.body):
            json.dumps(as_object(header, {}, event))
    return seen


def codec_of_events(chance: Random) -> Counter[str]:
    """Records: every text becomes an event, which becomes a record again."""
    text = hostile_record(chance)
    channel_of(text)
    attachments_of(text)
    event = events.decode_event(text[1:-1])
    encode_record(events.record_fields(event))
    return Counter({f"event: {event.kind if not isinstance(event, events.UnknownEvent) else 'unknown'}": 1})  # type: ignore[attr-defined]


def readers_of_spool_files(chance: Random) -> Counter[str]:
    """What is found in a file depends on its content alone, never on how it was read; nothing goes unnoticed."""
    data = hostile_file(chance, 12)
    first, second = (_read(data, pieces) for pieces in ([data], chunks(chance, data)))
    assert first == second
    pieces, damages = first
    places = sorted([*((p.end - len(p.record), p.end) for p in pieces), *((d.start, d.end) for d in damages)])
    assert [start for start, _ in places] == [0, *(end for _, end in places)][: len(places)], places
    assert (places[-1][1] if places else 0) == len(data)
    assert all(len(piece.record) <= RECORD_BYTES for piece in pieces)
    lines = [_lines(data, pieces) for pieces in ([data], chunks(chance, data))]
    assert lines[0] == lines[1]
    assert all(len(piece.record) <= RECORD_BYTES for piece in lines[0])
    return Counter({"records": len(pieces), "damages": len(damages), "lines": len(lines[0])})


def _read(data: bytes, pieces: list[bytes]) -> tuple[list[Any], list[Any]]:
    reader, found, damages = RecordReader(), list[Any](), list[Any]()
    for piece in [*pieces, b""]:
        records, damage = reader.feed(piece, final=not piece)
        found += records
        damages += damage
    return found, damages


def _lines(data: bytes, pieces: list[bytes]) -> list[Any]:
    reader = LineReader(Channel.STDOUT)
    return [line for piece in [*pieces, b""] for line in reader.feed(piece, 1.0, final=not piece)]


# --- the broker --------------------------------------------------------------------------------------


class _Bus(Bus):
    """One that looks at everything that leaves the core, and answers for the attachments too."""

    def __init__(self, chance: Random) -> None:
        super().__init__()
        self.chance = chance

    def give(self, it: Any) -> None:
        before = len(self.instructions)
        super().give(it)
        for instruction in self.instructions[before:]:
            match type(instruction).__name__:
                case "Send":
                    self._look_at(instruction.message)
                case "Publish":
                    self._look_at(Message(instruction.topic, instruction.header, instruction.body))
                case "StoreChunk":
                    reference, offset, data = instruction.chunk
                    assert isinstance(instruction.chunk, Chunk)
                    complete = offset + len(data) >= reference.size
                    refusal = self.chance.choice((None, None, ("malformed", "no"), ("journal", "full")))
                    super().give(ChunkStored(instruction.peer, reference, offset + len(data), complete, refusal))
                case "ReadChunk":
                    data = self.chance.choice((None, b"", b"x" * 100))
                    super().give(ChunkRead(instruction.peer, instruction.header, 100, data))
        del self.instructions[: max(0, len(self.instructions) - 1000)]

    def _look_at(self, message: Message) -> None:
        frames = list(message.encode())
        assert decode_message(frames).header == message.header or message.header.time != message.header.time
        assert max(map(len, frames)) <= MESSAGE_BYTES
        if message.command == Command.REFUSED:
            answer = decode_json(message.body)
            assert {"code", "message"} <= set(answer) <= {"code", "message", "sha256"}
            assert len(message.body) <= REFUSAL_BYTES, f"a refusal of {len(message.body)} bytes"


_SAID_BY_CLIENTS = (
    Command.HELLO, Command.PING, Command.PUT, Command.ATTACH, Command.READ, Command.CREDIT, Command.CLOSE,
    Command.LIST, Command.FETCH, Command.REQUEST, Command.BYE,
)  # fmt: skip
_SAID_OFTEN = (
    Command.PUT,
    Command.PUT,
    Command.PUT,
    Command.ATTACH,
    Command.READ,
    Command.CREDIT,
    Command.LIST,
    Command.REQUEST,
    Command.REQUEST,
)
PEERS = tuple(b"peer %d" % number for number in range(5))


def core_of_the_broker(chance: Random) -> Counter[str]:
    """Any frames of several peers, with commits, restarts, time and trouble in between: the core never raises.

    When all is over and everybody has been silent for long, it holds nothing any more.
    """
    bus, seen = _Bus(chance), Counter[str]()
    _begin(bus, chance)
    for _ in range(chance.randrange(5, 40)):
        peer, principal = chance.choice(PEERS), chance.choice(("alice",) * 9 + ("bob",))
        match chance.randrange(24):
            case 0 | 1 | 2:
                bus.commit()
            case 3:
                bus.pass_time(chance.choice((1, 3)))
            case 4:
                bus.now += chance.choice((-86_400.0, 86_400.0, 20.0))
            case 5:
                if chance.random() < 0.3:
                    bus.restart()
            case 6:
                _other_input(bus, chance, peer)
            case 7 | 8 | 9:
                _hello(bus, chance, peer)
            case _:
                frames = next_frames(chance)
                seen[_word(frames[0]) if frames else "no frames"] += 1
                bus.give(Received(peer, principal, frames))
    bus.settle()
    bus.pass_time(3)
    if chance.random() < 0.1:
        bus.pass_time(2 * LOST_S + RECENT_S + 10)
        left = memory_of(bus.core)
        assert left <= MEMORY_LEFT_BYTES, f"{left} bytes are still held"
        seen["memory looked at"] += 1
    return seen + Counter({f"refused: {code}": n for code, n in bus.core.refused.items()})


def _begin(bus: Bus, chance: Random) -> None:
    """Some of them say who they are, and one execution is submitted."""
    if chance.random() < 0.9:
        bus.hello(PEERS[0], "executor", EXECUTIONS[0])
        bus.say(PEERS[0], put(EXECUTOR, Channel.SIGNALS, 1, SUBMITTED, execution=EXECUTIONS[0]))
        bus.settle()
        bus.hello(PEERS[1], "agent", EXECUTIONS[0])
        bus.hello(PEERS[2], "observer")


def _hello(bus: Bus, chance: Random, peer: bytes) -> None:
    role = {PEERS[0]: "executor", PEERS[1]: "agent"}.get(peer, chance.choice(("executor", "agent", "observer")))
    execution = EXECUTIONS[0] if peer in PEERS[:2] else chance.choice(EXECUTIONS)
    bus.hello(peer, role, execution, chance.choice(("alice", "alice", "alice", "bob")))


def next_frames(chance: Random) -> list[bytes]:
    """What a client says, mostly about an execution that exists, and mostly with something wrong."""
    command = chance.choice(_SAID_BY_CLIENTS if chance.random() < 0.3 else _SAID_OFTEN)
    golden = [frames for frames in golden_messages() if frames[0] == command]
    frames = chance.choice(golden)
    if command == Command.PUT and chance.random() < 0.7:
        return list(_put(chance).encode())
    header = with_field(frames[1], "execution", chance.choice((*EXECUTIONS[:1] * 4, *EXECUTIONS, bytes(16))))
    header = with_field(header, "request", chance.randrange(4))
    body = _request(chance) if command == Command.REQUEST else frames[2]
    if chance.random() < 0.35:
        return [command, header, body]
    return hostile_frames(chance, (command, header, body))


def _request(chance: Random) -> bytes:
    """Any action, few tokens, so that some come again, and now and then a value that is none."""
    wish = {"action": chance.choice(ACTIONS), "by": "ada", "reason": "", "grace_s": 1, "token": chance.choice("abc")}
    if chance.random() < 0.4:
        absurd = (None, "", 0, -1, 1e308, 10**400, True, [], {}, "x" * 5000, "\ud800", float("nan"), float("inf"))
        wish[chance.choice(list(wish))] = chance.choice(absurd)
    return json.dumps(wish).encode()


def _put(chance: Random) -> Message:
    """Records of any kind from any source: most of them in order, so that they are accepted."""
    source = chance.choice((EXECUTOR, LAUNCHER, AGENT, RANK, Source(SourceKind.RANK, chance.choice((1, 2**32 - 1)))))
    records = [hostile_record(chance) for _ in range(chance.randrange(1, 4))]
    channel = chance.choice((Channel.SIGNALS, Channel.SIGNALS, *Channel))
    return put(source, channel, chance.choice((1, 1, 2, 3, 2**63)), *records, execution=chance.choice(EXECUTIONS))


def _other_input(bus: Bus, chance: Random, peer: bytes) -> None:
    match chance.randrange(5):
        case 0:
            bus.give(Subscribed(chance.choice((b"nonce/1", b"nonce/" + b"x" * 9000, b"", b"log/", b"\xff"))))
        case 1:
            bus.give(Unsent(peer, Message(Command.EVENTS, Header(request=chance.randrange(4))), chance.random() < 0.5))
        case 2:
            bus.give(JournalTrouble(chance.choice(("the disk is full", ""))))
        case 3:
            bus.give(Forgotten(chance.choice(EXECUTIONS)))
        case _:
            for send in bus.sent[-3:]:
                bus.give(Unsent(send.peer, send.message, gone=False))


def memory_of(thing: object) -> int:
    """Bytes of an object and of everything that only data hangs from it (no modules, classes, functions)."""
    seen: set[int] = set()
    todo, total = [thing], 0
    while todo:
        it = todo.pop()
        if id(it) in seen or isinstance(it, (type, type(json), type(memory_of), type(len))):
            continue
        seen.add(id(it))
        total += sys.getsizeof(it)
        todo += gc.get_referents(it)
    return total


# --- the agent ---------------------------------------------------------------------------------------


def core_of_the_agent(chance: Random) -> Counter[str]:
    """Any spool and any broker: Refused and ProtocolError, which are documented, and nothing else."""
    seen: Counter[str] = Counter()
    absurd = (
        None,
        [],
        {"ranks": [[1e999]]},
        {"ranks": [[0, 1, 2]]},
        {"ranks": [], "told": [-1e999]},
        {"ranks": {"": 1}},
    )
    checkpoint = chance.choice(
        (
            None, {}, [], {"files": []}, {"files": {"rank-0.rec": {"offset": -1, "counts": {}}}},
            {"files": {}, "journal": "a", "control": chance.choice(absurd)},
        )
    )  # fmt: skip
    limit = chance.choice((None, TimeLimit(chance.choice((1e-9, 5.0, 1e308)))))
    agent = AgentCore(EXECUTIONS[0], 0, checkpoint, hostile_file(chance, 3), time_limit=limit)
    now = 1000.0
    agent.start("node", "0")
    files = dict.fromkeys(("rank-0.rec", "rank-0.out", "launcher.rec", "agent-0.rec", "executor.rec", "x"), b"")
    for _ in range(chance.randrange(3, 25)):
        now += chance.choice((0.01, 1.0, 20.0, -86_400.0))
        match chance.randrange(4):
            case 0:
                name = chance.choice(sorted(files))
                files[name] = b"" if chance.random() < 0.1 else files[name] + hostile_file(chance, 3)
                agent.resize(name, len(files[name]))
            case 1:
                while read := agent.next_read():
                    data = files[read.file.name][read.offset : read.offset + read.length]
                    if not data:
                        break
                    agent.take(read.file, data, now)
                    seen["bytes of spool"] += len(data)
            case 2:
                for out in agent.delivery.outgoing(now):
                    if isinstance(out, SendChunk):
                        out = agent.chunk(out, chance.choice((None, b"", b"x" * min(out.length, 100))))
                    assert decode_message(list(out.encode())) == out
                agent.advance(now)
                agent.resumed(now)
                for due in agent.signals_due([], now):
                    if isinstance(due, Inspect):
                        agent.inspected({})
                if chance.random() < 0.1:
                    agent.end()
            case _:
                seen += _tell_agent(agent, chance, now)
    json.dumps(agent.checkpoint())
    return seen


def _tell_agent(agent: AgentCore, chance: Random, now: float) -> Counter[str]:
    try:
        message = decode_message(_broker_says(chance))
        agent.handle(message, now)
    except ProtocolError as error:
        return Counter({f"refused: {error.code}": 1})
    except Refused as refused:
        return Counter({f"given up: {refused.code[:20]!a}": 1})
    return Counter({_word(message.command): 1})


_SAID_BY_BROKER = (
    Command.WELCOME, Command.REFUSED, Command.ACK, Command.STORED, Command.EVENTS, Command.END, Command.LISTING,
    Command.CHUNK, Command.CONTROL, Command.GOODBYE,
)  # fmt: skip


def _broker_says(chance: Random) -> list[bytes]:
    frames = chance.choice([frames for frames in golden_messages() if frames[0] in _SAID_BY_BROKER])
    header = with_field(frames[1], "execution", EXECUTIONS[0])
    header = with_field(header, "request", chance.randrange(6))
    if chance.random() < 0.3:
        return [frames[0], header, frames[2]]
    return hostile_frames(chance, (frames[0], header, frames[2]))


# --- the Executor ------------------------------------------------------------------------------------


def words_of_the_scheduler(chance: Random) -> Counter[str]:
    """Whatever its programs print: statuses, or nothing; and no state is taken for an end but those that are known."""
    text = chance.choice((_QUEUE, _JOB, "17;cluster\n", "CANCELLED by 1000|0:15|node1|peaks.01a2\n"))
    said = damaged(chance, text.encode()).decode(errors="replace")
    jobs = slurm.parsed_queue(said)
    for status in (*jobs.values(), slurm.parsed_job(said), slurm.parsed_accounting(said)):
        assert status is None or status.ended == (status.state in slurm.ENDED)
    assert all(job.isdecimal() for job in jobs)
    assert slurm.submitted_job(said) == "" or slurm.submitted_job(said).isdecimal()
    assert "\n" not in slurm.refusal(said)
    watch = JobWatch("01a2", "12", 100.0)
    look, _ = watch.queue(Answer(chance.choice((0.0, 200.0)), jobs, chance.choice(("", "no answer"))))
    assert look is not Look.ENDED, "the queue alone is no proof of an end"
    return Counter({"jobs": len(jobs), f"look: {look.value}": 1})


_QUEUE = "12|RUNNING|node[1-2]|None|peaks.01a2\n13|PENDING||Resources|other\n14|QUITE_NEW|n|Odd words|x|y\n"
_JOB = "JobId=12 JobName=peaks.01a2 JobState=FAILED Reason=NonZeroExitCode ExitCode=3:0 NodeList=node1 TRES=cpu=1\n"


def _scheduler_says(chance: Random) -> Stimulus:
    job = chance.choice(("12", "13"))
    return chance.choice((
        JobTold(events.JobSubmitted(time=1.0, scheduler="slurm", job=job)),
        JobTold(events.JobChanged(time=1.0, job=job, state=chance.choice(("PENDING", "RUNNING", "ODD", "TIMEOUT")))),
        Withdrawn(chance.random() < 0.5, chance.choice(("", "no answer"))),
        Wanted(chance.choice(list(Wish)), "why"),
        LauncherEnded(None, "words", chance.random() < 0.5, chance.choice(("", "NODE_FAIL"))),
    ))  # fmt: skip


def conversation_of_the_executor(chance: Random) -> Counter[str]:
    """Any broker, for one who submits and for one who attaches: Refused and ProtocolError, and nothing else."""
    seen: Counter[str] = Counter()
    epoch, now = chance.choice((1, 2)), 100.0
    batch = epoch == 1 and chance.random() < 0.5
    supervisor = Supervisor(now, by="ada@lab", time_s=1_000_000.0, attached=epoch > 1, batch=batch)
    speaker = Speaker(EXECUTIONS[0], EXECUTOR, epoch, "the second")
    former = [hostile_record(chance) for _ in range(chance.randrange(3))] if epoch > 1 else []
    conversation = Conversation(speaker, supervisor, former=former, user="bob", host="there")
    if epoch == 1:
        conversation.offer(SUBMITTED)
    asked = Message(b"")
    for _ in range(chance.randrange(5, 40)):
        now += chance.choice((0.01, 1.0, 20.0))
        try:
            message = decode_message(_answer(chance, asked) if chance.random() < 0.7 else _acknowledgement(chance))
            out = conversation.take(message, now)
            seen[_word(message.command)] += 1
            if chance.random() < 0.3:
                out += conversation.decide(Tick(chance.choice((0.0, 6.0)), chance.choice(("", "full"))), now)
            if chance.random() < 0.1:
                out += conversation.decide(_scheduler_says(chance), now)
        except ProtocolError as error:
            seen[f"refused: {error.code}"] += 1
            continue
        except Refused as refused:
            seen[f"given up: {refused.code[:20]!a}"] += 1
            break
        sent = [each.message for each in out if isinstance(each, Send)]
        for each in (*sent, *conversation.outgoing(now)):
            assert decode_message(list(each.encode())).command == each.command
        asked = next((each for each in reversed(sent) if each.command in (Command.READ, Command.LIST)), asked)
        if any(isinstance(each, (Finish, GiveUp)) for each in out):
            break
    return seen


def _acknowledgement(chance: Random) -> list[bytes]:
    """That the submission is on disk: then an Executor reads."""
    header = Header(
        execution=EXECUTIONS[0], channel=Channel.SIGNALS, source=EXECUTOR, first=chance.choice((1, 2, 2**63))
    )
    return list(Message(Command.ACK, header).encode())


# --- the observer ------------------------------------------------------------------------------------


def subscription_of_an_observer(chance: Random) -> Counter[str]:
    """Any broker: ProtocolError for a body that is not what it must be, and nothing else."""
    seen: Counter[str] = Counter()
    numbers = iter(range(1, 100_000))
    wanted = chance.choice((Filter(), Filter(execution=EXECUTIONS[0]), Filter(experiment="mfx1")))
    watching = Subscription(wanted, lambda: "text", lambda: next(numbers), until_ended=chance.random() < 0.5)
    now, asked = 1000.0, Message(b"")
    watching.join("b1", now)
    for _ in range(chance.randrange(5, 30)):
        now += chance.choice((0.01, 1.0, 6.0))
        out: list[Any] = []
        try:
            match chance.randrange(5):
                case 0:
                    out = watching.tick(now)
                case 1:
                    out = watching.published(Message(b"nonce/text", Header()), now)
                case 2 | 3:
                    message = decode_message(_published(chance))
                    out = watching.published(message, now)
                    seen[_word(message.command.partition(b"/")[0])] += 1
                case _:
                    message = decode_message(_answer(chance, asked))
                    out = watching.answered(message, now)
                    seen[_word(message.command)] += 1
            asked = next((each for each in reversed(out) if isinstance(each, Message)), asked)
        except ProtocolError as error:
            seen[f"refused: {error.code}"] += 1
    return seen


def _answer(chance: Random, asked: Message) -> list[bytes]:
    """What a broker might say to what it was asked last, mostly with something wrong."""
    about = {Command.LIST: (Command.LISTING,), Command.READ: (Command.EVENTS, Command.END)}.get(asked.command)
    if about is None or chance.random() < 0.2:
        return _broker_says(chance)
    frames = chance.choice([frames for frames in golden_messages() if frames[0] in (*about, Command.REFUSED)])
    header = with_field(with_field(frames[1], "request", asked.header.request), "execution", EXECUTIONS[0])
    body = frames[2].replace(b"0198c0de0000700080000000000000a1", EXECUTIONS[0].hex().encode())
    return [frames[0], header, body] if chance.random() < 0.3 else hostile_frames(chance, (frames[0], header, body))


def _published(chance: Random) -> list[bytes]:
    execution = chance.choice(EXECUTIONS)
    if chance.random() < 0.3:
        heads = {execution.hex(): {"log": chance.choice((0, 5, 10**9)), "signals": 1}}
        body = json.dumps({"broker": "b1", "time": 1.0, "heads": heads}).encode()
        frames = (b"beacon/", Header(time=1.0).encode(), body)
    else:
        header = Header(
            execution=execution, channel=Channel.LOG, source=RANK, first=1, count=2,
            position=chance.choice((1, 2, 3, 10, 2**63)), sequence=chance.randrange(1, 50),
        )  # fmt: skip
        frames = (topic(Channel.LOG, "mfx1", "7", "galaxies", execution.hex()), header.encode(), log("a") + log("b"))
    return list(frames) if chance.random() < 0.4 else hostile_frames(chance, frames)


def splice_of_an_observer(chance: Random) -> Counter[str]:
    """Whatever positions and counts are claimed: never an error, and what is held back stays below its bound."""
    splice, now = Splice(repairs=chance.random() < 0.7), 1000.0
    seen: Counter[str] = Counter()
    big = (0, 1, 2, 3, 5, 8, 2**31, 2**63, 2**64 - 1)
    for _ in range(chance.randrange(5, 60)):
        now += chance.choice((0.0, 1.0, 6.0, -3600.0))
        execution, channel = chance.choice(EXECUTIONS), chance.choice(list(Channel))
        header = Header(
            execution=execution, channel=channel, first=1, count=chance.choice((0, 1, 2, 2**32 - 1)),
            position=chance.choice(big), sequence=chance.choice(big),
        )  # fmt: skip
        body = b"".join(chance.choice(golden_records()) for _ in range(chance.randrange(3)))
        heads = {each: {channel: chance.choice(big)} for each in EXECUTIONS[: chance.randrange(4)]}
        made_at = now + chance.choice((0.0, -1.0, float("nan"), float("inf")))
        match chance.randrange(8):
            case 0:
                out = splice.snapshot(heads, chance.choice(big), now)
            case 1:
                out = splice.beacon(heads, made_at, now)
            case 7:
                out = splice.listed(heads, made_at, now)
            case 2 | 3:
                out = splice.live(header, body, now)
            case 4:
                out = splice.repaired(header, body, now)
            case 5:
                out = splice.repair_ended(execution, channel, now)
            case _:
                out = splice.repair_refused(execution, channel, "no", now) + splice.tick(now) + splice.reconnected(now)
        assert splice.held_bytes <= HELD_BYTES
        seen += Counter(type(instruction).__name__ for instruction in out)
        assert all(ask.first <= ask.last for ask in out if isinstance(ask, Ask))
    return seen


def _word(command: bytes) -> str:
    known = {frames[0] for frames in golden_messages()} | {b"log", b"beacon", b"nonce"}
    return command.decode() if command in known else "(other)"


TARGETS: dict[str, Callable[[Random], Counter[str]]] = {
    "frames": codec_of_frames,
    "events": codec_of_events,
    "spool files": readers_of_spool_files,
    "broker": core_of_the_broker,
    "agent": core_of_the_agent,
    "conversation": conversation_of_the_executor,
    "scheduler": words_of_the_scheduler,
    "subscription": subscription_of_an_observer,
    "splice": splice_of_an_observer,
}


def inputs(seed: int) -> Iterator[tuple[str, int]]:
    """Targets in turn, each with a seed of its own."""
    while True:
        for name in TARGETS:
            yield name, seed
            seed += 1
