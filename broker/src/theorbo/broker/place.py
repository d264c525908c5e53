"""The state directory: whether a journal may lie there, and the lock that lets one broker use it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import socket
import stat
import tempfile
from pathlib import Path

from theorbo.schemas.errors import Unavailable
from theorbo.schemas.file_systems import NETWORK_FILE_SYSTEMS, file_system

LOCK = "broker.lock"

_SOCKET_DIRECTORY_BYTES = 95
"""Room for `/publisher` within the 107 bytes that a Unix socket's path may have."""


class AlreadyRunning(Unavailable):
    """Another broker uses the state directory."""

    def __init__(self, message: str, *, pid: int, embedded: bool) -> None:
        super().__init__(message)
        self.pid = pid
        """Of the other one; 0 if it is not known yet."""
        self.embedded = embedded


def raise_descriptor_limit() -> int:
    """As many descriptors as the system lets us have, for each connection takes one; returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # a system that does not let us: it stays as it was
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def prepare(directory: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
    """Make the state directory. Raises Unavailable if it cannot be one, before anything is written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        kind = file_system(directory, mountinfo)
    except OSError as error:
        raise Unavailable(
            f"cannot make state directory {directory}: {error.strerror}; name another one (--state)"
        ) from None
    if kind in NETWORK_FILE_SYSTEMS:
        raise Unavailable(
            f"state directory {directory} is on a network file system ({kind}), where a journal is not safe; "
            "name a directory on a local disk (--state, or THEORBO_STATE)"
        )


class Lock:
    """Held by the one broker of a state directory, until it ends in whatever way."""

    def __init__(self, directory: Path, *, embedded: bool) -> None:
        """Take the lock. Raises AlreadyRunning, naming who has it, or Unavailable."""
        path = directory / LOCK
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Unavailable(f"cannot open {path}: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._descriptor, 4096)
            os.close(self._descriptor)
            raise _already_running(directory, holder) from None
        words = {"pid": os.getpid(), "host": socket.gethostname(), "embedded": embedded}
        with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, unsigned
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(words).encode(), 0)

    def release(self) -> None:
        """Let another broker in."""
        os.close(self._descriptor)


def _already_running(directory: Path, holder: bytes) -> AlreadyRunning:
    try:
        words = json.loads(holder)
        pid, embedded = int(words["pid"]), bool(words["embedded"])
    except (ValueError, TypeError, KeyError):
        pid, embedded = 0, False  # it took the lock a moment ago, and has not signed yet
    who = f"pid {pid}" if pid else "just starting"
    if embedded:
        message = (
            f"the journal in {directory} is in use by a broker ({who}) that a command has started for itself; "
            "it ends by itself some seconds after the last execution: wait for that, or name another directory "
            "(--state)"
        )
    else:
        message = f"another broker ({who}) uses the journal in {directory}; end it, or name another directory (--state)"
    return AlreadyRunning(message, pid=pid, embedded=embedded)


def runtime_directory(state: Path) -> Path:
    """A short directory for ipc:// sockets, ours alone: a socket's path may have 107 bytes. Raises Unavailable.

    The same for the same state directory, so that whoever is connected finds a restarted broker again.
    """
    directory = _runtime_path(state)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise Unavailable(f"cannot make directory {directory} for sockets: {error.strerror}") from None
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        raise Unavailable(f"{directory} is not a directory of ours alone; remove it")
    return directory


def remove_runtime_directory(directory: Path) -> None:
    """What `runtime_directory` has made, with the sockets in it."""
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            entry.unlink()
        directory.rmdir()


def _runtime_path(state: Path) -> Path:
    status = state.stat()
    name = f"theorbo-{os.getuid()}-{status.st_dev:x}-{status.st_ino:x}"
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir()):
        if base and os.access(base, os.W_OK) and len(os.fsencode(base)) + len(name) < _SOCKET_DIRECTORY_BYTES:
            return Path(base) / name
    return Path("/tmp") / name  # noqa: S108 - runtime_directory makes it, and checks whose it is
