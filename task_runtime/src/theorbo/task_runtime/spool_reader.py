"""One file of the spool as the agent reads it: what has been read, numbered, acknowledged, given back. Pure.

Rules:

1. A record or line carries no number. Its number is its place among those of its channel in the file, so
   that a second agent which starts at a *mark* (an offset with the counts there) numbers everything alike.
2. A mark is made at the end of each reading. It is *settled* once the broker has acknowledged all numbers up
   to its counts. The last settled mark is in the checkpoint.
3. What lies before the *kept* mark, an older settled one, may be given back to the file system. Should the broker
   come back with an older journal, reading begins again there. It is in the checkpoint as well.
4. A mark knows the last bytes before it. Before the file is read on, and by a second agent, they are compared: a
   program that has truncated its output and written as much again is seen, like a file that is another one (inode)
   or has become smaller (`> /dev/stderr` in a shell script does that). For what is read first there is no mark yet: it
   is *seen*, and nothing of it is sent before the checkpoint says so.
5. Then the file *starts over*: it is read from its beginning, with the counts so far, but only once everything read
   before is settled and the checkpoint that says so is written: until then a second agent would number what follows
   like what is in the journal already, and the broker would drop it.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from theorbo.schemas.limits import OUTPUT_READ_BYTES, PUNCH_BYTES, READ_BYTES, RECORD_BYTES, TAIL_BYTES
from theorbo.schemas.names import Channel, Source, SourceKind
from theorbo.schemas.records import Attachment, Damage, LineReader, Piece, RecordReader

RECORD_CHANNELS = (Channel.SIGNALS, Channel.LOG, Channel.METRICS, Channel.RESULTS)
OUTPUT_CHANNELS = (Channel.STDOUT, Channel.STDERR)

_BLOCK_BYTES = 4096  # file systems give back whole blocks


class Tail(NamedTuple):
    """The last bytes before an offset: how many, and their CRC-32."""

    length: int = 0
    checksum: int = 0

    @classmethod
    def of(cls, text: bytes) -> Tail:
        """The tail of what has been read."""
        last = text[-TAIL_BYTES:]
        return cls(len(last), zlib.crc32(last))


class Mark(NamedTuple):
    """An offset in a file, and how many events of each channel lie before it."""

    offset: int
    counts: dict[Channel, int]
    attachments: tuple[Attachment, ...] = ()
    """Those named between the mark before and this one."""
    tail: Tail = Tail()


BEGINNING = Mark(0, {})


class Seen(NamedTuple):
    """An offset, and what stood before it when that was read."""

    offset: int = 0
    tail: Tail = Tail()


class Saved(NamedTuple):
    """What a checkpoint says of a file."""

    settled: Mark = BEGINNING
    kept: Mark = BEGINNING
    seen: Seen = Seen()
    inode: int = 0


class SpoolFile:
    """One file, such as `rank-3.rec`, `rank-3.out` or `agent-0.rec`."""

    def __init__(self, name: str, source: Source, channel: Channel | None, saved: Saved | None = None) -> None:
        """`saved`: what an agent before has left of it in its checkpoint."""
        self.name = name
        self.source = source
        self.channel = channel
        """STDOUT or STDERR; METRICS where the file holds records of that channel alone; None where it holds records."""
        saved = saved or Saved()
        self.inode = saved.inode
        """Which file this is; 0: not known yet."""
        self.size = max(saved.settled.offset, saved.seen.offset)
        """Its size when last looked at."""
        self.kept = saved.kept
        self.freed = 0
        """Everything before this offset has been given back to the file system."""
        self._start_over = False
        self.numbers_asked = False
        """Whether, before it starts over, the broker was asked which numbers an earlier agent has used."""
        self._saved = saved.settled
        self._seen = self._saved_seen = saved.seen
        self.unverified: Seen | None = None if saved.settled.offset else saved.seen
        """What an agent before has seen, and is to be compared before anything is read."""
        self.wants_checkpoint = False
        """Whether nothing more is read before the checkpoint is written."""
        self.rewind(saved.settled)

    def rewind(self, mark: Mark) -> None:
        """Read again from a settled mark on."""
        self.settled = mark
        self.counts = dict(mark.counts)
        self.finished = False
        self._marks: deque[Mark] = deque()
        self._recent = b""  # what was read last: the bytes not returned, and the tail before them
        self.tail = mark.tail
        """Of what has been read, at `offset`."""
        lines = self.channel if self.channel in OUTPUT_CHANNELS else None
        self._reader = RecordReader(mark.offset) if lines is None else LineReader(lines, mark.offset)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Those on which the file's content travels."""
        if self.channel is not None:
            return (self.channel,)
        # An agent's metrics are in a file of their own.
        is_agent = self.source.kind is SourceKind.AGENT
        return tuple(c for c in RECORD_CHANNELS if not (is_agent and c is Channel.METRICS))

    @property
    def offset(self) -> int:
        """Where to read next."""
        return self._reader.next_read

    @property
    def unread(self) -> int:
        """How many bytes may be read next, in one go."""
        if self.finished or self._start_over or self.wants_checkpoint:
            return 0
        limit = OUTPUT_READ_BYTES if self.channel in OUTPUT_CHANNELS else READ_BYTES
        return min(max(0, self.size - self._reader.next_read), limit)

    @property
    def read_to_end(self) -> bool:
        """Whether everything there was when last looked at has been read."""
        return not self._start_over and not self.wants_checkpoint and self._reader.next_read >= self.size

    @property
    def is_settled(self) -> bool:
        """Whether everything that has been read is acknowledged."""
        return not self._marks

    def resize(self, size: int, inode: int = 0) -> Damage | None:
        """Take note of the present size, and of which file it is. Tells what is lost if it is not what it was."""
        before, self.size = self.size, size
        another = bool(inode and self.inode and inode != self.inode)
        self.inode = inode or self.inode
        if another:
            return self.replaced(f"{self.name} was replaced by another file; what had not been read is lost", size)
        if size < before:
            return self.replaced(
                f"{self.name} was truncated by its program; what had not been read is lost", size, before
            )
        return None

    def replaced(self, why: str, start: int = 0, end: int = 0) -> Damage | None:
        """It does not hold any more what was read: it starts over. None if that is known already."""
        if self._start_over or self.finished:
            return None
        self._start_over = True
        return Damage(start, max(start, end), why)

    def is_intact(self, tail: bytes) -> bool:
        """Whether the bytes before `offset` (as many as `self.tail` says) are those that were read."""
        return Tail.of(tail) == self.tail

    def verify(self, tail: bytes) -> bool:
        """Whether the bytes before the offset in `unverified` are those that were seen there."""
        if self.unverified is None or Tail.of(tail) == self.unverified.tail:
            self.unverified = None
            return True
        return False

    def take(self, chunk: bytes, now: float, *, final: bool = False) -> tuple[list[Piece], list[Damage]]:
        """What is found in the bytes from `offset` on. The pieces are to be offered in order, then `mark` called."""
        if isinstance(self._reader, RecordReader):
            found = self._reader.feed(chunk, final=final)
        else:
            found = self._reader.feed(chunk, now, final=final), []
        if chunk:
            self._recent = (self._recent + chunk)[-(RECORD_BYTES + READ_BYTES) :]
            self.tail = Tail.of(self._recent)
            if not self._seen.offset:
                self._seen = Seen(self._reader.next_read, self.tail)
        self.finished = self.finished or final
        return found

    def mark(self, attachments: tuple[Attachment, ...] = ()) -> None:
        """Everything taken so far has been numbered (see `counts`) and offered."""
        last = self._marks[-1] if self._marks else self.settled
        if self._reader.offset != last.offset or attachments:
            pending = self._reader.next_read - self._reader.offset
            tail = Tail.of(self._recent[: len(self._recent) - pending] if pending else self._recent)
            self._recent = self._recent[-(TAIL_BYTES + pending) :]
            self._marks.append(Mark(self._reader.offset, dict(self.counts), attachments, tail))

    def settle(self, acknowledged: Callable[[Channel], int]) -> list[Attachment]:
        """Move the checkpoint on, given the last acknowledged number of each channel.

        Tells which attachments are no longer needed.
        """
        done: list[Attachment] = []
        while self._marks and all(acknowledged(channel) >= n for channel, n in self._marks[0].counts.items()):
            self.settled = self._marks.popleft()
            done += self.settled.attachments
        if self.settled.offset - self.kept.offset >= PUNCH_BYTES:
            self.kept = self.settled
        return done

    def names(self, attachment: Attachment) -> bool:
        """Whether a record that has been read and is not acknowledged names it."""
        return any(attachment in mark.attachments for mark in self._marks)

    @property
    def starts_over(self) -> bool:
        """Whether it is to be read from its beginning, and `start_over` may be called."""
        return self._start_over and not self._marks

    def start_over(self, counts: dict[Channel, int]) -> None:
        """Read from the beginning; numbers go on after `counts`."""
        self._start_over = False
        self.kept = Mark(0, dict(counts))
        self.rewind(self.kept)
        self.freed = 0
        self._seen, self.unverified = Seen(), None
        self.wants_checkpoint = self._saved.counts != counts or self._saved.offset != 0

    def to_free(self) -> tuple[int, int] | None:
        """Offset and length of what may be given back to the file system now."""
        end = max(0, self.kept.offset - TAIL_BYTES) // _BLOCK_BYTES * _BLOCK_BYTES
        return (self.freed, end - self.freed) if end > self.freed else None

    @property
    def begins(self) -> bool:
        """Whether the checkpoint knows nothing of the file's content yet, and now could."""
        return self._seen.offset > 0 == self._saved_seen.offset

    def checkpoint(self) -> dict[str, Any]:
        """For the checkpoint file; `parse_checkpoint` is the inverse."""
        settled, kept = _mark_fields(self.settled), _mark_fields(self.kept)
        return {"settled": settled, "kept": kept, "seen": [self._seen.offset, *self._seen.tail], "inode": self.inode}

    def checkpoint_written(self) -> None:
        """The checkpoint file says what `checkpoint` says now."""
        self._saved, self._saved_seen = self.settled, self._seen
        self.wants_checkpoint = False


def _mark_fields(mark: Mark) -> list[Any]:
    return [mark.offset, {channel.text: count for channel, count in mark.counts.items()}, *mark.tail]


def parse_checkpoint(fields: Any) -> Saved:
    """The inverse of `SpoolFile.checkpoint`. Raises ValueError, TypeError, KeyError or AttributeError."""
    offset, length, checksum = map(int, fields["seen"])
    seen = Seen(offset, Tail(length, checksum))
    return Saved(_parse_mark(fields["settled"]), _parse_mark(fields["kept"]), seen, int(fields["inode"]))


def _parse_mark(fields: Any) -> Mark:
    offset, counts, length, checksum = fields
    counted = {Channel[name.upper()]: int(count) for name, count in counts.items()}
    return Mark(int(offset), counted, (), Tail(int(length), int(checksum)))
