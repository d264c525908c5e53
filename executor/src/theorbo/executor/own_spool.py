"""The Executor's own spool on disk, `ROOT/theorbo-UID/EXECUTION-executor/`, of one process at a time. A skin."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections import deque
from pathlib import Path

from theorbo.schemas.errors import Unavailable
from theorbo.schemas.names import EXECUTOR
from theorbo.schemas.records import RecordReader
from theorbo.schemas.spool import append, make_spool, open_append, spool_name


class Held(Unavailable):
    """Another process has the spool open."""

    def __init__(self, directory: Path, pid: int) -> None:
        self.pid = pid
        """0 if it cannot be found out."""
        self.stopped = pid > 0 and _state(pid) in ("T", "t")
        """Whether it was stopped by a signal, and so will not let go."""
        self.who = f"pid {pid}" if pid else "another process"
        super().__init__(f"{self.who} on this machine holds the Executor's spool {directory}")


def spool_directory(root: Path, execution: str) -> Path:
    """Where the Executor's spool of an execution lies, if there is one."""
    return root / f"theorbo-{os.getuid()}" / f"{execution}-executor"


class OwnSpool:
    """One process's alone, until `close`. What cannot be written is kept, and written before anything else."""

    def __init__(self, root: Path, execution: str, *, wait_s: float = 0.0) -> None:
        """Make it or find it again, waiting so long for another process to let go of it.

        Raises Unavailable; if somebody else has it still, that is `Held`.
        """
        self.directory = spool_directory(root, execution)
        self._unwritten: deque[bytes] = deque()
        self.problem = ""
        """Why the last record could not be written; empty if it was."""
        deadline = time.monotonic() + wait_s
        while not self._open(root, max(0.0, deadline - time.monotonic())):
            pass  # whoever let go has removed it: it is made anew

    def _open(self, root: Path, wait_s: float) -> bool:
        try:
            path = make_spool(root, self.directory.name) / spool_name(EXECUTOR)
            descriptor = open_append(path)
        except Unavailable as error:
            if isinstance(error.__context__, FileNotFoundError) and self.directory.parent.is_dir():
                return False  # whoever let go is removing it just now
            raise
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unavailable(f"cannot write to {self.directory}: {error.strerror}") from None
        if not _locked(descriptor, wait_s):
            raise Held(self.directory, _holder(path))
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                self._descriptor = descriptor
                return True
        os.close(descriptor)
        return False

    def records(self) -> list[bytes]:
        """What is in it. A record that was torn when its writer was killed has never been reported."""
        pieces, _ = RecordReader().feed((self.directory / spool_name(EXECUTOR)).read_bytes(), final=True)
        return [piece.record for piece in pieces]

    def append(self, record: bytes) -> bool:
        """Write a record; False if it is kept in memory, for the disk does not take it."""
        self._unwritten.append(record)
        return self.flush()

    def flush(self) -> bool:
        """Try again to write what could not be written; whether nothing is left."""
        try:
            while self._unwritten:
                append(self._descriptor, self._unwritten[0])
                self._unwritten.popleft()
            self.problem = ""
        except OSError as error:
            self.problem = error.strerror or str(error)
        return not self._unwritten

    def clear(self) -> None:
        """Remove all records."""
        os.ftruncate(self._descriptor, 0)

    def close(self, *, remove: bool) -> None:
        """Let go of it; remove it first if nobody needs it any more."""
        if remove:
            shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._descriptor)


def _locked(descriptor: int, wait_s: float) -> bool:
    """Lock an open file, waiting so long for another process; if that was too short, the file is closed."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    if wait_s <= 0:
        os.close(descriptor)
        return False
    decided, got, given_up = threading.Lock(), threading.Event(), threading.Event()

    def wait() -> None:  # flock knows no time-out, hence a thread
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with decided:
            if given_up.is_set():
                os.close(descriptor)
            else:
                got.set()

    threading.Thread(target=wait, name="theorbo spool", daemon=True).start()
    got.wait(wait_s)
    with decided:
        if not got.is_set():
            given_up.set()
    return got.is_set()


def _holder(path: Path) -> int:
    """The process that has the file locked, 0 if it cannot be found out."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()  # 1: FLOCK ADVISORY WRITE 4711 08:01:131077 0 EOF
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
                return max(0, int(fields[4]))
    return 0


def _state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
