"""The tables of the journal, and how a journal is opened."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from theorbo.schemas.errors import Unavailable

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('broker', lower(hex(randomblob(16))));
CREATE TABLE executions (
    execution BLOB PRIMARY KEY,
    submitted REAL NOT NULL,            -- Unix time, of the Executor's clock
    ended     REAL,                     -- Unix time, of the broker's clock; NULL while it is open
    removing  INTEGER NOT NULL DEFAULT 0,
    view      TEXT NOT NULL             -- JSON, as in LISTING; empty while it is open
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
    body         BLOB NOT NULL          -- the records, as they stood in the spool
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

_PAGE_BYTES = 8192
_CHECKPOINT_PAGES = 4000
"""The write-ahead log is put into the database when it has grown to 32 MiB: more often costs writes, more
seldom makes a restart slow."""
_CACHE_KIB = 16_000


def open_journal(path: Path) -> sqlite3.Connection:
    """A connection to the journal, whose tables are made if the file is new. Raises Unavailable."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except OSError as error:
        raise Unavailable(f"cannot open journal {path}: {error.strerror}") from None
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        way_out = "free some space" if "full" in str(error) else "move it away to begin with an empty one"
        raise Unavailable(f"cannot open journal {path}: {error}; {way_out}") from None
    except Unavailable:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise Unavailable(
            f"journal {path} has schema version {version}, this broker knows up to {SCHEMA_VERSION}: "
            "it was written by a newer Theorbo; install that version, or name another state directory"
        )
    if version == 0:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if version == 0:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
