"""The spool of one node as its agent handles it: looking, reading, giving back, saying what writers may do.

A skin: what to read, to free and to say is decided in `agent_core`. Everything here holds on a full disk too: the
files that an agent needs were allocated before. A file that is not as it was, or is there no more, is told to the
core, and ends nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inotify_simple  # type: ignore[import-untyped]

from theorbo.schemas.delivery import SendChunk
from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.limits import ATTACHMENT_PART_S, DISK_RESERVE_BYTES, LOOK_S, OWN_RECORDS_BYTES
from theorbo.schemas.names import Channel, Source
from theorbo.schemas.records import Attachment, encode_record
from theorbo.schemas.spool import (
    ATTACHMENTS,
    CHECKPOINT,
    END,
    PRESSURE,
    Pressure,
    append,
    open_append,
    own_directory,
    spool_files,
    spool_name,
)
from theorbo.task_runtime.agent_core import AgentCore
from theorbo.task_runtime.checkpoint import CheckpointFile
from theorbo.task_runtime.file_space import punch_hole, reserve
from theorbo.task_runtime.instructions import AgentInstruction
from theorbo.task_runtime.reading_order import Read

_WATCHED = inotify_simple.flags.MODIFY | inotify_simple.flags.CREATE | inotify_simple.flags.MOVED_TO
_READS_AT_ONCE = 16  # then it is time to send, and to listen

Perform = Callable[[list[AgentInstruction]], None]


class NodeSpool:
    """One spool, locked for one agent. `attach` the core before anything else is called."""

    def __init__(self, path: Path, source: Source) -> None:
        """Raises UsageError or Unavailable, if there is no such spool, or another agent delivers it."""
        if not path.is_dir():
            raise UsageError(f"there is no spool {path}")
        own_directory(path)
        self.path = path
        own = path / spool_name(source)
        self._own = open_append(own)
        try:
            fcntl.flock(self._own, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when we die, however that happens
        except OSError:
            raise Unavailable(f"another agent is delivering {path}") from None
        with contextlib.suppress(OSError):
            reserve(self._own, OWN_RECORDS_BYTES)
        try:
            self._checkpoint = CheckpointFile(path / CHECKPOINT)
        except OSError as error:
            raise Unavailable(f"cannot write to {path}: {error.strerror}") from None
        self.checkpoint = self._checkpoint.content
        """What an agent before has left."""
        self.own_records = own.read_bytes()
        """What it reported."""
        self._reports: deque[bytes] = deque()  # to be written to our own file
        self._usage = path / spool_name(source, Channel.METRICS)
        self._grown_at: dict[Source, float] = {}  # when a file of this source was found to have grown
        self._can_free = True
        self._pressure = Pressure.FREE
        self._attachment_bytes = 0
        self._attachments_at = 0.0
        self._inotify = inotify_simple.INotify(nonblocking=True)
        self._inotify.add_watch(path, _WATCHED)

    def attach(self, core: AgentCore, perform: Perform) -> None:
        """Who decides, and who carries that out."""
        self._core, self._perform = core, perform

    def fileno(self) -> int:
        """A descriptor that becomes readable when something has changed."""
        return int(self._inotify.fileno())

    # --- looking ------------------------------------------------------------------------------------

    def look_at_changes(self) -> None:
        """What inotify tells."""
        names = {event.name for event in self._inotify.read(timeout=0)}
        if "" in names:  # the queue of events has overflowed
            self.look_at_everything()
            return
        self._look_at_files(names)
        if END in names:
            self.look_at_everything()

    def look_at_everything(self) -> None:
        """The whole directory: also what inotify has not told, and what has gone."""
        ended = (self.path / END).exists()  # before the sizes: what was written before the end counts
        there = {path.name for path, _, _ in spool_files(self.path)}
        self._look_at_files(there)
        for name in self._core.files.keys() - there:
            self._perform(self._core.vanished(name))
        if ended:
            self._core.end()

    def _look_at_files(self, names: set[str]) -> None:
        """See `AgentCore.outputs_beside`."""
        for name in names:
            self._look_at_file(name)
        for name in names:
            for output in self._core.outputs_beside(name):
                self._look_at_file(output)

    def _look_at_file(self, name: str) -> None:
        with contextlib.suppress(OSError):  # a file that is written and renamed has gone by now
            found = os.stat(self.path / name, follow_symlinks=False)  # noqa: PTH116 - often
            file = self._core.files.get(name)
            before = file.size if file else 0
            self._perform(self._core.resize(name, found.st_size, found.st_ino))
            file = self._core.files.get(name)
            if file and file.size > before:
                self._grown_at[file.source] = time.monotonic()

    # --- reading and giving back --------------------------------------------------------------------

    def read(self, now: float) -> int:
        """Read what the core wants; the number of events found."""
        offered = 0
        for _ in range(_READS_AT_ONCE):
            wanted = self._core.next_read()
            if wanted is None:
                break
            before = sum(wanted.file.counts.values())
            try:
                self._read_one(wanted, now)
            except FileNotFoundError:
                self._perform(self._core.vanished(wanted.file.name))
            except OSError as error:
                self._perform(self._core.unreadable(wanted.file, str(error.strerror)))
            offered += max(0, sum(wanted.file.counts.values()) - before)
        return offered

    def _read_one(self, wanted: Read, now: float) -> None:
        file = wanted.file
        descriptor = os.open(self.path / file.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            seen = file.unverified
            if seen and not file.verify(os.pread(descriptor, seen.tail.length, seen.offset - seen.tail.length)):
                self._perform(self._core.replaced(file))
                return
            known = file.tail.length
            text = os.pread(descriptor, known + wanted.length, wanted.offset - known)
        finally:
            os.close(descriptor)
        if len(text) < known + wanted.length:  # it has been truncated just now
            self._look_at_file(file.name)
        elif not file.is_intact(text[:known]):
            self._perform(self._core.replaced(file))
        else:
            self._perform(self._core.take(file, text[known:], now))

    def save(self) -> None:
        """Write the checkpoint, then give back what lies before it."""
        if self._checkpoint.save(self._core.checkpoint()):
            self._core.checkpoint_written()
            self._free()

    def _free(self) -> None:
        for file, offset, length in self._core.to_free() if self._can_free else ():
            try:
                descriptor = os.open(self.path / file.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    if os.fstat(descriptor).st_ino != file.inode:
                        continue  # another file has taken its place just now, and has not been read
                    self._can_free = punch_hole(descriptor, offset, length)
                finally:
                    os.close(descriptor)
            except OSError:
                continue  # it has vanished just now, or the disk fails: it only costs room
            if not self._can_free:
                return
            file.freed = offset + length

    # --- room ---------------------------------------------------------------------------------------

    def adjust_pressure(self, now: float) -> None:
        """Tell writers what they may do."""
        if now >= self._attachments_at:
            self._attachments_at = now + LOOK_S
            self._attachment_bytes = self._look_at_attachments()
        disk = os.statvfs(self.path)
        free, whole = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        full = free < min(DISK_RESERVE_BYTES, whole // 4)
        pressure = self._core.pressure(self._attachment_bytes, can_free=self._can_free, disk_is_full=full)
        if pressure != self._pressure:
            with contextlib.suppress(OSError), (self.path / PRESSURE).open("r+b", buffering=0) as file:
                file.write(pressure)  # in place: writers have it mapped
                self._pressure = pressure

    def _look_at_attachments(self) -> int:
        """Their size; what was begun long ago and never finished is removed."""
        total, old = 0, time.time() - ATTACHMENT_PART_S
        with contextlib.suppress(OSError), os.scandir(self.path / ATTACHMENTS) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # renamed meanwhile by the rank that stores it
                    status = entry.stat(follow_symlinks=False)
                    total += status.st_size
                    if entry.name.startswith(".") and status.st_mtime < old:
                        os.unlink(entry.path)  # noqa: PTH108 - often
        return total

    def attachment_bytes(self, wanted: SendChunk) -> bytes | None:
        """A part of an attachment; None if there is no such file."""
        try:
            with (self.path / ATTACHMENTS / wanted.attachment.sha256).open("rb", buffering=0) as file:
                return os.pread(file.fileno(), wanted.length, wanted.offset)
        except OSError:
            return None

    def forget(self, attachment: Attachment) -> None:
        """Whoever named it is in the journal."""
        with contextlib.suppress(OSError):
            (self.path / ATTACHMENTS / attachment.sha256).unlink()

    # --- what the agent itself reports --------------------------------------------------------------

    def report(self, fields: dict[str, Any]) -> None:
        """To be written by `write_reports`."""
        self._reports.append(encode_record({**fields, "time": time.time(), "pid": os.getpid()}))

    def write_reports(self) -> None:
        """What does not fit on a full disk is tried again at the next round."""
        while self._reports:
            try:
                append(self._own, self._reports[0])
            except OSError:
                return
            self._reports.popleft()
            found = os.fstat(self._own)
            self._perform(self._core.written(found.st_size, found.st_ino))

    def quiet_s(self, source: Source) -> float:
        """For how long nothing of this source has grown, as far as we have looked."""
        now = time.monotonic()
        return now - self._grown_at.get(source, now)

    def write_usage(self, fields: dict[str, Any]) -> None:
        """Not while there is no room: it is worth less than what ranks report, and the next one tells as much."""
        if self._pressure != Pressure.FREE:
            return
        record = encode_record({"kind": "usage", "time": time.time(), "pid": os.getpid(), **fields})
        with contextlib.suppress(OSError):
            descriptor = open_append(self._usage)
            try:
                append(descriptor, record)
            finally:
                os.close(descriptor)

    def remove(self) -> None:
        """Everything in it is in the journal."""
        shutil.rmtree(self.path, ignore_errors=True)
