"""The agent in the simulator: the real core on a simulated spool. One object is one life of a process."""

from __future__ import annotations

import json
import math
from collections import deque
from typing import TYPE_CHECKING, Any

from theorbo.schemas.delivery import SendChunk
from theorbo.schemas.errors import Refused
from theorbo.schemas.frames import Command, Message
from theorbo.schemas.limits import CHECKPOINT_S, LOOK_S
from theorbo.schemas.names import Channel, Source, SourceKind, Speaker
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import END, spool_name
from theorbo.task_runtime.agent_core import AgentCore, Life
from theorbo.task_runtime.instructions import Complain, Forget, Inspect, Report, TellLauncher
from theorbo.task_runtime.processes import Inspection
from theorbo.task_runtime.processes import Process as TableLine
from theorbo.task_runtime.rank_ending import SendSignal

from .client import ClientLink
from .scheduler import Host, Process

if TYPE_CHECKING:
    from .node import Node
    from .world import World

READS_AT_ONCE = 16


class AgentParty(Process):
    def __init__(self, world: World, host: Host, node: Node, *, alone: bool) -> None:
        super().__init__(world.scheduler, host, f"agent-{node.execution_number}-{node.index}")
        self.world = world
        self.node = node
        self.alone = alone
        self.ready = False
        spool = self._spool = node.spool
        spool.epoch += 1
        source = Source(SourceKind.AGENT, node.index)
        own_records = bytes(spool.files.setdefault(spool_name(source), bytearray()))
        speaker = Speaker(spool.execution, source, spool.epoch, f"agent {spool.epoch}")
        checkpoint = json.loads(spool.checkpoint) if spool.checkpoint else None
        self.core = AgentCore(spool.execution, node.index, checkpoint, own_records)
        self._reports: deque[bytes] = deque()
        self._started_at = self.wall - self.now
        self._checkpoint_at = self._look_at = 0.0
        self._planned = False
        spool.on_change = self._changed
        self._link = ClientLink(world, self, speaker)
        self._perform(self.core.start(node.host_name, "1", spool.epoch, speaker.incarnation, self.wall))
        self._perform(self.core.resumed(self._started_at + self.now))
        self._look_at_everything()
        self.on_message()
        self.after(LOOK_S, self._tick)

    # --- when to look ----------------------------------------------------------------------------

    def on_message(self) -> None:
        if not self._planned:
            self._planned = True
            self.after(self.scheduler.chance.uniform(0.0, 0.002), self._round)

    def _changed(self, name: str) -> None:
        self.run(self._look_at_change, name)

    def _look_at_change(self, name: str) -> None:
        if self.world.inotify_deaf:
            return  # some file systems tell nothing; the next tick looks
        if name == END:
            self._look_at_everything()
        else:
            self._look_at_file(name)
            for output in self.core.outputs_beside(name):
                self._look_at_file(output)
        self.on_message()

    def _tick(self) -> None:
        if self.core.life is Life.CLOSED:
            return
        self.after(LOOK_S, self._tick)
        self._link.tick()
        self._look_at_everything()
        if self.alone and self.core.life is Life.DELIVERING and not self.node.living_ranks:
            self._look_at_everything()
            self.core.end()
        self._spool.pressure = self.core.pressure(sum(map(len, self._spool.attachments.values())), can_free=True)
        self.world.checks.bounded_sender(self.name, self.core.delivery)
        self._round()

    def _round(self) -> None:
        self._planned = False
        if not self.alive:
            return
        now = self._started_at + self.now
        try:
            for message in self._link.receive():
                self._perform(self.core.handle(message, now))
                if message.command == Command.WELCOME and not self.ready:
                    self.ready = True
                    self.node.agent_ready()
        except Refused as refused:
            self._end(refused.code)
            return
        self._read()
        self._perform(self.core.advance(now))
        self._write_reports()
        self._signal_ranks(now)
        self._perform(self.core.outgoing(now))
        if now >= self._checkpoint_at or self.core.wants_checkpoint:
            self._checkpoint_at = now + CHECKPOINT_S
            self._save_checkpoint()
        if self.core.life is Life.CLOSED:
            self._link.close()
            self._end("")
        elif self.core.next_read() is not None:
            self.on_message()

    def _end(self, code: str) -> None:
        self.alive = False
        self.world.story.tell(self.name, f"ends {code}")
        self.node.agent_ended(self, code)

    # --- the spool -------------------------------------------------------------------------------

    def _look_at_everything(self) -> None:
        ended = self._spool.ended
        for name in sorted(self._spool.files):
            self._look_at_file(name)
        for name in sorted(self._spool.files):
            for output in self.core.outputs_beside(name):
                self._look_at_file(output)
        if ended:
            self.core.end()

    def _look_at_file(self, name: str) -> None:
        self._perform(self.core.resize(name, len(self._spool.files[name])))

    def _read(self) -> None:
        for _ in range(READS_AT_ONCE):
            wanted = self.core.next_read()
            if wanted is None:
                return
            content = self._spool.files[wanted.file.name]
            before = bytes(content[wanted.offset - wanted.file.tail.length : wanted.offset])
            if not wanted.file.is_intact(before):
                self._perform(self.core.replaced(wanted.file))
                continue
            chunk = bytes(content[wanted.offset : wanted.offset + wanted.length])
            self._perform(self.core.take(wanted.file, chunk, self.wall))

    def _save_checkpoint(self) -> None:
        text = json.dumps(self.core.checkpoint())
        if text == self._spool.checkpoint or self._spool.full:
            return
        self.world.checks.checkpoint(self._spool.execution, self.core)
        self._spool.checkpoint = text
        self.core.checkpoint_written()
        for file, offset, length in self.core.to_free():
            self._spool.files[file.name][offset : offset + length] = bytes(length)
            file.freed = offset + length

    def _write_reports(self) -> None:
        while self._reports:
            if not self._spool.append(self.core.source, self._reports[0], Channel.SIGNALS, reserved=True):
                return
            self._reports.popleft()
            self._perform(self.core.written(len(self._spool.files[self.core.own_name])))

    # --- what the core decided -------------------------------------------------------------------

    def _perform(self, instructions: list[Any]) -> None:
        for it in instructions:
            match it:
                case Message():
                    self._link.send(it)
                case SendChunk():
                    content = self._spool.attachments.get(it.attachment.sha256)
                    part = None if content is None else content[it.offset : it.offset + it.length]
                    self._link.send(self.core.chunk(it, part))
                case Report(fields):
                    self._reports.append(encode_record({**fields, "time": self.wall}))
                case Forget(attachment):
                    self._spool.attachments.pop(attachment.sha256, None)
                case SendSignal(process, number):
                    self.after(0.001, self.node.signal, process.pid, number)
                case TellLauncher():
                    pass
                case Inspect(members):
                    self._perform(self.core.inspected(self._inspected(members)))
                case Complain(text):
                    self.world.story.tell(self.name, text)

    def _signal_ranks(self, now: float) -> None:
        look_at = self.core.control.look_at
        if now >= look_at:
            self._perform(self.core.signals_due(self._table(), now))
            self._write_reports()
            look_at = self.core.control.look_at
        if look_at < math.inf:
            self.after(max(0.001, look_at - now), self.on_message)

    def _table(self) -> list[TableLine]:
        ranks = sorted(self.node.living_ranks.items())
        return [TableLine(pid, pid - 1, pid, pid, "T" if rank.stopped else "R") for pid, rank in ranks]

    def _inspected(self, members: dict[int, list[TableLine]]) -> dict[int, list[Inspection]]:
        return {rank: [Inspection(line, "galaxies", 1, "", 0) for line in lines] for rank, lines in members.items()}
