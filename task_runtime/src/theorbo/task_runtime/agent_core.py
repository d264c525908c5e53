"""The agent's decisions: what to read, send, report, free and signal, and when it is done. Pure.

One agent delivers the spool of one node and execution. Its life::

    DELIVERING ──end()──> ENDING ──all files read to their end, all acknowledged──> CLOSING ──acknowledged──> CLOSED

* DELIVERING: files grow; what is read is numbered, offered to `Delivery`, acknowledged, and freed.
* ENDING: ranks and launcher have ended. What is left is read; a torn tail is a loss, a last line without
  an end is a line.
* CLOSING: the agent has reported `agent_closed`, with the last number of every stream, in its own file.
* CLOSED: that is in the journal as well. Nothing is left to do.

What the agent itself reports goes into its own spool file, and is read from there like all the rest: so
it has numbers that a second agent, which takes over after the first has died, finds again.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from typing import Any, NamedTuple, Union

from theorbo.schemas.delivery import Delivery, Instruction, SendChunk
from theorbo.schemas.errors import Refused
from theorbo.schemas.frames import Command, ErrorCode, Header, Message, decode_json
from theorbo.schemas.limits import GRACE_S, READ_ROOM_BYTES, SPOOL_BYTES, SPOOL_RESERVE_BYTES
from theorbo.schemas.names import Channel, Source, SourceKind, Stream
from theorbo.schemas.records import Attachment, Damage, Piece, attachments_of, split_body
from theorbo.schemas.spool import Pressure, parse_spool_name, spool_name
from theorbo.task_runtime.processes import Process, RankProcess, members
from theorbo.task_runtime.rank_ending import RankEnding, SendSignal
from theorbo.task_runtime.spool_reader import BEGINNING, Mark, SpoolFile, parse_checkpoint


class Life(enum.Enum):
    """See the drawing above."""

    DELIVERING = "delivering"
    ENDING = "ending"
    CLOSING = "closing"
    CLOSED = "closed"


class Report(NamedTuple):
    """An instruction to the skin: append this record to the agent's own file."""

    fields: dict[str, Any]


class Forget(NamedTuple):
    """An instruction to the skin: remove this attachment; whoever named it is in the journal."""

    attachment: Attachment


class TellLauncher(NamedTuple):
    """An instruction to the skin: the ranks are being ended; the launcher should not outlive them by long."""

    grace_s: float


class Complain(NamedTuple):
    """An instruction to the skin: say this on stderr, for the operator."""

    text: str


AgentInstruction = Union[Instruction, Report, Forget, TellLauncher, SendSignal, Complain]

_FATAL = (ErrorCode.UNKNOWN_EXECUTION, ErrorCode.VERSION, ErrorCode.NOT_ALLOWED)


class Read(NamedTuple):
    """What is to be read next."""

    file: SpoolFile
    offset: int
    length: int


class AgentCore:
    """Everything an agent knows. Methods take values and the time (Unix, seconds), and return instructions."""

    def __init__(self, execution: bytes, node: int, checkpoint: Any = None, own_records: bytes = b"") -> None:
        """`checkpoint` and `own_records` are what an earlier agent of this spool has left, if there was one."""
        self.life = Life.DELIVERING
        self.source = Source(SourceKind.AGENT, node)
        self.own_name = spool_name(self.source)
        self.ending = RankEnding()
        self.files: dict[str, SpoolFile] = {}
        self.ranks: dict[int, RankProcess] = {}
        """The ranks that have started and not ended, as far as has been read."""
        self.delivery = Delivery(execution)
        self._resume = _parse_checkpoints(checkpoint)
        self._turns: list[Source] = []
        self._reads: list[Read] = []  # of the turn that has begun
        self._losses: set[tuple[str, int]] = set()  # (file, offset) of those reported
        self._closed = False  # agent_closed stands in our file
        self._done: set[int] = set()  # positions of the requests that were carried out
        self._requests: dict[int, str] = {}  # position → action, of those under way
        self._missing: set[Attachment] = set()  # of which we asked whether the broker has them
        self._sending: set[Attachment] = set()
        self._execution = execution
        self._by_source: dict[Source | None, list[SpoolFile]] = {}  # a rank's output, then its records
        self._unwritten = 0  # reports that do not stand in our file yet
        self._rank_seen = False
        self._recall(own_records)

    def _recall(self, own_records: bytes) -> None:
        for text in split_body(own_records):
            try:
                fields = json.loads(text)
                kind = fields.get("kind")
                if kind == "loss" and "file" in fields:
                    self._losses.add((str(fields["file"]), int(fields["offset"])))
                elif kind == "control_done":
                    self._done.add(int(fields.get("position", 0)))
                elif kind == "agent_closed":
                    self._closed = True
            except (ValueError, TypeError, AttributeError):
                continue  # torn, or of another version

    # --- reading --------------------------------------------------------------------------------

    def resize(self, name: str, size: int) -> list[AgentInstruction]:
        """A file of the spool has this size now; files that are not ours to deliver are passed over."""
        file = self.files.get(name) or self._new_file(name)
        if file is None:
            return []
        damage = file.resize(size)
        return self._loss(file, damage, count=0) if damage else []

    def _new_file(self, name: str) -> SpoolFile | None:
        parsed = parse_spool_name(name)
        if parsed is None or parsed[0].kind is SourceKind.EXECUTOR:  # an Executor delivers its own
            return None
        source, channel = parsed
        settled = self._resume.get(name, BEGINNING)
        for counted, last in settled.counts.items():
            self.delivery.start(Stream(source, counted), last)
        file = self.files[name] = SpoolFile(name, source, channel, settled)
        files = self._by_source.setdefault(source, [])
        if not files:
            self._turns.append(source)
        files.append(file)
        files.sort(key=lambda each: each.channel is None)
        return file

    def outputs_beside(self, name: str) -> list[str]:
        """The files of output of the rank whose records are in the file `name`.

        They are to be looked at after it: only then what a rank printed before a record is known with the record.
        """
        file = self.files.get(name)
        if file is None or file.channel is not None:
            return []
        return [other.name for other in self._by_source[file.source] if other.channel is not None]

    def next_read(self) -> Read | None:
        """What to read next; None if there is nothing to read, or no room for it.

        Sources take turns. In its turn a rank's output is read before its records, so that the lines that led to
        a failure are delivered before it; each file once, and as far as it was known when the turn began.
        """
        if self.delivery.room_bytes < READ_ROOM_BYTES:
            return None
        while self._reads:
            file, offset, length = self._reads[0]
            if file.offset == offset and file.unread:
                return Read(file, offset, min(length, file.unread))
            del self._reads[0]  # it has been read, or has become smaller
        for place, source in enumerate(self._turns):
            self._reads = [Read(file, file.offset, file.unread) for file in self._by_source[source] if file.unread]
            if self._reads:
                self._turns.append(self._turns.pop(place))
                return self._reads[0]
        return None

    def take(self, file: SpoolFile, chunk: bytes, now: float, *, final: bool = False) -> list[AgentInstruction]:
        """The bytes that were to be read. Everything found in them is numbered and offered for delivery."""
        pieces, damages = file.take(chunk, now, final=final)
        attachments: list[Attachment] = []
        for piece in pieces:
            file.counts[piece.channel] = self.delivery.offer(file.source, piece.channel, piece.record)
            attachments += attachments_of(piece.record)
            if file.source.kind is SourceKind.RANK and piece.channel is Channel.SIGNALS:
                self._note_rank(file.source.index, piece)
        file.mark(tuple(attachments))
        out = [
            loss
            for damage in damages
            if (file.name, damage.start) not in self._losses
            for loss in self._loss(file, damage, count=1)
        ]
        return out + self._settle(file)

    def _note_rank(self, rank: int, piece: Piece) -> None:
        try:
            fields = json.loads(piece.record[1:])
        except ValueError:
            return  # a stranger's; the broker will say so
        if fields["kind"] == "rank_ended":
            self.ranks.pop(rank, None)
        elif fields["kind"] == "rank_started":
            numbers = (fields.get(name) for name in ("pid", "parent_pid", "process_group", "start_ticks"))
            self.ranks[rank] = RankProcess(rank, *(value if isinstance(value, int) else 0 for value in numbers))
            self._rank_seen = True

    def _loss(self, file: SpoolFile, damage: Damage, count: int) -> list[AgentInstruction]:
        self._losses.add((file.name, damage.start))
        stream = Stream(file.source, file.channel or Channel.LOG)
        detail = f"{file.name}, bytes {damage.start} to {damage.end}: {damage.why}"
        return self._report(
            kind="loss", stream=str(stream), count=count, detail=detail, file=file.name, offset=damage.start
        )

    # --- the conversation -----------------------------------------------------------------------

    def outgoing(self, now: float) -> list[Instruction]:
        """What is to be sent to the broker now."""
        return self.delivery.outgoing(now)

    def handle(self, message: Message, now: float) -> list[AgentInstruction]:
        """What the broker says. Raises Refused if it will never take anything of ours."""
        header = message.header
        if message.command == Command.WELCOME:
            self._missing.clear()
            self.delivery.welcomed()
        elif message.command == Command.ACK:
            self.delivery.handle_ack(header, now)
            return [out for file in self._by_source.get(header.source, []) for out in self._settle(file)]
        elif message.command == Command.STORED:
            return self._handle_stored(Attachment(message.body.hex(), header.position), header.first, now)
        elif message.command == Command.CONTROL:
            return self._handle_control(message, now)
        elif message.command == Command.GOODBYE:
            self.delivery.disconnected()
        elif message.command == Command.REFUSED:
            return self._handle_refused(message)
        return []

    def _settle(self, file: SpoolFile) -> list[AgentInstruction]:
        done = file.settle(lambda channel: self.delivery.acknowledged(Stream(file.source, channel)))
        return [Forget(attachment) for attachment in done]

    def _handle_refused(self, message: Message) -> list[AgentInstruction]:
        answer = decode_json(message.body)
        code, why = str(answer.get("code")), str(answer.get("message"))
        if code in _FATAL:
            raise Refused(code, why)
        header = message.header
        if code == ErrorCode.MALFORMED and not header.channel and header.position:  # an attachment
            return [
                out
                for attachment in list(self._sending)
                if attachment.size == header.position
                for out in self._give_up(attachment, why)
            ]
        return [Complain(f"the broker refused {header.source} {header.channel} from {header.first} on: {why}")]

    # --- attachments ----------------------------------------------------------------------------

    def chunk(self, wanted: SendChunk, content: bytes | None) -> Message:
        """The message for a chunk with this content. None: there is no such file, or it is shorter; then
        the broker is asked whether it has the attachment already, from an earlier record.
        """
        attachment = wanted.attachment
        if content is None or len(content) != wanted.length:
            content = b""
            self._missing.add(attachment)
        self._sending.add(attachment)
        header = Header(execution=self._execution, first=wanted.offset, count=len(content), position=attachment.size)
        return Message(Command.ATTACH, header, bytes.fromhex(attachment.sha256) + content)

    def _handle_stored(self, attachment: Attachment, received: int, now: float) -> list[AgentInstruction]:
        if received >= attachment.size:
            self._sending.discard(attachment)
        elif attachment in self._missing:
            return self._give_up(attachment, "its file is not in the spool")
        return [*self.delivery.handle_stored(attachment, received, now)]

    def _give_up(self, attachment: Attachment, why: str) -> list[AgentInstruction]:
        self.delivery.give_up(attachment)
        self._missing.discard(attachment)
        self._sending.discard(attachment)
        file = next((file for file in self.files.values() if file.names(attachment)), None)
        stream = Stream(file.source if file else self.source, Channel.RESULTS)
        return self._report(
            kind="loss", stream=str(stream), count=0, detail=f"attachment {attachment.sha256} is lost: {why}"
        )

    # --- control --------------------------------------------------------------------------------

    def _handle_control(self, message: Message, now: float) -> list[AgentInstruction]:
        position = message.header.position
        if position in self._done or position in self._requests or self.life is not Life.DELIVERING:
            return []  # it is sent again whenever we say HELLO
        fields = decode_json(split_body(message.body)[0])
        action = str(fields.get("action"))
        grace_s = 0.0 if action == "kill" else float(fields.get("grace_s", GRACE_S))
        self._requests[position] = action
        self.ending.request(grace_s, now)
        return [TellLauncher(grace_s)]

    def signals_due(self, table: list[Process], now: float) -> list[AgentInstruction]:
        """The signals that are due to members of ranks, by the present process table."""
        if not self.ending.requested:
            return []
        living = members(self.ranks.values(), table)
        out: list[AgentInstruction] = [*self.ending.due(living, now)]
        if self._rank_seen and not any(living.values()):
            out += self._control_done()
        return out

    def _control_done(self) -> list[AgentInstruction]:
        killed = ", ".join(map(str, sorted(self.ending.killed)))
        detail = f"SIGKILL was needed for rank {killed}" if killed else "all ranks have ended"
        out: list[AgentInstruction] = []
        for position, action in self._requests.items():
            out += self._report(kind="control_done", action=action, detail=detail, position=position)
            self._done.add(position)
        self._requests.clear()
        return out

    # --- the end --------------------------------------------------------------------------------

    def end(self) -> None:
        """Ranks and launcher have ended; sizes of files are those of now (see `resize`)."""
        if self.life is Life.DELIVERING:
            self.life = Life.ENDING

    def advance(self, now: float) -> list[AgentInstruction]:
        """What follows once everything that could be done was done. To be called after each round."""
        out: list[AgentInstruction] = []
        others = [file for file in self.files.values() if file.name != self.own_name]
        own = self.files.get(self.own_name)
        if self.life is Life.ENDING:
            for file in others:
                if file.read_to_end and not file.finished:
                    out += self.take(file, b"", now, final=True)
            out += self._control_done()
            if not out and self._own_is_read(own) and self.delivery.idle and all(file.finished for file in others):
                self.life = Life.CLOSING
                if not self._closed:
                    own_stream = Stream(self.source, Channel.SIGNALS)
                    counts = {str(s): n for s, n in self.delivery.counts().items() if n and s != own_stream}
                    out += self._report(kind="agent_closed", streams=counts)
        elif self.life is Life.CLOSING and self._own_is_read(own) and self.delivery.idle:
            self.life = Life.CLOSED
        return out

    def _own_is_read(self, own: SpoolFile | None) -> bool:
        return self._unwritten == 0 and (own is None or own.read_to_end)

    def start(self, host: str, version: str) -> list[AgentInstruction]:
        """Say that this agent is there; unless an earlier one has said its last word already."""
        return [] if self._closed else self._report(kind="agent_started", host=host, version=version)

    def _report(self, **fields: Any) -> list[AgentInstruction]:
        self._unwritten += 1
        return [Report(fields)]

    def written(self, size: int) -> list[AgentInstruction]:
        """A `Report` stands in our own file, which has this size now."""
        self._unwritten -= 1
        return self.resize(self.own_name, size)

    # --- room -----------------------------------------------------------------------------------

    def pressure(self, attachment_bytes: int, *, can_free: bool) -> bytes:
        """What writers may do, given the size of the attachments in the spool."""
        held = attachment_bytes + sum(
            file.size - (file.settled.offset if can_free else 0) for file in self.files.values()
        )
        if held < SPOOL_BYTES:
            return Pressure.FREE
        return Pressure.FULL if held < SPOOL_BYTES + SPOOL_RESERVE_BYTES else Pressure.EXHAUSTED

    def to_free(self) -> Iterator[tuple[SpoolFile, int, int]]:
        """Files, offsets and lengths that may be given back to the file system after the next checkpoint."""
        for file in self.files.values():
            range_ = file.to_free()
            if range_ and file.name != self.own_name:  # ours is read again by a second agent, as a whole
                yield file, *range_

    def checkpoint(self) -> dict[str, Any]:
        """Where a second agent may start, for every file."""
        return {"files": {name: file.checkpoint() for name, file in self.files.items()}}

    @property
    def wants_checkpoint(self) -> bool:
        """Whether a file is not read on before the checkpoint is written."""
        return any(file.wants_checkpoint for file in self.files.values())

    def checkpoint_written(self) -> None:
        """The checkpoint file says what `checkpoint` says now."""
        for file in self.files.values():
            file.checkpoint_written()


def _parse_checkpoints(checkpoint: Any) -> dict[str, Mark]:
    """By file name; nothing of a checkpoint that cannot be understood (then all is read and sent again)."""
    try:
        return {str(name): parse_checkpoint(fields) for name, fields in checkpoint["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
