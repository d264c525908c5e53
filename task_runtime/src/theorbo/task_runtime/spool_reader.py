"""One file of the spool as the agent reads it: what has been read, numbered, acknowledged, given back. Pure.

Rules:

1. A record or line carries no number. Its number is its place among those of its channel in the file, so
   that a second agent which starts at a *mark* (an offset with the counts there) numbers everything alike.
2. A mark is made at the end of each reading. It is *settled* once the broker has acknowledged all numbers up
   to its counts. The last settled mark is the checkpoint of the file; what lies before it may be freed.
3. A file that has become smaller was truncated by its program (`> /dev/stderr` in a shell script does that).
   Reading goes on from its beginning, with the counts so far, but only once everything read before is
   settled and the checkpoint that says so is written: until then a second agent would number what follows
   like what is in the journal already, and the broker would drop it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from theorbo.schemas.limits import OUTPUT_READ_BYTES, PUNCH_BYTES, READ_BYTES
from theorbo.schemas.names import Channel, Source
from theorbo.schemas.records import Attachment, Damage, LineReader, Piece, RecordReader


class Mark(NamedTuple):
    """An offset in a file, and how many events of each channel lie before it."""

    offset: int
    counts: dict[Channel, int]
    attachments: tuple[Attachment, ...] = ()
    """Those named between the mark before and this one."""


BEGINNING = Mark(0, {})


class SpoolFile:
    """One file, such as `rank-3.rec`, `rank-3.out` or `agent-0.rec`."""

    def __init__(self, name: str, source: Source, channel: Channel | None, settled: Mark = BEGINNING) -> None:
        self.name = name
        self.source = source
        self.channel = channel
        """STDOUT or STDERR; None where the file holds records."""
        self.size = settled.offset
        """Its size when last looked at."""
        self.settled = settled
        self.freed = 0
        """Everything before this offset has been given back to the file system."""
        self.finished = False
        self.counts = dict(settled.counts)
        self._marks: deque[Mark] = deque()
        self._start_over = False
        self._saved_counts = settled.counts
        self.wants_checkpoint = False
        """Whether nothing more is read before the checkpoint is written."""
        self._reader = self._new_reader(settled.offset)

    def _new_reader(self, offset: int) -> RecordReader | LineReader:
        return RecordReader(offset) if self.channel is None else LineReader(self.channel, offset)

    @property
    def offset(self) -> int:
        """Where to read next."""
        return self._reader.next_read

    @property
    def unread(self) -> int:
        """How many bytes may be read next, in one go."""
        if self.finished or self._start_over or self.wants_checkpoint:
            return 0
        limit = READ_BYTES if self.channel is None else OUTPUT_READ_BYTES
        return min(max(0, self.size - self._reader.next_read), limit)

    @property
    def read_to_end(self) -> bool:
        """Whether everything there was when last looked at has been read."""
        return not self._start_over and not self.wants_checkpoint and self._reader.next_read >= self.size

    @property
    def is_settled(self) -> bool:
        """Whether everything that has been read is acknowledged."""
        return not self._marks

    def resize(self, size: int) -> Damage | None:
        """Take note of the present size. Tells what is lost if the file has shrunk."""
        before, self.size = self.size, size
        if size >= before or self.finished or self._start_over:
            return None
        damage = Damage(size, before, f"{self.name} was truncated by its program; what had not been read is lost")
        self._start_over = True
        self._maybe_start_over()
        return damage

    def take(self, chunk: bytes, now: float, *, final: bool = False) -> tuple[list[Piece], list[Damage]]:
        """What is found in the bytes from `offset` on. The pieces are to be offered in order, then `mark` called."""
        if isinstance(self._reader, RecordReader):
            found = self._reader.feed(chunk, final=final)
        else:
            found = self._reader.feed(chunk, now, final=final), []
        self.finished = self.finished or final
        return found

    def mark(self, attachments: tuple[Attachment, ...] = ()) -> None:
        """Everything taken so far has been numbered (see `counts`) and offered."""
        last = self._marks[-1] if self._marks else self.settled
        if self._reader.offset != last.offset or attachments:
            self._marks.append(Mark(self._reader.offset, dict(self.counts), attachments))

    def settle(self, acknowledged: Callable[[Channel], int]) -> list[Attachment]:
        """Move the checkpoint on, given the last acknowledged number of each channel.

        Tells which attachments are no longer needed.
        """
        done: list[Attachment] = []
        while self._marks and all(acknowledged(channel) >= n for channel, n in self._marks[0].counts.items()):
            self.settled = self._marks.popleft()
            done += self.settled.attachments
        self._maybe_start_over()
        return done

    def names(self, attachment: Attachment) -> bool:
        """Whether a record that has been read and is not acknowledged names it."""
        return any(attachment in mark.attachments for mark in self._marks)

    def _maybe_start_over(self) -> None:
        if self._start_over and not self._marks:
            self._start_over = False
            self.settled = Mark(0, dict(self.counts))
            self.wants_checkpoint = self._saved_counts != self.counts
            self.freed = 0
            self._reader = self._new_reader(0)

    def to_free(self) -> tuple[int, int] | None:
        """Offset and length of what may be given back to the file system now."""
        end = self.settled.offset - self.settled.offset % PUNCH_BYTES
        return (self.freed, end - self.freed) if end > self.freed else None

    def checkpoint(self) -> dict[str, Any]:
        """The last settled mark, for the checkpoint file."""
        counts = {channel.text: count for channel, count in self.settled.counts.items()}
        return {"offset": self.settled.offset, "counts": counts}

    def checkpoint_written(self) -> None:
        """The checkpoint file says what `checkpoint` says now."""
        self._saved_counts = self.settled.counts
        self.wants_checkpoint = False


def parse_checkpoint(fields: Any) -> Mark:
    """The inverse of `SpoolFile.checkpoint`. Raises ValueError, TypeError, KeyError or AttributeError."""
    counts = {Channel[name.upper()]: int(count) for name, count in fields["counts"].items()}
    return Mark(int(fields["offset"]), counts)
