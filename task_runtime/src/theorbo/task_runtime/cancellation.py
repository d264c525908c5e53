"""Whether somebody has asked for an end: what `cancelled()` looks at, cheap enough for inner loops.

The agent sets a byte in the spool (`spool.CANCELLED`), which is mapped here: to look at it costs no system call, and
works in any thread, in forked children, and while C code keeps the interpreter from calling signal handlers. Behind it
the agent sends SIGTERM. A cooperative Task does not die of it: it takes note, since SIGTERM also comes from others who
want an end (a batch scheduler, mpiexec).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in report
if TYPE_CHECKING:
    import mmap
    from typing import Union

    Byte = Union[mmap.mmap, bytes]

_NO = b"0"  # `spool.Cancelled.NO`, of a module that takes milliseconds to import
_byte: Byte | None = None
_signalled = False
_heeded = False


def cancelled() -> bool:
    """Whether somebody has asked for an end: a user, a time limit, a batch scheduler.

    From then on there is a grace (10 s unless `theorbo run --grace` says otherwise) to save what is to be saved. A
    program that is no Task sees it too, but SIGTERM comes as well: one that wants to use the grace calls
    `install(cooperative=True)` first.
    """
    global _heeded
    if _signalled or (_byte or _map())[:1] != _NO:
        _heeded = True
        return True
    return False


def heeded() -> bool:
    """Whether this process has seen `cancelled()` become true."""
    return _heeded


def heed_sigterm() -> None:
    """From now on SIGTERM makes `cancelled()` true, and ends nothing. Only the main thread can call it."""
    import signal

    signal.signal(signal.SIGTERM, _note_sigterm)


def disregard_sigterm() -> None:
    """If SIGTERM is heeded: it ends nothing any more either while the interpreter ends, and drops our handler.

    The byte in the spool comes first: a Task that looks often may be at its end when SIGTERM comes.
    """
    import signal

    if signal.getsignal(signal.SIGTERM) is _note_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _note_sigterm(*_: object) -> None:
    global _signalled
    _signalled = True


def _map() -> Byte:
    """The byte in the spool; without one (no bus, an older agent) it says no for ever."""
    global _byte
    import mmap

    from theorbo.schemas.spool import CANCELLED

    spool = os.environ.get("THEORBO_SPOOL")
    _byte = _NO
    if spool:
        try:
            descriptor = os.open(os.path.join(spool, CANCELLED), os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH118 - thin
        except OSError:
            return _byte
        try:
            _byte = mmap.mmap(descriptor, 1, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError):
            return _byte
        finally:
            os.close(descriptor)
    return _byte
