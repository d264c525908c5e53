"""The FIFO on which thin parents tell `theorbo launch` what becomes of their ranks; see `wrapper.RANKS_PIPE`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from theorbo.task_runtime.wrapper import RANKS_PIPE


class Said(NamedTuple):
    """What could be read at once."""

    lines: list[str]
    all_gone: bool
    """Whether no thin parent has it open any more, for the moment."""


class RanksPipe:
    """The reading end. Its descriptor changes: a FIFO that its last writer has closed would be readable for ever."""

    def __init__(self, spool: Path) -> None:
        """Make it. Raises OSError."""
        self._path = spool / RANKS_PIPE
        os.mkfifo(self._path, 0o600)
        self._text = b""
        self.descriptor = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self) -> Said:
        """All complete lines. If all have gone, the descriptor is another one from now on."""
        lines: list[bytes] = []
        all_gone = False
        while not all_gone:
            try:
                text = os.read(self.descriptor, 65536)
            except BlockingIOError:
                break
            *more, self._text = (self._text + text).split(b"\n")
            lines += more
            if not text:
                all_gone, former = True, self.descriptor
                self.descriptor = self._open()  # first, for without any reader a thin parent cannot open it
                os.close(former)
        return Said([line.decode(errors="replace") for line in lines], all_gone)
