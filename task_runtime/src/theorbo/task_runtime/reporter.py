"""The sink on a bus: appends records to this rank's file in the spool.

Thread-safe and fork-safe without locks on the way of a record: each is one `write` to a descriptor opened
with O_APPEND, which children may share. Only what is lost is counted under a lock.

Lost (and counted) is what the disk refuses, and what the agent asks writers to drop by the pressure byte,
because the spool has reached its bound. The count is reported as `loss`, a signal, as soon as a record gets
through, and when the process ends; while log lines are dropped but signals still have room, it is told in
growing portions (1, 2, 4, 8 …), so that a process that is killed has told half of it at least. What even then
has no room in the rank's file is told to `theorbo launch`, which has room of its own.
"""

from __future__ import annotations

import atexit
import mmap
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from theorbo.schemas.limits import ATTACHMENT_BYTES, BEGINNING_CHARACTERS, INLINE_BYTES, RECORD_BYTES
from theorbo.schemas.names import KIND_CHANNELS, Channel, Source, SourceKind
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import PRESSURE, Pressure, append, open_append, spool_name, store_attachment

if TYPE_CHECKING:
    from theorbo.schemas.records import Attachment

_VITAL_KINDS = frozenset(k for k, channel in KIND_CHANNELS.items() if channel in (Channel.SIGNALS, Channel.RESULTS))
_FULL = "the spool has reached its bound"


class Reporter:
    """Reports of one rank, from as many threads and children as it has."""

    on_bus = True

    def __init__(self, spool: str, rank: int) -> None:
        """Raises OSError if the rank's file in the directory `spool` cannot be opened."""
        self._spool = spool
        self._source = Source(SourceKind.RANK, rank)
        self._path = os.path.join(spool, spool_name(self._source))  # noqa: PTH118 - pathlib costs its import
        self._open()
        self._pressure = _map_pressure(spool)
        self._begin_counting()
        os.register_at_fork(after_in_child=self._begin_counting)

    def _begin_counting(self) -> None:
        """In a forked child too: what its parent has lost is its parent's to tell."""
        self._lock = threading.RLock()  # re-entered by a signal handler that reports
        self._lost: dict[tuple[str, str], int] = {}
        self._untold = 0
        self._tell_at = 1
        self._told_at_exit = False

    def send(self, fields: dict[str, Any]) -> bool:
        """Append a report, `kind` first; False if it was dropped, and counted as lost."""
        kind = fields["kind"]
        pressure = self._pressure[:1]
        if pressure != Pressure.FREE and (pressure == Pressure.EXHAUSTED or kind not in _VITAL_KINDS):
            self._lose(kind, _FULL)
            if pressure == Pressure.FULL and self._untold >= self._tell_at:
                self._tell_at *= 2
                self.tell_losses()
            return False
        record = encode_record(fields)
        if len(record) > INLINE_BYTES:
            record = self._fitting(fields, record)
        try:
            self._append(record)
        except OSError as error:
            self._lose(kind, error.strerror or repr(error))
            return False
        if self._untold:
            self.tell_losses()
        return True

    def store(self, payload: bytes) -> Attachment:
        """Leave an attachment in the spool. Raises OSError."""
        from pathlib import Path

        if self._pressure[:1] == Pressure.EXHAUSTED:
            raise OSError(28, _FULL)
        return store_attachment(Path(self._spool), payload)

    def tell_losses(self) -> None:
        """Report what was lost since it was last told; what cannot be told stays counted."""
        with self._lock:
            lost, self._lost, self._untold = self._lost, {}, 0
            for (stream, why), count in lost.items():
                fields = {
                    "kind": "loss",
                    "time": time.time(),
                    "pid": os.getpid(),
                    "stream": stream,
                    "count": count,
                    "detail": f"dropped by the rank: {why}",
                }
                try:
                    self._append(encode_record(fields))
                except OSError:
                    self._lost[stream, why] = self._lost.get((stream, why), 0) + count
                    self._untold += count

    def _lose(self, kind: str, why: str) -> None:
        stream = f"{self._source}/{KIND_CHANNELS[kind].text}"
        with self._lock:
            self._lost[stream, why] = self._lost.get((stream, why), 0) + 1
            self._untold += 1
            if not self._told_at_exit:
                self._told_at_exit = True
                self._tell_at_exit()

    def _tell_at_exit(self) -> None:
        atexit.register(self._tell_last)
        # A child that multiprocessing has forked ends by os._exit, but runs these.
        multiprocessing_util = sys.modules.get("multiprocessing.util")
        if multiprocessing_util is not None:
            multiprocessing_util.Finalize(None, self._tell_last, exitpriority=0)

    def _tell_last(self) -> None:
        """What has no room in our file goes through the pipe of the thin parents; see `wrapper.RANKS_PIPE`."""
        self.tell_losses()
        if not self._untold:
            return
        from theorbo.task_runtime.wrapper import RANKS_PIPE

        try:
            pipe = os.open(os.path.join(self._spool, RANKS_PIPE), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # noqa: PTH118
        except OSError:
            return  # the launch has died, or never was
        try:
            with self._lock:
                for (stream, why), count in list(self._lost.items()):
                    os.write(pipe, f"lost {stream} {count} {why}\n".encode())
                    del self._lost[stream, why]
                    self._untold -= count
        except OSError:
            return
        finally:
            os.close(pipe)

    def _open(self) -> None:
        self._descriptor = open_append(self._path)
        self._file = _identity(self._descriptor)

    def _append(self, record: bytes) -> None:
        # A program that closes all it does not know closes ours too; the number may be a file of its own by now.
        if _identity(self._descriptor) != self._file:
            self._open()
        append(self._descriptor, record)

    def _fitting(self, fields: dict[str, Any], record: bytes) -> bytes:
        """The record of `fields` in a size that may be sent: long texts leave it, other contents are given up."""
        if fields["kind"] == "log":
            return encode_record(self._with_whole_text_attached(fields))
        if len(record) <= RECORD_BYTES:
            return record
        problem = f"the description of all parts has {len(record)} bytes, more than {RECORD_BYTES}; send fewer parts"
        rest = {key: value for key, value in fields.items() if key not in ("parts", "attachments")}
        return encode_record({**rest, "parts": [{"mime": "application/json", "problem": problem}]})

    def _with_whole_text_attached(self, fields: dict[str, Any]) -> dict[str, Any]:
        whole = fields["text"].encode("utf-8", "backslashreplace")
        shown = fields["text"][:BEGINNING_CHARACTERS]
        try:
            if len(whole) > ATTACHMENT_BYTES:
                return {**fields, "text": f"{shown}… [{len(whole)} bytes, more than {ATTACHMENT_BYTES}: not sent]"}
            attachments = [self.store(whole)._asdict()]
        except OSError as error:
            return {**fields, "text": f"{shown}… [{len(whole)} bytes, not stored: {error.strerror}]"}
        return {**fields, "text": f"{shown}… [{len(whole)} bytes]", "attachments": attachments}


def _map_pressure(spool: str) -> mmap.mmap | bytes:
    """The pressure byte, mapped, so that looking at it costs no system call; free for ever if there is none."""
    try:
        descriptor = os.open(os.path.join(spool, PRESSURE), os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH118
    except OSError:
        return Pressure.FREE
    try:
        return mmap.mmap(descriptor, 1, mmap.MAP_SHARED, mmap.PROT_READ)
    except (OSError, ValueError):
        return Pressure.FREE
    finally:
        os.close(descriptor)


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Which file a descriptor is, or None if it is none."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
