"""A spool directory of the simulator, and who writes into it: ranks, their thin parents, the launcher, the agent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from theorbo.schemas.names import KIND_CHANNELS, Channel, Source, Stream
from theorbo.schemas.records import Attachment, encode_record
from theorbo.schemas.spool import Pressure, spool_name

from .scheduler import Scheduler

if TYPE_CHECKING:
    from .checks import Checks


class Spool:
    """The files of one node and execution. They survive every process."""

    def __init__(self, scheduler: Scheduler, checks: Checks, execution: bytes) -> None:
        self.scheduler = scheduler
        self.checks = checks
        self.execution = execution
        self.files: dict[str, bytearray] = {}
        self.attachments: dict[str, bytes] = {}
        self.checkpoint: str | None = None
        self.epoch = 0
        self.ended = False
        self.pressure = Pressure.FREE
        self.full_until = 0.0
        self.on_change: Callable[[str], None] = lambda _name: None
        """What inotify tells the agent that is there."""

    @property
    def full(self) -> bool:
        return self.scheduler.now < self.full_until

    def append(self, source: Source, record: bytes, channel: Channel, *, reserved: bool = False) -> bool:
        """One whole record, or False if the disk is full. `reserved` room is there in any case."""
        if self.full and not reserved:
            return False
        name = spool_name(source)
        self.files.setdefault(name, bytearray()).extend(record)
        self.checks.reported(self.execution, Stream(source, channel), record)
        self.on_change(name)
        return True

    def tear(self, source: Source, record: bytes) -> None:
        """A kill in mid-write leaves a part of a record; its call had not returned."""
        cut = self.scheduler.chance.randrange(1, len(record) - 1)
        self.files.setdefault(spool_name(source), bytearray()).extend(record[:cut])

    def print(self, source: Source, channel: Channel, line: bytes) -> bool:
        if self.full:
            return False
        name = spool_name(source, channel)
        self.files.setdefault(name, bytearray()).extend(line + b"\n")
        self.checks.reported(self.execution, Stream(source, channel), line)
        self.on_change(name)
        return True


class Reporter:
    """A rank's end of the spool, as `task_runtime.reporter` has it: what is dropped is counted, and told later."""

    def __init__(self, spool: Spool, source: Source, wall: Callable[[], float]) -> None:
        self._spool = spool
        self._source = source
        self._wall = wall
        self._lost: dict[Stream, int] = {}

    def report(self, kind: str, *, reserved: bool = False, **fields: Any) -> bool:
        channel = KIND_CHANNELS[kind]
        vital = channel in (Channel.SIGNALS, Channel.RESULTS)
        pressed = self._spool.pressure == Pressure.EXHAUSTED or (self._spool.pressure == Pressure.FULL and not vital)
        record = encode_record({"kind": kind, "time": self._wall(), **fields})
        if (pressed and not reserved) or not self._spool.append(self._source, record, channel, reserved=reserved):
            stream = Stream(self._source, channel)
            self._lost[stream] = self._lost.get(stream, 0) + 1
            self._spool.checks.dropped(self._spool.execution)
            return False
        self.tell_losses()
        return True

    def tell_losses(self, *, reserved: bool = False) -> None:
        lost, self._lost = self._lost, {}
        for stream, count in lost.items():
            fields = {"kind": "loss", "time": self._wall(), "stream": str(stream), "count": count}
            record = encode_record({**fields, "detail": "dropped by the rank: no space left"})
            if not self._spool.append(self._source, record, Channel.SIGNALS, reserved=reserved):
                self._lost[stream] = self._lost.get(stream, 0) + count

    def store(self, content: bytes) -> Attachment | None:
        if self._spool.full:
            return None
        digest = hashlib.sha256(content).hexdigest()
        self._spool.attachments[digest] = content
        return Attachment(digest, len(content))

    def print(self, channel: Channel, line: bytes) -> None:
        self._spool.print(self._source, channel, line)

    def torn(self) -> None:
        """Killed while it was reporting."""
        self._spool.tear(self._source, encode_record({"kind": "log", "time": self._wall(), "text": "never said"}))
