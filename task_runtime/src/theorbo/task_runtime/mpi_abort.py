"""Which rank has called MPI_Abort, where nobody lived to report it.

MPICH and its relatives kill a program that calls MPI_Abort together with its thin parent, so that there is no end
record. The library's own last words are in what the rank has written to stderr. (Open MPI ends the rank by an exit,
which its thin parent reports as any other.)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from theorbo.schemas.limits import LAUNCHER_STDERR_BYTES
from theorbo.schemas.names import Channel, Source, SourceKind
from theorbo.schemas.spool import spool_name

WHY = "its call of MPI_Abort ended it first"

_SENTENCE = re.compile(rb"application called MPI_Abort\([^\n]*, (-?\d+)\) - process \d+")


def abort_code(stderr: bytes) -> int | None:
    """The exit status that a program asked for by MPI_Abort, by the end of its stderr; None if it did not. Pure."""
    found = _SENTENCE.findall(stderr)
    return int(found[-1]) & 0xFF if found else None


def aborted(spool: Path, ranks: Iterable[int]) -> dict[int, int]:
    """Those of the ranks which have ended by MPI_Abort, with the exit status they asked for."""
    codes = {}
    for rank in ranks:
        path = spool / spool_name(Source(SourceKind.RANK, rank), Channel.STDERR)
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LAUNCHER_STDERR_BYTES))
            code = abort_code(file.read())
            if code:  # 0 says of itself that nothing is wrong
                codes[rank] = code
    return codes
