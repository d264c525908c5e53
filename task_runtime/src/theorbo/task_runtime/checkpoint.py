"""Where a second agent may start: a file of two halves, allocated in advance and written in turn.

An agent may be killed in mid-write, and the disk may be full, by the spool itself. So nothing is made anew here:
each half has a line with its number, checksum and length, then JSON; the valid half with the higher number counts.
What an agent must not forget lest it lose or double something is in here; what is older costs time alone.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from theorbo.schemas.limits import CHECKPOINT_BYTES
from theorbo.task_runtime.file_space import reserve

_LINE = "{:020d} {:010d} {:010d}\n"
_LINE_BYTES = len(_LINE.format(0, 0, 0))


class CheckpointFile:
    """The checkpoint of one spool. Raises OSError if the file cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._number = 0
        self._last = b""
        self._open()
        self.content: Any = self._load()
        """What was found, None if there was nothing that can be understood."""

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._descriptor).st_size
        self._half = max(CHECKPOINT_BYTES, size // 2)
        if size < 2 * self._half:
            reserve(self._descriptor, 2 * self._half)
            os.truncate(self._descriptor, 2 * self._half)

    def _load(self) -> Any:
        found = []
        for half in (0, 1):
            text = os.pread(self._descriptor, self._half, half * self._half)
            try:
                number, checksum, length = map(int, text[:_LINE_BYTES].split())
                body = text[_LINE_BYTES : _LINE_BYTES + length]
                if zlib.crc32(body) == checksum:
                    found.append((number, json.loads(body)))
            except ValueError:  # never written, or torn
                continue
        self._number, content = max(found, key=lambda pair: pair[0], default=(0, None))
        return content

    def save(self, content: Any) -> bool:
        """Whether it is written (or was already); False on a full disk, if it needs more room than there was."""
        body = json.dumps(content, separators=(",", ":")).encode()
        if body == self._last:
            return True
        try:
            if _LINE_BYTES + len(body) > self._half:
                self._grow(len(body))
            number = self._number + 1
            text = _LINE.format(number, zlib.crc32(body), len(body)).encode() + body
            if os.pwrite(self._descriptor, text, number % 2 * self._half) != len(text):
                return False
        except OSError:
            return False
        self._number, self._last = number, body  # not before: the other half is the one that is whole
        return True

    def _grow(self, length: int) -> None:
        """A larger file takes the place of this one, once it holds what this one says."""
        half = self._half
        while half < 2 * length:
            half *= 2
        temporary = self._path.with_name(f".{self._path.name}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            reserve(descriptor, 2 * half)
            os.truncate(descriptor, 2 * half)
            for place in (0, 1):
                os.pwrite(descriptor, os.pread(self._descriptor, self._half, place * self._half), place * half)
            temporary.rename(self._path)
        except OSError:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        os.close(self._descriptor)
        self._descriptor, self._half = descriptor, half
