"""Journals with something in them, for tests of what reads, checks and recovers them; and damage for them."""

from __future__ import annotations

import queue
import sqlite3
import time
from pathlib import Path

from theorbo.broker.journal import Item, Journal
from theorbo.broker.retention import Retention
from theorbo.broker.values import Append, Batch, Committed, Keep, Note
from theorbo.schemas.names import BROKER, EXECUTOR, Channel, Source, SourceKind

from .bus import AGENT, RANK, RUN, SUBMITTED, log, record

OPEN = b"an open one....."
ENDED = RUN
LOG = int(Channel.LOG)
SIGNALS = int(Channel.SIGNALS)
PAGE = 8192


class Files:
    """The attachments that there are."""

    def __init__(self) -> None:
        self.stored: set[bytes] = set()

    def digests(self) -> list[bytes]:
        return list(self.stored)

    def remove(self, sha256: bytes) -> None:
        self.stored.discard(sha256)


class Kept:
    """A journal opened as a broker does it, and what it says."""

    def __init__(self, path: Path, *, age_s: float = 1e12, size_bytes: int = 1 << 40) -> None:
        self.reports: queue.Queue[object] = queue.Queue()
        self.told: list[Note] = []
        self.files = Files()
        retention = Retention(age_s, size_bytes, self.files, self.reports.put)
        self.journal, self.recalled = Journal.recovered(path, retention, self.reports.put, self.told.append)

    def write(self, *items: Item) -> None:
        """Until they are committed (those without an Append at the latest with the next)."""
        self.journal.submit(items)
        last = [item.batch.sequence for item in items if isinstance(item, Append)][-1]
        while not (isinstance(it := self.reports.get(timeout=10), Committed) and it.items[-1].sequence == last):
            pass

    def close(self) -> bool:
        return self.journal.close(10)


class Writer:
    """Batches with the next sequence, numbers and positions."""

    def __init__(self) -> None:
        self.sequence = 0
        self._last: dict[tuple[object, ...], int] = {}

    def append(self, execution: bytes, source: Source, channel: int, *records: bytes) -> Append:
        self.sequence += 1
        first = self._next((execution, source, channel), len(records))
        position = self._next((execution, channel), len(records))
        body = b"".join(records)
        return Append(Batch(self.sequence, execution, channel, position, source, first, len(records), 0, 0.0, body))

    def _next(self, key: tuple[object, ...], count: int) -> int:
        first = self._last.get(key, 0) + 1
        self._last[key] = first + count - 1
        return first


def fill(path: Path, *, batches: int = 200, text: str = "x" * 300, clean: bool = True) -> Kept:
    """An ended and an open execution, each with so many batches of two lines; closed if `clean`."""
    kept, writer = Kept(path), Writer()
    one_more = Source(SourceKind.RANK, 1)
    for execution in (ENDED, OPEN):
        kept.write(
            Keep(execution, 10.0, None, {}),
            writer.append(execution, EXECUTOR, SIGNALS, SUBMITTED),
            writer.append(execution, AGENT, SIGNALS, record("agent_started", host="node")),
            *(
                writer.append(execution, (RANK, one_more)[n % 2], LOG, log(f"{n} {text}"), log(f"{n}b"))
                for n in range(batches)
            ),
        )
    streams = {"rank:0/log": batches, "rank:1/log": batches}
    kept.write(
        writer.append(ENDED, AGENT, SIGNALS, record("agent_closed", streams=streams)),
        writer.append(ENDED, BROKER, SIGNALS, record("state_changed", state="RUNNING", previous="PENDING")),
        writer.append(ENDED, BROKER, SIGNALS, record("state_changed", state="COMPLETED", previous="RUNNING")),
    )
    view = {
        "execution": ENDED.hex(), "task": "galaxies", "experiment": "mfx1", "run": "7", "state": "COMPLETED",
        "reason": "", "lost": 0, "submitted": 10.0, "ended": 20.0,
    }  # fmt: skip
    kept.write(
        Keep(ENDED, 10.0, time.time(), view),  # else the broker would remove it for its age
        writer.append(OPEN, RANK, LOG, log("last")),
    )
    if clean:
        assert kept.close()
    return kept


def leaf_pages(path: Path, table: str) -> list[int]:
    """The pages (from 1) of a table or index that hold rows, in order."""
    connection = sqlite3.connect(path)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.close()
    data = path.read_bytes()

    def walk(number: int) -> list[int]:
        page = data[(number - 1) * PAGE : number * PAGE]
        if page[0] in (0x0D, 0x0A):
            return [number]
        cells = int.from_bytes(page[3:5], "big")
        starts = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
        children = [int.from_bytes(page[start : start + 4], "big") for start in starts]
        return [leaf for child in [*children, int.from_bytes(page[8:12], "big")] for leaf in walk(child)]

    return walk(root)


def destroy(path: Path, *pages: int, with_bytes: bytes = b"\xff") -> None:
    """Pages as a torn write or a bad sector leaves them."""
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(with_bytes * PAGE)


def flip(path: Path, text: bytes) -> None:
    """One bit at the beginning of this text, where it stands first in the file."""
    data = bytearray(path.read_bytes())
    data[data.index(text)] ^= 1
    path.write_bytes(data)
