"""Journals for commands that read one: where it lies, and how it is opened without a broker and without a change."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from theorbo.broker.schema import JournalDamaged, checked_version, is_damage
from theorbo.schemas.connection import state_directory
from theorbo.schemas.errors import Unavailable, UsageError

JOURNAL = "journal.sqlite"

_AS_VERSION_2 = """
CREATE TEMP VIEW batches AS SELECT *, NULL AS checksum FROM main.batches;
CREATE TEMP VIEW executions AS SELECT *, 0 AS confirmed FROM main.executions;
CREATE TEMP VIEW damaged AS SELECT *, NULL AS checksum FROM main.batches WHERE 0;
"""
"""Of this connection alone: the file stays as it is."""


def journal_place(place: Path | None) -> Path:
    """Where the journal of a state directory (default: the user's own) lies, or the file itself."""
    path = (place or state_directory()).absolute()
    return path / JOURNAL if path.is_dir() else path


def journal_at(place: Path | None) -> Path:
    """The journal of a state directory (default: the user's own), or the file itself. Raises UsageError."""
    path = journal_place(place)
    if not path.exists():
        raise UsageError(f"there is no journal {path}; name a state directory (broker --state), or a journal's file")
    return path


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; a broker may be at work meanwhile. Raises Unavailable or JournalDamaged."""
    log = path.with_name(path.name + "-wal")
    uri = path.as_uri()
    # Where nothing can be written, as on a medium of backups, SQLite reads only what is declared unchangeable.
    for mode in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(f"{uri}?{mode}", uri=True, isolation_level=None)
        try:
            if _version(connection, path) == 1:
                connection.executescript(_AS_VERSION_2)
            connection.execute("SELECT 1 FROM batches LIMIT 1").fetchone()
        except sqlite3.Error as error:
            connection.close()
            if is_damage(error):
                raise JournalDamaged(path, str(error)) from None
            problem = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
        if log.exists() and log.stat().st_size:
            break  # without its log the journal would be older than it is
    raise Unavailable(
        f"cannot read journal {path}: {problem}; copy it, with its -wal file if there is one, to where you may write"
    )


def _version(connection: sqlite3.Connection, path: Path) -> int:
    version = checked_version(connection, path)
    if version == 0:
        raise UsageError(f"{path} is no journal: it has none of its tables")
    return version
