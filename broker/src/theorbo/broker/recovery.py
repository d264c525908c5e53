"""A damaged journal is put aside, and what is good of it goes on in a new file.

A broker that finds damage leaves a *mark* beside the journal and ends; whoever starts next recovers. Every step may
be the last one before a crash: the mark says how far it came, and the next start goes on from there.

    journal.sqlite                      the damaged one, until the new one is complete
    journal.sqlite.damaged              the mark: what was found; later also where the damaged file goes
    journal.recovering.sqlite           the new one
    journal.damaged-20260131T120000Z.sqlite    the damaged one, for ever
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from theorbo.broker.journal_reader import LAST_SEQUENCE
from theorbo.broker.salvage import Salvaged, salvage
from theorbo.broker.schema import PAGE_BYTES, checked_version, open_journal
from theorbo.broker.values import Note
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.limits import RECOVERED_SEQUENCES

_FILES = ("", "-wal", "-shm")
"""Of one database, in the order in which they may be moved away: without its log a database is older."""
_PROGRESS_S = 5.0
_RENEW = f"""
BEGIN IMMEDIATE;
UPDATE meta SET value = lower(hex(randomblob(16))) WHERE name = 'broker';
INSERT OR REPLACE INTO meta VALUES ('last_sequence', ({LAST_SEQUENCE}) + {RECOVERED_SEQUENCES});
COMMIT;
"""  # noqa: S608 - no text of others


def mark_of(journal: Path) -> Path:
    """Where the mark of a journal lies."""
    return journal.with_name(journal.name + ".damaged")


def is_marked(journal: Path) -> bool:
    """Whether damage was found, and has not been recovered from."""
    return mark_of(journal).exists()


def mark(journal: Path, problem: str, now: float) -> None:
    """Leave the mark. Where that is not possible (a full disk) the next broker has to find the damage itself."""
    with contextlib.suppress(OSError):
        _write(mark_of(journal), {"problem": problem, "time": now})


def recover(journal: Path, now: float, tell: Callable[[Note], None]) -> Salvaged | None:
    """Put what is good of a damaged journal into its place. The caller holds the lock on the directory.

    None if an earlier recovery had come so far that only files were to be moved. Raises Unavailable.
    """
    new = journal.with_name(f"{journal.stem}.recovering.sqlite")
    found = _read_mark(journal)
    salvaged = None
    try:
        if "aside" not in found:
            if not journal.exists():  # somebody has moved it away, to begin with an empty one
                mark_of(journal).unlink(missing_ok=True)
                return None
            fields = {"journal": str(journal), "problem": found.get("problem", "not known")}
            tell(Note("warning", "the journal is damaged; what is readable goes into a new one", fields))
            salvaged = _into_new(journal, new, now, tell)
            aside = journal.with_name(
                f"{journal.stem}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}.sqlite"
            )
            found = {**found, "aside": aside.name}
            _write(mark_of(journal), found)
        aside = journal.with_name(str(found["aside"]))
        _put_in_place(journal, new, aside)
    except OSError as error:
        raise Unavailable(f"cannot recover journal {journal}: {error.strerror}") from None
    told = salvaged._asdict() if salvaged else {}
    told.pop("something", None)  # or there were none of the others
    tell(Note("warning", "the journal was recovered", {"journal": str(journal), "damaged_file": str(aside), **told}))
    return salvaged


def renew(journal: Path) -> None:
    """Give a sound journal a new identity: acknowledged content may be missing in it (a restored backup).

    Raises Unavailable.
    """
    connection = open_journal(journal)
    try:
        connection.executescript(_RENEW)
    except sqlite3.Error as error:
        raise Unavailable(f"cannot write journal {journal}: {error}") from None
    finally:
        connection.close()


def _put_in_place(journal: Path, new: Path, aside: Path) -> None:
    """From here on everything can be done again, or has been done."""
    if new.exists():
        if journal.exists():
            for suffix in reversed(_FILES):
                part = journal.with_name(journal.name + suffix)
                if part.exists() and suffix == "-shm":
                    part.unlink()  # of no use to anyone, and made anew from the log
                elif part.exists():
                    part.replace(aside.with_name(aside.name + suffix))
        _sync(journal.parent)
        new.replace(journal)
        _sync(journal.parent)
    mark_of(journal).unlink(missing_ok=True)
    _sync(journal.parent)


def _into_new(journal: Path, new: Path, now: float, tell: Callable[[Note], None]) -> Salvaged:
    copy = journal.with_name(f"{journal.stem}.recovering.source")
    _remove(new)
    _remove(copy)
    target = open_journal(new)
    old = None
    told_at = time.monotonic()

    def progress(rows: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > _PROGRESS_S:
            told_at = time.monotonic()
            tell(Note("info", "recovering", {"rows": rows}))

    try:
        old = _opened(journal) or _opened_with_first_page_of(target, new, journal, copy)
        target.execute("PRAGMA synchronous = OFF")  # the file is synced as a whole, before it counts
        salvaged = _salvaged(journal, old, target, now, progress)
        target.execute("PRAGMA synchronous = FULL")
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        way_out = "free space for a second journal" if "full" in str(error) else "restore a backup"
        raise Unavailable(f"cannot recover journal {journal}: {error}; {way_out}") from None
    except BaseException:
        target.close()
        _remove(new)
        raise
    finally:
        target.close()
        if old is not None:
            with contextlib.suppress(sqlite3.Error):
                old.close()
        _remove(copy)
    _sync(new)
    return salvaged


def _salvaged(
    journal: Path,
    old: sqlite3.Connection | None,
    target: sqlite3.Connection,
    now: float,
    progress: Callable[[int], None],
) -> Salvaged:
    salvaged = salvage(old, target, now, progress) if old else None
    if salvaged is None or not salvaged.something:
        raise Unavailable(
            f"nothing can be recovered from {journal}, it is no journal or all of it is destroyed; "
            "restore a backup, or move it away to begin with an empty one"
        )
    return salvaged


def _opened(path: Path) -> sqlite3.Connection | None:
    """The damaged journal, if SQLite can make sense of its first page. Raises Unavailable for a newer version."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        checked_version(connection, path)
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("SELECT 1 FROM batches LIMIT 0")
    except sqlite3.Error:
        connection.close()
        return None
    except Unavailable:
        connection.close()
        raise
    return connection


def _opened_with_first_page_of(
    target: sqlite3.Connection, new: Path, journal: Path, copy: Path
) -> sqlite3.Connection | None:
    """A copy of the damaged journal whose first page, which says where everything is, comes from a new one.

    All journals have their tables at the same pages, for they are made in the same order (and stay at the beginning
    of the file, as `auto_vacuum` has it).
    """
    target.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with new.open("rb") as file:
        page = bytearray(file.read(PAGE_BYTES))
    pages = journal.stat().st_size // PAGE_BYTES
    page[28:32] = pages.to_bytes(4, "big")
    page[32:40] = bytes(8)  # no list of free pages
    shutil.copyfile(journal, copy)
    with copy.open("r+b") as file:
        file.write(page)
    log = journal.with_name(journal.name + "-wal")
    if log.exists():
        shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
    return _opened(copy)


def _read_mark(journal: Path) -> dict[str, Any]:
    try:
        found = json.loads(mark_of(journal).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, fields: dict[str, Any]) -> None:
    """A small file, whole or not at all, and on disk."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        json.dump(fields, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    _sync(path.parent)


def _remove(database: Path) -> None:
    for suffix in _FILES:
        database.with_name(database.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
