"""Rows that are not as they were written, older versions, times, and late batches."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from theorbo.broker import recovery
from theorbo.broker.retention import Reckoning
from theorbo.broker.rows import checksum, encoded
from theorbo.broker.schema import SCHEMA_VERSION, JournalDamaged
from theorbo.broker.values import Batch, Committed, Confirm, Keep, Note, ReadJournal, SetAside
from theorbo.schemas.frames import NO_EXECUTION
from theorbo.schemas.limits import CLOCK_JUMP_S, CLOCK_TRUST_S
from theorbo.schemas.names import EXECUTOR, Source, SourceKind

from .bus import RANK, RUN, SUBMITTED, log
from .journals import ENDED, LOG, OPEN, SIGNALS, Files, Kept, Writer, destroy, fill, flip, leaf_pages

ALL = ReadJournal(b"P", 1, NO_EXECUTION, None, 0, 0, 0, 1 << 30)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def two_batches(path: Path, *, close: bool = True) -> Kept:
    kept, writer = Kept(path), Writer()
    kept.write(
        Keep(OPEN, 1.0, None, {}),
        writer.append(OPEN, EXECUTOR, SIGNALS, SUBMITTED),
        writer.append(OPEN, RANK, LOG, log("the first"), log("and its second")),
        writer.append(OPEN, RANK, LOG, log("another")),
    )
    if close:
        kept.close()
    return kept


class TestChecksum:
    def test_it_is_as_the_page_says(self):
        """docs/journal.md: CRC-32 over the fields in network byte order, then the body."""
        batch = Batch(1, bytes(range(16)), 2, 3, Source(SourceKind.RANK, 4), 5, 6, 0, 1700000000.5, b"\x1e{}\n")
        text = "0000000000000001000102030405060708090a0b0c0d0e0f0200000000000000030400000004"
        text += "0000000000000005000000060041d954fc402000001e7b7d0a"
        import zlib

        assert encoded(batch)[10] == zlib.crc32(bytes.fromhex(text))

    @pytest.mark.parametrize("field", range(10))
    def test_every_field_counts(self, field):
        place = (1, bytes(16), 2, 3, 4, 4, 5, 6, 0, 17.5)
        changed = [value if n != field else (b"x" * 16 if n == 1 else value + 1) for n, value in enumerate(place)]
        assert checksum(place, b"") != checksum(tuple(changed), b"")

    def test_every_row_has_one(self, path):
        two_batches(path)
        connection = sqlite3.connect(path)
        assert connection.execute("SELECT count(*) FROM batches WHERE checksum IS NULL").fetchone() == (0,)
        connection.close()


class TestDamagedBody:
    def test_the_row_is_not_given_and_its_place_is_told(self, path):
        two_batches(path)
        flip(path, b"its second")
        kept = Kept(path)
        answer = kept.journal.read(ALL, 3)
        assert [batch.sequence for batch in answer.batches] == [1, 3]
        assert answer.looked_to == 3
        (damaged,) = answer.damaged
        assert (damaged.sequence, damaged.source, damaged.first, damaged.count, damaged.body) == (2, RANK, 1, 2, b"")
        assert not kept.journal.damage
        kept.close()

    def test_a_read_that_is_limited_comes_past_it(self, path):
        two_batches(path)
        flip(path, b"its second")
        kept = Kept(path)
        answer = kept.journal.read(ALL._replace(after=1, limit_bytes=1), 3)
        assert (answer.batches, len(answer.damaged), answer.looked_to) == ([], 1, 2)
        kept.close()

    def test_recall_survives_it_in_signals_and_tells(self, path):
        two_batches(path)
        flip(path, b"galaxies")
        kept = Kept(path)
        (recalled,) = kept.recalled
        assert recalled.past.signals == []
        assert [(each.sequence, each.source, each.first) for each in recalled.past.damaged] == [(1, EXECUTOR, 1)]
        kept.close()

    def test_set_aside_it_is_out_of_the_way_and_its_position_is_not_given_again(self, path):
        two_batches(path)
        flip(path, b"another")
        kept, writer = Kept(path), Writer()
        writer.sequence = 3
        kept.write(SetAside(3), writer.append(OPEN, RANK, SIGNALS, log("something")))
        assert kept.journal.read(ALL, 9).damaged == ()
        assert kept.journal.recall(OPEN).heads[LOG] == 3
        assert (RANK, LOG, 2, 2) in kept.journal.recall(OPEN).streams
        kept.write(SetAside(3), writer.append(OPEN, RANK, SIGNALS, log("again")))  # another reader had met it, too
        kept.close()
        connection = sqlite3.connect(path)
        (row,) = connection.execute("SELECT sequence, execution, first, body FROM damaged").fetchall()
        connection.close()
        assert row[:3] == (3, OPEN, 3)
        assert b"nother" in row[3]


class TestDamagedFile:
    def test_a_field_that_contradicts_the_index_is_damage_of_the_file(self, path):
        """The field cannot be believed, so no loss can be told by it; a recovery finds the truth in the index."""
        two_batches(path)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA writable_schema = ON")
        # Behind SQLite's back: the row changes, its index entries do not.
        (index,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'batches_by_position'").fetchone()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'batches_by_position'").fetchone()
        connection.execute("DELETE FROM sqlite_master WHERE name = 'batches_by_position'")
        connection.commit()
        connection.close()
        connection = sqlite3.connect(path)
        connection.execute("UPDATE batches SET first = 77 WHERE sequence = 3")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_master VALUES ('index', 'batches_by_position', 'batches', ?, ?)", (root, index)
        )
        connection.commit()
        connection.close()
        kept = Kept(path)
        answer = kept.journal.read(ALL, 3)
        assert "contradicts an index" in answer.problem
        assert "contradicts an index" in kept.journal.damage
        assert recovery.is_marked(path)
        kept.close()
        again = Kept(path)
        assert [batch.sequence for batch in again.journal.read(ALL, 3).batches] == [1, 2]
        again.close()

    def test_the_writer_stops_at_once_and_leaves_a_mark(self, path, wait_for):
        """With a full disk it would try again for ever; here that cannot help."""
        fill(path)
        kept, writer = Kept(path), Writer()
        destroy(path, *leaf_pages(path, "batches_by_execution"))
        writer.sequence = 10_000
        kept.journal.submit([writer.append(OPEN, RANK, LOG, log("more"))])
        while not (isinstance(it := kept.reports.get(timeout=10), Note) and it.text == "the journal is damaged"):
            assert not isinstance(it, Committed)
        assert kept.journal.damage
        wait_for(lambda: not kept.journal.alive)
        assert recovery.is_marked(path)
        assert not kept.close()
        again = Kept(path)
        assert any("recovered" in note.text for note in again.told)
        again.close()

    def test_a_read_at_run_time_notices_and_the_next_start_recovers(self, path):
        fill(path)
        kept = Kept(path)
        destroy(path, leaf_pages(path, "batches")[6])
        answer = kept.journal.read(ALL, 10_000)
        assert answer.problem
        assert kept.journal.damage
        with pytest.raises(JournalDamaged, match="theorbo journal recover keeps what is readable"):
            raise JournalDamaged(path, kept.journal.damage)
        assert recovery.is_marked(path)
        kept.journal.close(10)
        again = Kept(path)
        assert any("recovered" in note.text for note in again.told)
        assert again.journal.read(ALL, 2**62).problem == ""
        again.close()


class TestOlderVersion:
    def test_a_journal_of_version_1_is_brought_up_to_date_without_writing_its_rows_anew(self, path):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.executescript(_VERSION_1)
        connection.execute("INSERT INTO executions VALUES (?, 1.0, NULL, 0, '{}')", (OPEN,))
        connection.execute('INSERT INTO executions VALUES (?, 1.0, 2.0, 0, \'{"state": "COMPLETED"}\')', (ENDED,))
        for n in range(1, 4):
            connection.execute(
                "INSERT INTO batches VALUES (?, ?, 2, ?, 4, 0, ?, 1, 0, ?, ?)",
                (n, OPEN, n, n, 100.0 + n, log(f"old {n}")),
            )
        (identity,) = connection.execute("SELECT value FROM meta").fetchone()
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.close()
        before = path.read_bytes()
        kept, writer = Kept(path), Writer()
        assert kept.journal.broker == identity
        answer = kept.journal.read(ALL, 9)
        assert [(batch.time, batch.body) for batch in answer.batches] == [
            (100.0 + n, log(f"old {n}")) for n in (1, 2, 3)
        ]
        assert kept.journal.recall(OPEN).confirmed == 0
        writer.sequence = 3
        kept.write(Confirm(OPEN, 2), writer.append(OPEN, RANK, SIGNALS, log("new")))
        assert kept.journal.recall(OPEN).confirmed == 2
        kept.close()
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        unknown = connection.execute("SELECT sequence FROM batches WHERE checksum IS NULL").fetchall()
        assert unknown == [(1,), (2,), (3,)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA page_count").fetchone()[0] <= pages + 3
        connection.close()
        assert log("old 1") in before

    def test_new_and_migrated_journals_have_the_same_tables(self, path):
        """In the same order: recovery of a first page relies on it."""
        Kept(path).close()
        old = path.with_name("old.sqlite")
        connection = sqlite3.connect(old, isolation_level=None)
        connection.executescript(_VERSION_1)
        connection.close()
        Kept(old).close()
        shapes = []
        for each in (path, old):
            connection = sqlite3.connect(each)
            tables = connection.execute("SELECT name, rootpage FROM sqlite_master").fetchall()
            columns = [connection.execute(f"PRAGMA table_info({name})").fetchall() for name, _ in tables]
            shapes.append((tables, [[column[1:] for column in table] for table in columns]))
            connection.close()
        assert shapes[0] == shapes[1]

    def test_a_damaged_journal_of_version_1_is_recovered(self, path):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.executescript(_VERSION_1)
        connection.execute("INSERT INTO executions VALUES (?, 1.0, NULL, 0, '{}')", (OPEN,))
        for n in range(1, 201):
            connection.execute(
                "INSERT INTO batches VALUES (?, ?, 2, ?, 4, 0, ?, 1, 0, 9.0, ?)",
                (n, OPEN, n, n, log(f"old {n} " + "x" * 500)),
            )
        connection.close()
        destroy(path, leaf_pages(path, "batches")[3])
        recovery.mark(path, "a test", 1.0)
        kept = Kept(path)
        answer = kept.journal.read(ALL._replace(channels=frozenset({LOG})), 2**62)
        assert 170 < len(answer.batches) < 200
        assert kept.journal.recall(OPEN).streams[0][0] is not None
        kept.close()


class TestConfirm:
    def test_it_is_kept_and_never_goes_back(self, path):
        kept = two_batches(path, close=False)
        kept.journal.submit([Confirm(OPEN, 2)])
        kept.journal.submit([Confirm(OPEN, 1)])
        kept.close()
        again = Kept(path)
        assert again.recalled[0].past.confirmed == 2
        again.close()


class TestSince:
    def journal(self, path: Path, times: dict[int, float]) -> Kept:
        Kept(path).close()
        connection = sqlite3.connect(path, isolation_level=None)
        from theorbo.broker import rows

        for sequence, time in times.items():
            batch = Batch(sequence, RUN, LOG, sequence, RANK, sequence, 1, 0, time, log(str(sequence)))
            connection.execute(rows.INSERT, rows.encoded(batch))
        connection.execute("INSERT INTO executions VALUES (?, 1.0, NULL, 0, '{}', 0)", (RUN,))
        connection.close()
        return Kept(path)

    @pytest.mark.parametrize(
        ("since", "first"), [(0.5, 1), (10.0, 1), (10.1, 2), (50.0, 5), (55.0, 6), (100.0, 10), (100.1, None)]
    )
    def test_what_was_committed_then_or_later_is_found(self, path, since, first):
        kept = self.journal(path, {n: n * 10.0 for n in range(1, 11)})
        found = [batch.sequence for batch in kept.journal.read(ALL._replace(since=since), 10).batches]
        assert found == (list(range(first, 11)) if first else [])
        kept.close()

    def test_gaps_in_the_sequences_do_not_matter(self, path):
        kept = self.journal(path, {3: 1.0, 4: 2.0, 1_000_000_100: 3.0, 1_000_000_101: 4.0})
        found = kept.journal.read(ALL._replace(since=2.5), 2**62).batches
        assert [batch.sequence for batch in found] == [1_000_000_100, 1_000_000_101]
        kept.close()

    def test_the_later_of_since_and_after_holds(self, path):
        kept = self.journal(path, {n: n * 10.0 for n in range(1, 11)})
        found = kept.journal.read(ALL._replace(since=30.0, after=7), 10).batches
        assert [batch.sequence for batch in found] == [8, 9, 10]
        kept.close()

    def test_it_holds_for_one_execution_and_its_channels(self, path):
        kept = self.journal(path, {n: n * 10.0 for n in range(1, 11)})
        wish = ALL._replace(since=80.0, execution=RUN, channels=frozenset({LOG}))
        assert [batch.sequence for batch in kept.journal.read(wish, 9).batches] == [8, 9]
        kept.close()


class TestReckoning:
    DAY = 24 * 3600.0

    def test_it_follows_the_clock(self):
        reckoning = Reckoning(1000.0, 1000.0, 5.0)
        assert reckoning.now(1060.0, 65.0) == 1060.0
        assert reckoning.now(1000.0, 66.0) == 1000.0  # set back: nothing gets older by that

    def test_a_jump_forward_is_believed_when_it_has_held(self):
        reckoning = Reckoning(1000.0, 1000.0, 0.0)
        assert reckoning.now(1000.0 + 400 * self.DAY, 60.0) == 1060.0
        assert reckoning.now(1000.0 + 400 * self.DAY, 60.0 + CLOCK_TRUST_S / 2) == 1060.0 + CLOCK_TRUST_S / 2
        believed = 1000.0 + 401 * self.DAY
        assert reckoning.now(believed, 61.0 + CLOCK_TRUST_S) == believed
        assert reckoning.now(believed + 60.0, 121.0 + CLOCK_TRUST_S) == believed + 60.0

    def test_a_jump_that_is_taken_back_has_changed_nothing(self):
        reckoning = Reckoning(1000.0, 1000.0, 0.0)
        reckoning.now(1000.0 + 400 * self.DAY, 60.0)
        assert reckoning.now(1120.0, 120.0) == 1120.0
        assert reckoning.now(1000.0 + 400 * self.DAY, 200.0) == 1200.0  # and a new one has to hold anew
        assert reckoning.now(1000.0 + 400 * self.DAY, 130.0 + CLOCK_TRUST_S) == 1130.0 + CLOCK_TRUST_S

    def test_a_clock_far_ahead_of_the_last_commit_is_not_believed_at_the_start(self):
        """The broker was off for long, or the clock is wrong: a day with it will tell."""
        ahead = 1000.0 + CLOCK_JUMP_S + 61.0
        assert Reckoning(1000.0, ahead, 0.0).now(ahead, 0.0) == 1000.0
        assert Reckoning(None, ahead, 0.0).now(ahead, 0.0) == ahead


def test_a_clock_that_jumps_removes_nothing_young(path):
    """The journal is from now; by a clock that is a year ahead everything in it would be too old."""
    import time

    from theorbo.broker.retention import Retention
    from theorbo.broker.schema import open_journal

    kept, writer = Kept(path), Writer()
    kept.write(Keep(ENDED, 1.0, time.time(), {}), writer.append(ENDED, RANK, LOG, log("young")))
    kept.close()
    reports: list[object] = []
    retention = Retention(90 * 86400.0, 1 << 40, Files(), reports.append)
    connection = open_journal(path)
    a_year_ahead = time.time() + 365 * 86400.0
    assert not retention.step(connection, a_year_ahead, 100.0)
    assert not retention.step(connection, a_year_ahead + 3600.0, 3700.0)
    assert connection.execute("SELECT count(*) FROM batches").fetchone() == (1,)
    assert retention.step(connection, a_year_ahead + CLOCK_TRUST_S, 200.0 + CLOCK_TRUST_S)
    connection.close()


def test_a_batch_that_comes_after_its_execution_was_removed_goes_too(path):
    kept, writer = Kept(path, age_s=1000.0), Writer()
    late = writer.append(ENDED, RANK, LOG, log("late"))  # accepted, and queued while retention was at work
    kept.write(late)
    assert kept.journal.recall(ENDED) is None
    kept.close()
    again = Kept(path, age_s=1000.0)
    while not any("removed" in getattr(it, "text", "") for it in [again.reports.get(timeout=10)]):
        pass
    assert again.journal.read(ALL, 9).batches == []
    again.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM executions").fetchone() == (0,)
    connection.close()


_VERSION_1 = """
PRAGMA page_size = 8192;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('broker', lower(hex(randomblob(16))));
CREATE TABLE executions (
    execution BLOB PRIMARY KEY,
    submitted REAL NOT NULL,
    ended     REAL,
    removing  INTEGER NOT NULL DEFAULT 0,
    view      TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX executions_by_time ON executions (submitted);
CREATE TABLE batches (
    sequence     INTEGER PRIMARY KEY,
    execution    BLOB NOT NULL,
    channel      INTEGER NOT NULL,
    position     INTEGER NOT NULL,
    source_kind  INTEGER NOT NULL,
    source_index INTEGER NOT NULL,
    first        INTEGER NOT NULL,
    count        INTEGER NOT NULL,
    flags        INTEGER NOT NULL,
    time         REAL NOT NULL,
    body         BLOB NOT NULL
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
PRAGMA user_version = 1;
COMMIT;
"""
