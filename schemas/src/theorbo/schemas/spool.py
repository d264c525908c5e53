"""The spool: one directory per node and execution, in which everybody appends what they report.

Rules of the house:

1. The directory is the user's alone: `ROOT/theorbo-UID/EXECUTION/`, mode 0700, never through a symlink.
   One that belongs to somebody else, or that others may enter, is refused.
2. Files are only ever appended to, each record by one `write` to a descriptor opened with O_APPEND.
3. Names say who reports: `rank-3.rec` holds records, `rank-3.out` and `rank-3.err` what the program wrote
   to stdout and stderr; `launcher.rec`, `agent-0.rec` and `executor.rec` likewise. `agent-0.use` holds an agent's
   metrics: its own records are kept whole for its successor, and these come for ever.
4. Attachments are files of their own, `attachments/SHA256`, written under another name and renamed before
   the record that names them is appended.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING

from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.names import Channel, Source, SourceKind
from theorbo.schemas.records import Attachment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path  # at run time only where it is needed: every rank pays for what is imported here

ATTACHMENTS = "attachments"
CANCELLED = "cancelled"
"""One byte, mapped by those who want to know whether an end was asked for: see `Cancelled`."""
CHECKPOINT = "checkpoint"
"""What the agent's successor starts from; see `task_runtime.checkpoint`."""
EPOCH = "epoch"
"""How many agents have delivered this spool, and which file this is; see `take_epoch`."""
END = "end"
"""A file of this name tells the agent that the ranks and their launcher have ended."""
PRESSURE = "pressure"
"""One byte, mapped by writers: see `Pressure`."""
PYTHON = "python"
"""A directory for PYTHONPATH that holds the in-process part of Theorbo and nothing else."""

_SUFFIXES = {Channel.STDOUT: ".out", Channel.STDERR: ".err", Channel.METRICS: ".use", None: ".rec"}
_CHANNELS = {suffix[1:]: channel for channel, suffix in _SUFFIXES.items()}
_EPOCH = re.compile(rb"(\d{20}) (\d{20})\n")
_NAME = re.compile(r"(executor|launcher|agent|rank)(?:-(\d{1,9}))?\.(rec|out|err|use)")


class Pressure:
    """Values of the pressure byte: what writers of log, metrics and output, and of the rest, may do."""

    FREE = b"0"
    FULL = b"1"
    """Log lines and metrics are dropped and counted."""
    EXHAUSTED = b"2"
    """The reserve is used up as well: everything is dropped and counted."""


class Cancelled:
    """Values of the byte that tells the ranks of a node whether an end was asked for."""

    NO = b"0"
    YES = b"1"


def default_root() -> Path:
    """Where spools are made when the site has set nothing: the scheduler's node-local directory, else
    the temporary directory. Never /dev/shm by itself: it counts as the job's memory.
    """
    from pathlib import Path

    for name in ("THEORBO_SPOOL_ROOT", "SLURM_TMPDIR", "TMPDIR"):
        value = os.environ.get(name)
        if value and Path(value).is_dir():
            return Path(value)
    return Path("/tmp")  # noqa: S108 - a directory of our own is made below, and checked


def make_spool(root: Path, execution: str) -> Path:
    """Make, or find again, the spool of an execution below `root`.

    Raises Unavailable if a directory on the way is not ours alone, or cannot be made.
    """
    mine = root / f"theorbo-{os.getuid()}"
    spool = mine / execution
    for directory in (mine, spool, spool / ATTACHMENTS):
        own_directory(directory)
    try:
        _make(spool / PRESSURE, lambda _: Pressure.FREE)
        _make(spool / CANCELLED, lambda _: Cancelled.NO)
        _make(spool / EPOCH, lambda descriptor: _epoch_text(0, descriptor))
    except OSError as error:
        raise Unavailable(f"cannot write to {spool}: {error.strerror}") from None
    return spool


def _make(path: Path, content: Callable[[int], bytes]) -> None:
    """Make a small file that is updated in place from then on: a disk that fills up later does not matter to it."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, content(descriptor))
        finally:
            os.close(descriptor)


def tell_cancelled(spool: Path) -> None:
    """Tell the ranks that look (`task_runtime.cancellation`) that they are to end. For good: nothing takes it back."""
    with contextlib.suppress(OSError):
        descriptor = os.open(spool / CANCELLED, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, Cancelled.YES, 0)  # in place: they have it mapped
        finally:
            os.close(descriptor)


def take_epoch(spool: Path, least: int = 1) -> int:
    """The epoch of the agent that is about to deliver this spool: one more than its predecessor's, on disk.

    To be called under the agent's lock. `least` is what the agent's own records demand, should the file be missing.
    The file also states its own inode: in a copy of the spool it differs. Two agents that deliver the same records
    from two places would fence each other off, and number what is appended to either alike.

    Raises Unavailable if this spool is a copy, or the disk fails.
    """
    path = spool / EPOCH
    try:
        _make(path, lambda descriptor: _epoch_text(least - 1, descriptor))
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = _EPOCH.match(os.pread(descriptor, 64, 0))
            former, inode = map(int, found.groups()) if found else (least - 1, 0)
            if inode not in (0, os.fstat(descriptor).st_ino):
                raise Unavailable(
                    f"{spool} is a copy of a spool (its file {EPOCH!r} is another one than it says): "
                    "deliver the original by theorbo agent --spool, and remove the copy"
                )
            epoch = max(former + 1, least)
            os.pwrite(descriptor, _epoch_text(epoch, descriptor), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unavailable(f"cannot take over {spool}: its file {EPOCH!r}: {error.strerror}") from None
    return epoch


def _epoch_text(epoch: int, descriptor: int) -> bytes:
    """Of a fixed width, so that it is overwritten in place."""
    return b"%020d %020d\n" % (epoch, os.fstat(descriptor).st_ino)


def own_directory(directory: Path) -> None:
    """Make `directory` with mode 0700, or check that the one which is there is ours alone.

    Raises Unavailable, naming the directory and what is wrong with it.
    """
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
    except OSError as error:
        raise Unavailable(
            f"cannot make directory {directory}: {error.strerror}; name another place (--spool-root)"
        ) from None
    wrong = None
    if not stat.S_ISDIR(found.st_mode):
        wrong = "is no directory"
    elif found.st_uid != os.getuid():
        wrong = f"belongs to uid {found.st_uid}, not to uid {os.getuid()}"
    elif found.st_mode & 0o077:
        wrong = f"has mode {stat.S_IMODE(found.st_mode):04o}, expected 0700"
    if wrong:
        raise Unavailable(f"{directory} {wrong}; remove it or name another place (--spool-root)")


def spool_name(source: Source, channel: Channel | None = None) -> str:
    """The file in which `source` leaves records, or what it wrote to stdout or stderr."""
    kind = source.kind.name.lower()
    numbered = source.kind in (SourceKind.RANK, SourceKind.AGENT)
    return (f"{kind}-{source.index}" if numbered else kind) + _SUFFIXES[channel]


def parse_spool_name(name: str) -> tuple[Source, Channel | None] | None:
    """The inverse of `spool_name`, or None for other files."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    source = Source(SourceKind[match.group(1).upper()], int(match.group(2) or 0))
    channel = _CHANNELS[match.group(3)]
    return None if channel is Channel.METRICS and source.kind is not SourceKind.AGENT else (source, channel)


def open_append(path: Path | str) -> int:
    """A descriptor that appends to `path`, made if it is not there. Not inherited by children."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def append(descriptor: int, record: bytes) -> None:
    """Append a record by one write. After a short write (a full disk) the whole record is appended again
    once; the torn one is skipped by the reader.

    Raises OSError if it cannot be appended; the record has then not been reported.
    """
    written = os.write(descriptor, record)
    if written != len(record) and os.write(descriptor, record) != len(record):
        raise OSError(28, "No space left on device")


def store_attachment(spool: Path, payload: bytes) -> Attachment:
    """Leave `payload` in the spool, to be named by a record afterwards. Raises OSError."""
    import hashlib  # loads OpenSSL (3 MB, 2 ms), which most ranks and no thin parent ever need

    digest = hashlib.sha256(payload).hexdigest()
    place = spool / ATTACHMENTS / digest
    temporary = place.with_name(f".{digest}.{os.getpid()}.{os.urandom(8).hex()}")  # threads may store the same bytes
    try:
        with temporary.open("xb") as file:
            file.write(payload)
        temporary.rename(place)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return Attachment(digest, len(payload))


def spool_files(spool: Path) -> Iterator[tuple[Path, Source, Channel | None]]:
    """The files of a spool in which somebody reports, in the order of their names."""
    from pathlib import Path

    for entry in sorted(os.scandir(spool), key=lambda entry: entry.name):
        parsed = parse_spool_name(entry.name)
        if parsed and entry.is_file(follow_symlinks=False):
            yield Path(entry.path), *parsed


def checked_execution(text: str) -> bytes:
    """The 16 bytes of an execution's id (a UUID in any usual spelling). Raises UsageError."""
    digits = text.replace("-", "").lower()
    if not re.fullmatch("[0-9a-f]{32}", digits):
        raise UsageError(f"{text!r} is no execution id: 32 hexadecimal digits are wanted (see theorbo ps --all)")
    return bytes.fromhex(digits)
