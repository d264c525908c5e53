"""The tables of the journal, how it is opened, and how older versions become the present one."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from theorbo.schemas.errors import Unavailable

SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('broker', lower(hex(randomblob(16))));
CREATE TABLE executions (
    execution BLOB PRIMARY KEY,
    submitted REAL NOT NULL,            -- Unix time, of the Executor's clock
    ended     REAL,                     -- Unix time, of the broker's clock; NULL while it is open
    removing  INTEGER NOT NULL DEFAULT 0,
    view      TEXT NOT NULL,            -- JSON, as in LISTING; empty while it is open
    confirmed INTEGER NOT NULL DEFAULT 0 -- sequence up to which an Executor has called its hooks
) WITHOUT ROWID;
CREATE INDEX executions_by_time ON executions (submitted);
CREATE TABLE batches (
    sequence     INTEGER PRIMARY KEY,
    execution    BLOB NOT NULL,
    channel      INTEGER NOT NULL,
    position     INTEGER NOT NULL,      -- of the first event, within (execution, channel)
    source_kind  INTEGER NOT NULL,
    source_index INTEGER NOT NULL,
    first        INTEGER NOT NULL,      -- number of the first event in its stream
    count        INTEGER NOT NULL,
    flags        INTEGER NOT NULL,
    time         REAL NOT NULL,         -- of the commit
    body         BLOB NOT NULL,         -- the records, as they stood in the spool
    checksum     INTEGER                -- CRC-32 of fields and body; NULL in rows of version 1
);
CREATE INDEX batches_by_execution ON batches (execution, sequence);
CREATE INDEX batches_by_position
    ON batches (execution, channel, position, count, source_kind, source_index, first);
CREATE TABLE attachments (
    execution BLOB NOT NULL,
    sha256    BLOB NOT NULL,
    size      INTEGER NOT NULL,
    PRIMARY KEY (execution, sha256)
) WITHOUT ROWID;
CREATE INDEX attachments_by_digest ON attachments (sha256);
"""

_DAMAGED = """
CREATE TABLE damaged (                  -- what was taken out of batches; fields that are not known are NULL
    execution    BLOB NOT NULL,
    channel      INTEGER NOT NULL,
    position     INTEGER NOT NULL,
    count        INTEGER NOT NULL,
    sequence     INTEGER,
    source_kind  INTEGER,
    source_index INTEGER,
    first        INTEGER,
    flags        INTEGER,
    time         REAL,
    body         BLOB,
    checksum     INTEGER
);
CREATE INDEX damaged_by_position ON damaged (execution, channel, position, count);
"""

_MIGRATIONS = {
    1: f"""
ALTER TABLE executions ADD COLUMN confirmed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batches ADD COLUMN checksum INTEGER;
{_DAMAGED}
""",
}
"""By version, what makes the next one of it. No row is written anew: a journal of many GiB opens as fast as before.
Order of tables and columns is that of a new journal, on which `recovery` relies when the first page is lost."""

PAGE_BYTES = 8192
_CHECKPOINT_PAGES = 4000
"""The write-ahead log is put into the database when it has grown to 32 MiB: more often costs writes, more
seldom makes a restart slow."""
_CACHE_KIB = 16_000


class JournalDamaged(Unavailable):
    """SQLite, or a field that contradicts an index, says that the file is not as it was written."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"journal {path} is damaged ({problem}); theorbo journal recover keeps what is readable, puts the damaged "
            "file aside, and tells what is lost (so does a broker that is started after one has ended for it)"
        )
        self.problem = problem


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is damaged: trying again will not help, as it does with a full disk."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "decode to UTF-8" in str(error)  # of Python's module: a text that is none
    if "malformed JSON" in str(error):  # a view
        return True
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or code == sqlite3.SQLITE_IOERR_READ


def open_journal(path: Path) -> sqlite3.Connection:
    """A connection to the journal, whose tables are made if the file is new. Raises Unavailable or JournalDamaged."""
    _make_file(path)
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise Unavailable(f"cannot open journal {path}: {error}") from None
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        if is_damage(error):
            raise JournalDamaged(path, str(error)) from None
        way_out = "free some space" if "full" in str(error) else "move it away to begin with an empty one"
        raise Unavailable(f"cannot open journal {path}: {error}; {way_out}") from None
    except Unavailable:
        connection.close()
        raise
    return connection


def _make_file(path: Path) -> None:
    """A new file for the user alone. One that is there is not opened, for closing it again would drop the locks of all
    connections that this process has to it (POSIX); then others take themselves for the last and remove the
    write-ahead log, while we go on writing to it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK):
            raise Unavailable(f"cannot open journal {path}: {os.strerror(errno.EACCES)}") from None
    except OSError as error:
        raise Unavailable(f"cannot open journal {path}: {error.strerror}") from None


def checked_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the journal's tables, 0 if there are none yet. Raises Unavailable for one of the future."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise Unavailable(
            f"journal {path} has schema version {version}, this Theorbo knows up to {SCHEMA_VERSION}: "
            "it was written by a newer Theorbo; install that version, or name another state directory"
        )
    return version


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = checked_version(connection, path)
    if version == 0:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if version == SCHEMA_VERSION:
        return
    steps = (
        _SCHEMA + _DAMAGED if version == 0 else "".join(_MIGRATIONS[each] for each in range(version, SCHEMA_VERSION))
    )
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
