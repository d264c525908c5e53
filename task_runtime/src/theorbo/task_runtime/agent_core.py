"""The agent's decisions: what to read, send, report, free and signal, and when it is done. Pure.

One agent delivers the spool of one node and execution. Its life::

    DELIVERING ──end()──> ENDING ──all files read to their end, all acknowledged──> CLOSING ──acknowledged──> CLOSED

* DELIVERING: files grow; what is read is numbered, offered to `Delivery`, acknowledged, and freed.
* ENDING: ranks and launcher have ended. What is left is read; a torn tail is a loss, a last line without
  an end is a line.
* CLOSING: the agent has reported `agent_closed`, with the last number of every stream, in its own file.
* CLOSED: that is in the journal as well. Nothing is left to do.

What the agent itself reports goes into its own spool file, and is read from there like all the rest: so
it has numbers that a second agent, which takes over after the first has died, finds again. Its file is kept whole.

When the broker has another journal than before (it has recovered from damage), everything that still stands in the
spool is offered again; what does not is told as a loss, by number. See `schemas.delivery`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from typing import Any

from theorbo.schemas.delivery import Delivery, Instruction, SendChunk
from theorbo.schemas.errors import Refused
from theorbo.schemas.frames import Command, ErrorCode, Header, Message, decode_json
from theorbo.schemas.limits import READ_ROOM_BYTES, SPOOL_BYTES, SPOOL_RESERVE_BYTES
from theorbo.schemas.names import Channel, Source, SourceKind, Stream
from theorbo.schemas.records import Attachment, attachments_of, split_body
from theorbo.schemas.spool import Pressure, parse_spool_name, spool_name
from theorbo.task_runtime.attachment_sending import AttachmentSending
from theorbo.task_runtime.instructions import AgentInstruction, Complain, ControlInstruction, Forget, Report
from theorbo.task_runtime.losses import Losses
from theorbo.task_runtime.numbering import Numbering
from theorbo.task_runtime.processes import Inspection, Process
from theorbo.task_runtime.rank_control import RankControl
from theorbo.task_runtime.reading_order import Read, ReadingOrder
from theorbo.task_runtime.spool_reader import Saved, SpoolFile, parse_checkpoint
from theorbo.task_runtime.time_limit import TimeLimit


class Life(enum.Enum):
    """See the drawing above."""

    DELIVERING = "delivering"
    ENDING = "ending"
    CLOSING = "closing"
    CLOSED = "closed"


_CONTROL_KINDS = ("control_requested", "control_accepted", "control_done", "ranks_stopped", "ranks_continued")
_FATAL = (ErrorCode.UNKNOWN_EXECUTION, ErrorCode.VERSION, ErrorCode.NOT_ALLOWED, ErrorCode.FENCED)


class AgentCore:
    """Everything an agent knows. Methods take values and the time (Unix, seconds), and return instructions."""

    def __init__(
        self,
        execution: bytes,
        node: int,
        checkpoint: Any = None,
        own_records: bytes = b"",
        spool_bytes: int = SPOOL_BYTES,
        time_limit: TimeLimit | None = None,
    ) -> None:
        """`checkpoint` and `own_records` are what an earlier agent of this spool has left, if there was one."""
        self.life = Life.DELIVERING
        self.source = Source(SourceKind.AGENT, node)
        self.own_name = spool_name(self.source)
        self.control = RankControl()
        self.files: dict[str, SpoolFile] = {}
        self._resume, self._journal = self._restore(checkpoint)
        self.delivery = Delivery(execution, journal=self._journal)
        self._numbering = Numbering(self.delivery, self.own_name, takes_over=bool(own_records))
        self._order = ReadingOrder()
        self._losses = Losses()
        self._closed = False  # agent_closed stands in our file
        self._attachments = AttachmentSending(execution)
        self._unwritten = 0  # reports that do not stand in our file yet
        self._spool_bytes = spool_bytes
        self._time_limit = time_limit
        self._reserve_bytes = min(SPOOL_RESERVE_BYTES, spool_bytes // 4)
        self._recall(own_records)

    def _restore(self, checkpoint: Any) -> tuple[dict[str, Saved], str]:
        """By file name; nothing of a checkpoint that cannot be understood (then all is read and sent again)."""
        try:
            files = {str(name): parse_checkpoint(fields) for name, fields in checkpoint["files"].items()}
            self.control.restore(checkpoint["control"])
            return files, str(checkpoint["journal"])
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return {}, ""

    def _recall(self, own_records: bytes) -> None:
        for text in split_body(own_records):
            try:
                fields = json.loads(text)
                kind = fields.get("kind")
                if kind == "agent_started" and self._time_limit:
                    self._time_limit.begin(float(fields["time"]))
                elif kind == "loss":
                    self._losses.recall(fields)
                elif kind in _CONTROL_KINDS:
                    self.control.recall(fields)
                elif kind == "agent_closed":
                    self._closed = True
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
                continue  # torn, or of another version

    # --- reading --------------------------------------------------------------------------------

    def resize(self, name: str, size: int, inode: int = 0) -> list[AgentInstruction]:
        """A file of the spool has this size now; files that are not ours to deliver are passed over."""
        file = self.files.get(name) or self._new_file(name)
        if file is None:
            return []
        damage = file.resize(size, inode)
        return [*self._report(self._losses.replaced(file, damage)), *self._settle(file)] if damage else []

    def replaced(self, file: SpoolFile) -> list[AgentInstruction]:
        """The bytes before what was to be read are not those that were read before (see `SpoolFile.is_intact`)."""
        damage = file.replaced(f"{file.name} was truncated and written anew; what had not been read is lost")
        return [*self._report(self._losses.replaced(file, damage)), *self._settle(file)] if damage else []

    def vanished(self, name: str) -> list[AgentInstruction]:
        """There is no such file any more. Should it come back it is read from its beginning."""
        file = self.files.get(name)
        if file is None or (file.size == 0 and file.offset == 0):
            return []
        file.size, file.inode = 0, 0
        damage = file.replaced(f"{name} has vanished; what had not been read is lost")
        return [*self._report(self._losses.replaced(file, damage)), *self._settle(file)] if damage else []

    def unreadable(self, file: SpoolFile, why: str) -> list[AgentInstruction]:
        """The disk does not give it: it is left alone from now on."""
        file.finished = True
        loss = f"{file.name} cannot be read from byte {file.offset} on: {why}"
        return self._report(self._losses.unknown(Stream(file.source, file.channel or Channel.LOG), loss))

    def _new_file(self, name: str) -> SpoolFile | None:
        parsed = parse_spool_name(name)
        if parsed is None:
            return None
        source, channel = parsed
        if source.kind not in (SourceKind.RANK, SourceKind.LAUNCHER) and source != self.source:
            return None  # an Executor delivers its own; other agents' files do not belong here
        saved = self._resume.get(name)
        file = self.files[name] = SpoolFile(name, source, channel, saved)
        self._numbering.begin(file, known=saved is not None)
        self._order.add(file)
        return file

    def outputs_beside(self, name: str) -> list[str]:
        """The files of output of the rank whose records are in the file `name`.

        They are to be looked at after it: only then what a rank printed before a record is known with the record.
        """
        file = self.files.get(name)
        if file is None or file.channel is not None:
            return []
        return [other.name for other in self._order.of(file.source) if other.channel is not None]

    def next_read(self) -> Read | None:
        """What to read next; None if there is nothing to read, or no room for it.

        What the agent itself reports, which is little, needs no room: it may be the loss that the broker waits for
        before it takes what fills the window.
        """
        if self.delivery.room_bytes >= READ_ROOM_BYTES:
            return self._order.next_read()
        own = self.files.get(self.own_name)
        return Read(own, own.offset, own.unread) if own and own.unread else None

    def take(self, file: SpoolFile, chunk: bytes, now: float, *, final: bool = False) -> list[AgentInstruction]:
        """The bytes that were to be read. Everything found in them is numbered and offered for delivery."""
        pieces, damages = file.take(chunk, now, final=final)
        attachments: list[Attachment] = []
        for piece in pieces:
            file.counts[piece.channel] = self.delivery.offer(file.source, piece.channel, piece.record)
            attachments += attachments_of(piece.record)
            if file.source.kind is SourceKind.RANK and piece.channel is Channel.SIGNALS:
                self.control.note(file.source.index, piece)
        file.mark(tuple(attachments))
        losses = self._losses.damaged(file, damages) if damages else []
        return [out for loss in losses for out in self._report(loss)] + self._settle(file)

    # --- the conversation -----------------------------------------------------------------------

    def outgoing(self, now: float) -> list[Instruction]:
        """What is to be sent to the broker now."""
        return self.delivery.outgoing(now)

    def handle(self, message: Message, now: float) -> list[AgentInstruction]:
        """What the broker says. Raises Refused if it will never take anything of ours."""
        header = message.header
        if message.command == Command.WELCOME:
            self.welcomed(message)
        elif message.command == Command.ACK:
            return self._handle_ack(header, now)
        elif message.command == Command.STORED:
            return self._handle_stored(Attachment(message.body.hex(), header.position), header.first, now)
        elif message.command == Command.CONTROL:
            return self._handle_control(message, now)
        elif message.command == Command.GOODBYE:
            self.delivery.disconnected()
        elif message.command == Command.REFUSED:
            return self._handle_refused(message)
        return []

    def welcomed(self, message: Message) -> None:
        """The broker has answered HELLO."""
        self._attachments.welcomed()
        journal = str(decode_json(message.body).get("broker", "")) if message.body else ""
        if self.delivery.welcomed(journal):
            self._numbering.another_journal(self.files.values())
            self.control.another_journal()
            if self.life is Life.CLOSING:
                self.life = Life.ENDING

    def _handle_ack(self, header: Header, now: float) -> list[AgentInstruction]:
        out: list[AgentInstruction] = []
        for hole in self.delivery.handle_ack(header, now):
            why = "the broker's journal has lost it, and the spool has it no more"
            out += self._report(self._losses.missing(hole, why))
        for file in self._order.of(header.source):
            out += self._settle(file)
        return out

    def _settle(self, file: SpoolFile) -> list[AgentInstruction]:
        done = file.settle(lambda channel: self.delivery.acknowledged(Stream(file.source, channel)))
        if file.starts_over:
            self._numbering.start_over(file)
        return [Forget(attachment) for attachment in done]

    def _handle_refused(self, message: Message) -> list[AgentInstruction]:
        answer = decode_json(message.body)
        code, why = str(answer.get("code")), str(answer.get("message"))
        if code in _FATAL:
            raise Refused(code, why)
        header = message.header
        if code in (ErrorCode.MALFORMED, ErrorCode.TOO_LARGE):  # to send it again would not help
            if not header.channel and header.position:
                refused = self._attachments.refused(header.position, answer.get("sha256"))
                return [out for attachment in refused for out in self._give_up(attachment, why)]
            hole = self.delivery.refused(header)
            if hole:
                return self._report(self._losses.missing(hole, f"refused by the broker: {why}"))
        return [Complain(f"the broker refused {header.source} {header.channel} from {header.first} on: {why}")]

    # --- attachments ----------------------------------------------------------------------------

    def chunk(self, wanted: SendChunk, content: bytes | None) -> Message:
        """The message for a chunk with this content; None: its file is not there, or shorter."""
        return self._attachments.chunk(wanted, content)

    def _handle_stored(self, attachment: Attachment, received: int, now: float) -> list[AgentInstruction]:
        if self._attachments.is_lost(attachment, received):
            return self._give_up(attachment, "its file is not in the spool")
        return [*self.delivery.handle_stored(attachment, received, now)]

    def _give_up(self, attachment: Attachment, why: str) -> list[AgentInstruction]:
        self.delivery.give_up(attachment)
        self._attachments.forget(attachment)
        file = next((file for file in self.files.values() if file.names(attachment)), None)
        stream = Stream(file.source if file else self.source, Channel.RESULTS)
        return self._report(self._losses.unknown(stream, f"attachment {attachment.sha256} is lost: {why}"))

    # --- control --------------------------------------------------------------------------------

    def resumed(self, now: float) -> list[AgentInstruction]:
        """What follows at once from what an agent before has begun to do to ranks."""
        return self._controlled(self.control.resumed(now)) if self.life is Life.DELIVERING else []

    def signals_due(self, table: list[Process], now: float) -> list[AgentInstruction]:
        """What is due to be done to members of ranks, by the present process table. See `RankControl.look_at`."""
        return self._controlled(self.control.due(table, now))

    def inspected(self, found: dict[int, list[Inspection]]) -> list[AgentInstruction]:
        """What members of ranks are doing, as `Inspect` has asked."""
        return self._controlled(self.control.inspected(found))

    def _handle_control(self, message: Message, now: float) -> list[AgentInstruction]:
        if self.life is Life.DELIVERING:
            return self._controlled(self.control.request(message, now))
        if self.life is Life.ENDING and not self._closed:  # behind our last word nothing may stand
            return self._controlled(self.control.too_late(message))
        return []

    def _keep_time_limit(self, now: float) -> list[AgentInstruction]:
        """What the Executor should have asked for, if it is there."""
        limit, control = self._time_limit, self.control
        ended = control.ending.requested or (control.seen and not control.ranks)
        if limit is None or ended or not limit.is_over(now):
            return []
        requested = self._report(limit.request(by=str(self.source)))
        return [*requested, *self._controlled(control.end_by_ourselves(limit.grace_s, now))]

    def _controlled(self, instructions: list[ControlInstruction]) -> list[AgentInstruction]:
        out: list[AgentInstruction] = []
        for it in instructions:
            out += self._report(it.fields) if isinstance(it, Report) else [it]
        return out

    # --- the end --------------------------------------------------------------------------------

    def end(self) -> None:
        """Ranks and launcher have ended; sizes of files are those of now (see `resize`)."""
        if self.life is Life.DELIVERING:
            self.life = Life.ENDING

    def advance(self, now: float) -> list[AgentInstruction]:
        """What follows once everything that could be done was done. To be called after each round."""
        out = [out for fields in self._losses.further(self._unwritten) for out in self._report(fields)]
        others = [file for file in self.files.values() if file.name != self.own_name]
        own = self.files.get(self.own_name)
        if self.life is Life.DELIVERING:
            out += self._keep_time_limit(now)
        elif self.life is Life.ENDING:
            for file in others:
                if file.read_to_end and not file.finished:
                    out += self.take(file, b"", now, final=True)
            out += self._controlled(self.control.done())
            if not out and self._own_is_read(own) and self.delivery.idle and all(file.finished for file in others):
                out += self._close(others)
        elif self.life is Life.CLOSING and self._own_is_read(own) and self.delivery.idle:
            self.life = Life.CLOSED
        return out

    def _own_is_read(self, own: SpoolFile | None) -> bool:
        return self._unwritten == 0 and (own is None or own.read_to_end)

    def _close(self, others: list[SpoolFile]) -> list[AgentInstruction]:
        self.life = Life.CLOSING
        if self._closed:
            return []
        self._closed = True
        out: list[AgentInstruction] = []
        counts, changed = self._numbering.totals(others)
        for stream, detail in changed:
            out += self._report(self._losses.unknown(stream, detail))
        counts.pop(Stream(self.source, Channel.SIGNALS), None)
        streams = {str(stream): number for stream, number in counts.items()}
        return [*out, *self._report({"kind": "agent_closed", "streams": streams})]

    def start(
        self, host: str, version: str, epoch: int = 1, incarnation: str = "", now: float = 0.0
    ) -> list[AgentInstruction]:
        """Say that this agent is there; unless an earlier one has said its last word already."""
        if self._time_limit:
            self._time_limit.begin(now)
        who = {"host": host, "version": version, "epoch": epoch, "incarnation": incarnation}
        return [] if self._closed else self._report({"kind": "agent_started", **who})

    def _report(self, fields: dict[str, Any]) -> list[AgentInstruction]:
        if not self._losses.admitted(fields, self._unwritten):
            return []
        self._unwritten += 1
        return [Report(fields)]

    def written(self, size: int, inode: int = 0) -> list[AgentInstruction]:
        """A `Report` stands in our own file, which has this size now."""
        self._unwritten -= 1
        return self.resize(self.own_name, size, inode)

    # --- room -----------------------------------------------------------------------------------

    def pressure(self, attachment_bytes: int, *, can_free: bool, disk_is_full: bool = False) -> bytes:
        """What writers may do, given the size of the attachments in the spool, and whether its disk is nearly full."""
        held = attachment_bytes + sum(
            file.size - (file.settled.offset if can_free else 0) for file in self.files.values()
        )
        if held < self._spool_bytes:
            return Pressure.FULL if disk_is_full else Pressure.FREE
        return Pressure.FULL if held < self._spool_bytes + self._reserve_bytes else Pressure.EXHAUSTED

    def to_free(self) -> Iterator[tuple[SpoolFile, int, int]]:
        """Files, offsets and lengths that may be given back to the file system after the next checkpoint."""
        for file in self.files.values():
            range_ = file.to_free()
            if range_ and file.name != self.own_name:  # ours is read again by a second agent, as a whole
                yield file, *range_

    def checkpoint(self) -> dict[str, Any]:
        """Where a second agent may start, for every file."""
        if not self._journal or (self._unwritten == 0 and not self.delivery.asking):
            self._journal = self.delivery.journal  # until then a second agent has to ask again
        files = {name: file.checkpoint() for name, file in self.files.items()}
        return {"journal": self._journal, "control": self.control.checkpoint(), "files": files}

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the checkpoint is to be written now."""
        return self.control.wants_checkpoint or any(f.wants_checkpoint or f.begins for f in self.files.values())

    def checkpoint_written(self) -> None:
        """The checkpoint file says what `checkpoint` says now."""
        self.control.checkpoint_written()
        for file in self.files.values():
            file.checkpoint_written()
