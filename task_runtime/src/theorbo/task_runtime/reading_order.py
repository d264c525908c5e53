"""In which order the files of a spool are read: sources take turns. Pure.

In its turn a rank's output is read before its records, so that the lines that led to a failure are delivered before
it; each file once, and as far as it was known when the turn began.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from theorbo.schemas.names import Source
from theorbo.task_runtime.spool_reader import SpoolFile


class Read(NamedTuple):
    """What is to be read next."""

    file: SpoolFile
    offset: int
    length: int


class ReadingOrder:
    """All files, by their sources."""

    def __init__(self) -> None:
        self._by_source: dict[Source, list[SpoolFile]] = {}  # a rank's output, then its records
        self._turns: list[Source] = []
        self._reads: list[Read] = []  # of the turn that has begun

    def add(self, file: SpoolFile) -> None:
        """One more file."""
        files = self._by_source.setdefault(file.source, [])
        if not files:
            self._turns.append(file.source)
        files.append(file)
        files.sort(key=lambda each: each.channel is None)

    def of(self, source: Source | None) -> Sequence[SpoolFile]:
        """The files of one source."""
        return self._by_source.get(source, ()) if source else ()

    def next_read(self) -> Read | None:
        """What to read next; None if there is nothing. To ask again changes nothing."""
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
