from __future__ import annotations

import os
import queue
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from theorbo.broker.journal import Item, Journal
from theorbo.broker.retention import Retention
from theorbo.broker.schema import SCHEMA_VERSION
from theorbo.broker.values import (
    Append,
    Batch,
    Committed,
    FindViews,
    Forgotten,
    JournalTrouble,
    Keep,
    Note,
    ReadJournal,
    Refer,
    Reference,
    Wanted,
)
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.frames import NO_EXECUTION

from .bus import RANK, RUN, log, record
from .journals import LOG, Files

OTHER = b"another one....."


class Opened:
    """A journal, and what it reports."""

    def __init__(self, path: Path, files: Files | None = None, age_s: float = 1e12, size_bytes: int = 1 << 40) -> None:
        self.reports: queue.Queue[object] = queue.Queue()
        self.files = files or Files()
        retention = Retention(age_s, size_bytes, self.files, self.reports.put)
        self.journal = Journal(path, retention, self.reports.put)

    def write(self, *items: Item) -> None:
        """Until the last of them is committed."""
        self.journal.submit(items)
        last = next(item for item in reversed(items) if not isinstance(item, Keep))[0][:2]
        while not (isinstance(report := self.reports.get(timeout=10), Committed) and report.items[-1][:2] == last):
            pass

    def wait_for(self, kind: type) -> object:
        while not isinstance(report := self.reports.get(timeout=10), kind):
            pass
        return report


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def opened(path: Path) -> Iterator[Opened]:
    opened = Opened(path)
    yield opened
    opened.journal.close(10)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def batch(sequence: int, first: int, *texts: str, execution: bytes = RUN, channel: int = LOG) -> Append:
    """Of a single stream, so that numbers are positions as well."""
    body = b"".join(map(log, texts))
    return Append(Batch(sequence, execution, channel, first, RANK, first, len(texts), 0, 0.0, body))


def keep(execution: bytes = RUN, submitted: float = 1.0, ended: float | None = None, **view: object) -> Keep:
    return Keep(execution, submitted, ended, {"execution": execution.hex(), **view})


def read_all(journal: Journal, **changes: object) -> list[Batch]:
    wish = ReadJournal(b"P", 1, NO_EXECUTION, None, 0, 0, 0, 1 << 30)
    return journal.read(wish._replace(**changes), 2**62).batches


def test_what_was_committed_is_read_back_as_it_was(opened):
    opened.write(keep(), batch(1, 1, "a", "b"), batch(2, 3, "c"))
    found = read_all(opened.journal)
    assert [(b.sequence, b.position, b.first, b.count, b.source, b.body) for b in found] == [
        (1, 1, 1, 2, RANK, log("a") + log("b")),
        (2, 3, 3, 1, RANK, log("c")),
    ]
    assert all(b.time > 1e9 for b in found)


def test_a_closed_journal_is_one_file_and_begins_where_it_ended(path, opened):
    opened.write(keep(), batch(1, 1, "a"), batch(2, 2, "b"))
    broker = opened.journal.broker
    assert opened.journal.close(10)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["journal.sqlite"]
    again = Opened(path)
    assert again.journal.last_sequence == 2
    assert again.journal.broker == broker
    assert again.journal.open_executions() == [RUN]
    again.journal.close(10)


def test_a_copy_made_in_mid_run_has_everything_that_was_reported_committed(path, opened, tmp_path):
    """What a power cut would leave: the files as they are on disk, without a close."""
    opened.write(keep(), batch(1, 1, "a"), batch(2, 2, "b"))
    elsewhere = tmp_path / "after"
    elsewhere.mkdir()
    for entry in path.parent.glob("journal.sqlite*"):
        (elsewhere / entry.name).write_bytes(entry.read_bytes())
    again = Opened(elsewhere / "journal.sqlite")
    assert [b.body for b in read_all(again.journal)] == [log("a"), log("b")]
    again.journal.close(10)


def test_another_program_that_opens_and_closes_the_journal_leaves_its_log_alone(path, opened):
    """Else we would go on writing to a file that has no name any more, and a kill would lose what is acknowledged."""
    opened.write(keep(), batch(1, 1, "a"))
    look = (
        "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM batches').fetchone())"
    )
    for count in (1, 2):
        done = subprocess.run([sys.executable, "-c", look, path], capture_output=True, text=True, check=True)
        assert done.stdout == f"{count}\n"
        assert path.with_name(path.name + "-wal").exists()
        opened.write(batch(count + 1, count + 1, "b"))


def test_items_of_one_call_are_committed_together(opened):
    opened.journal.submit([keep(), *(batch(n, n, str(n)) for n in range(1, 101))])
    committed = opened.reports.get(timeout=10)
    assert isinstance(committed, Committed)
    assert [b.sequence for b in committed.items] == list(range(1, 101))
    assert len({b.time for b in committed.items}) == 1


def test_what_is_submitted_by_one_call_is_never_committed_in_parts(opened, monkeypatch):
    """A row that is set aside and the loss that tells of it; the conservation record and the final state."""
    monkeypatch.setattr("theorbo.broker.journal.COMMIT_BYTES", 1)
    opened.journal.submit([keep(), batch(1, 1, "a"), batch(2, 2, "b"), batch(3, 3, "c")])
    opened.journal.submit([batch(4, 4, "d")])
    committed = [opened.wait_for(Committed), opened.wait_for(Committed)]
    assert [[b.sequence for b in each.items] for each in committed] == [[1, 2, 3], [4]]


def test_recall_gives_streams_heads_and_signals_of_an_open_execution(opened):
    opened.write(
        keep(), batch(1, 1, "s", channel=1), batch(2, 1, "a", "b"), batch(3, 3, "c"), batch(4, 2, "s2", channel=1)
    )
    past = opened.journal.recall(RUN)
    assert sorted(past.streams) == [(RANK, 1, 2, 2), (RANK, 2, 3, 3)]
    assert past.heads == {1: 2, 2: 3}
    assert [b.sequence for b in past.signals] == [1, 4]
    assert past.ended_view is None
    assert opened.journal.recall(OTHER) is None


def test_an_ended_execution_is_recalled_by_its_view(opened):
    opened.write(keep(), batch(1, 1, "a"))
    opened.write(keep(ended=5.0, state="FAILED"), batch(2, 2, "late"))
    past = opened.journal.recall(RUN)
    assert past.ended_view["state"] == "FAILED"
    assert past.signals == []
    assert opened.journal.open_executions() == []


def test_of_an_ended_execution_the_losses_are_recalled(opened):
    """Its streams go on behind them, should something more be delivered."""
    loss = record("loss", stream="rank:0/log", first=1, last=2, count=2, detail="a torn spool")
    told = Append(Batch(2, RUN, 1, 2, RANK, 2, 1, 0, 0.0, loss))
    opened.write(keep(), batch(1, 1, "a signal", channel=1), told)
    opened.write(keep(ended=5.0, state="LOST"), batch(3, 1, "a"))
    past = opened.journal.recall(RUN)
    assert [b.body for b in past.signals] == [loss]


def test_an_ended_execution_is_not_opened_again(opened):
    opened.write(keep(ended=5.0, state="FAILED"), batch(1, 1, "a"))
    opened.write(keep(), batch(2, 2, "b"))
    assert opened.journal.open_executions() == []


def test_reads_are_limited_in_bytes_and_say_how_far_they_came(opened):
    opened.write(keep(), *(batch(n, n, "x" * 100) for n in range(1, 11)))
    wish = ReadJournal(b"P", 1, RUN, None, 2, 0, 0, 250)
    answer = opened.journal.read(wish, 9)
    assert [b.sequence for b in answer.batches] == [3, 4]
    assert answer.looked_to == 4
    rest = opened.journal.read(wish._replace(after=4, limit_bytes=1 << 20), 9)
    assert [b.sequence for b in rest.batches] == [5, 6, 7, 8, 9]
    assert rest.looked_to == 9


@pytest.mark.parametrize(
    ("first", "last", "sequences"), [(1, 99, [1, 2, 3]), (1, 1, [1]), (4, 4, [2]), (3, 5, [1, 2, 3]), (9, 20, [])]
)
def test_a_range_of_positions_finds_the_batches_that_touch_it(opened, first, last, sequences):
    opened.write(
        keep(), batch(1, 1, "1", "2", "3"), batch(2, 4, "4"), batch(3, 5, "5", "6"), batch(4, 1, "m", channel=3)
    )
    opened.write(keep(OTHER), batch(5, 1, *"123456789", execution=OTHER))
    found = read_all(opened.journal, execution=RUN, channels=frozenset({LOG}), first_position=first, last_position=last)
    touching = [b for b in found if b.last_position >= first]
    assert [b.sequence for b in touching] == sequences


def test_reads_are_served_by_indexes(opened):
    """A full scan would take seconds on a journal of a few months."""
    opened.write(keep(), batch(1, 1, "a"))
    connection = sqlite3.connect(opened.journal.path)
    for statement in (
        "SELECT * FROM batches WHERE execution = ? AND sequence > 5 ORDER BY sequence",
        "SELECT source_kind, source_index, channel, max(first + count - 1) FROM batches INDEXED BY batches_by_position"
        " WHERE execution = ? GROUP BY channel, source_kind, source_index",
        "SELECT position FROM batches WHERE execution = ? AND channel = 2 ORDER BY position DESC LIMIT 1",
    ):
        plan = " ".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, (RUN,)))
        assert "USING" in plan
        assert "SCAN" not in plan
    connection.close()


def test_views_of_ended_executions_are_found_newest_first_with_their_heads(opened):
    for number in range(5):
        execution = bytes([number]) * 16
        view = {"task": "t" if number % 2 else "u", "experiment": "e", "run": str(number)}
        opened.write(keep(execution, number, 10.0, **view), batch(number + 1, 1, *"ab", execution=execution))
    wanted = Wanted(NO_EXECUTION, True, None, None, None, 10)

    def found(**changes: object) -> list[str]:
        views = opened.journal.find(FindViews(b"P", 1, wanted._replace(**changes))).views
        assert all(view["heads"] == {"log": 2} for view in views)
        return [view["run"] for view in views]

    assert found() == ["4", "3", "2", "1", "0"]
    assert found(limit=2) == ["4", "3"]
    assert found(task="t") == ["3", "1"]
    assert found(experiment="e", run="2") == ["2"]
    assert found(execution=bytes([1]) * 16) == ["1"]
    assert found(task="' OR 1 --") == []


class TestTrouble:
    def test_a_read_that_fails_is_an_answer(self, opened):
        opened.write(keep(), batch(1, 1, "a"))
        connection = sqlite3.connect(opened.journal.path)
        connection.execute("ALTER TABLE batches RENAME TO gone")
        connection.close()
        answer = opened.journal.read(ReadJournal(b"P", 1, RUN, None, 0, 0, 0, 100), 9)
        assert "no such table" in answer.problem
        assert answer.batches == []

    def test_a_journal_of_a_newer_schema_is_refused_and_left_as_it_is(self, path):
        Opened(path).journal.close(10)
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(Unavailable, match=f"schema version {SCHEMA_VERSION + 1}.*newer Theorbo"):
            Opened(path)
        assert path.read_bytes() == before

    def test_a_file_that_is_no_journal_is_refused(self, path):
        path.write_text("my thesis" * 1000)
        with pytest.raises(Unavailable, match="move it away"):
            Journal.recovered(path, Retention(1e12, 1 << 40, Files(), print), print, print)
        assert path.read_text().startswith("my thesis")
        path.rename(path.with_name("thesis"))
        journal, _ = Journal.recovered(path, Retention(1e12, 1 << 40, Files(), print), print, print)
        assert journal.last_sequence == 0
        assert journal.close(10)

    def test_on_a_full_disk_nothing_is_committed_and_nothing_lost(self, small_disk):
        opened = Opened(small_disk / "journal.sqlite")
        opened.write(keep(), batch(1, 1, "before"))
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file:
            space = os.statvfs(small_disk)
            file.write(b"x" * (space.f_bavail * space.f_frsize))
        opened.journal.submit([batch(2, 2, "x" * 100_000)])
        opened.journal.submit([batch(3, 3, "after")])
        note = opened.reports.get(timeout=10)
        assert isinstance(note, Note)
        assert "full" in note.fields["problem"]
        assert "full" in opened.wait_for(JournalTrouble).problem
        with pytest.raises(queue.Empty):
            opened.reports.get(timeout=1.5)  # it is tried again meanwhile, and that is told once
        ballast.unlink()
        assert "again" in opened.wait_for(Note).text
        assert opened.wait_for(JournalTrouble).problem == ""
        opened.write(batch(4, 4, "more"))
        assert [b.sequence for b in read_all(opened.journal)] == [1, 2, 3, 4]
        assert opened.journal.close(10)

    def test_on_a_full_disk_the_journal_can_be_closed(self, small_disk):
        opened = Opened(small_disk / "journal.sqlite")
        opened.journal.submit([batch(1, 1, "x" * 2_000_000)])
        opened.wait_for(Note)
        assert not opened.journal.close(10)
        assert not opened.journal.alive

    def test_a_disk_that_is_full_at_the_start_is_told(self, small_disk):
        with (small_disk / "ballast").open("wb") as file:
            space = os.statvfs(small_disk)
            file.write(b"x" * (space.f_bavail * space.f_frsize))
        with pytest.raises(Unavailable, match="full"):
            Opened(small_disk / "journal.sqlite")


class TestRetention:
    def fill(self, path: Path) -> Files:
        """Two ended executions, the first of which ended first, and an open one; with attachments."""
        files = Files()
        opened = Opened(path, files)
        sequence = 0
        for number, ended in enumerate((100.0, 4e9, None)):
            execution = bytes([number]) * 16
            opened.journal.submit([keep(execution, number)])
            for first in range(1, 501):
                sequence += 1
                opened.write(batch(sequence, first, "x" * 1000, execution=execution)) if first == 500 else (
                    opened.journal.submit([batch(sequence, first, "x" * 1000, execution=execution)])
                )
            shared, own = Reference(execution, b"shared", 10), Reference(execution, b"own" + bytes([number]), 10)
            files.stored |= {b"shared", own.sha256}
            opened.write(keep(execution, number, ended, run=str(number)), Refer(shared), Refer(own))
        opened.journal.close(10)
        return files

    def left(self, opened: Opened) -> set[int]:
        return {b.execution[0] for b in read_all(opened.journal)}

    def test_what_ended_too_long_ago_goes_with_its_own_attachments(self, path):
        files = self.fill(path)
        opened = Opened(path, files, age_s=1000.0)
        assert opened.wait_for(Forgotten).execution == bytes(16)
        opened.wait_for(Note)
        assert self.left(opened) == {1, 2}
        assert files.stored == {b"shared", b"own\1", b"own\2"}
        assert opened.journal.recall(bytes(16)) is None
        opened.journal.close(10)

    def test_what_is_too_large_goes_from_the_end_that_is_longest_ago_and_open_ones_stay(self, path):
        files = self.fill(path)
        before = path.stat().st_size
        opened = Opened(path, files, size_bytes=1)
        opened.wait_for(Note)
        opened.wait_for(Note)
        assert self.left(opened) == {2}
        assert files.stored == {b"shared", b"own\2"}
        assert opened.journal.open_executions() == [bytes([2]) * 16]
        opened.journal.close(10)
        assert path.stat().st_size < before * 0.6

    def test_what_is_being_removed_is_no_longer_seen(self, path):
        self.fill(path)
        connection = sqlite3.connect(path)
        connection.execute("UPDATE executions SET removing = 1 WHERE execution = ?", (bytes([1]) * 16,))
        connection.commit()
        connection.close()
        opened = Opened(path)  # a broker that was killed in mid-removal goes on with it
        opened.wait_for(Note)
        assert opened.journal.recall(bytes([1]) * 16) is None
        assert self.left(opened) == {0, 2}
        opened.journal.close(10)

    def test_files_to_which_nobody_refers_are_swept_after_a_start(self, path):
        files = self.fill(path)
        files.stored.add(b"orphan")
        opened = Opened(path, files, age_s=1000.0)
        opened.wait_for(Forgotten)  # it has been at work
        assert b"orphan" not in files.stored
        assert b"shared" in files.stored
        opened.journal.close(10)


@pytest.mark.parametrize(("first", "last"), [(6, 5), (7, 9), (100, 200)])
def test_nothing_is_found_where_there_is_nothing(opened, first, last):
    """A cursor whose range ended in mid-batch, or began beyond the head, went on for ever with empty EVENTS."""
    opened.write(keep(), batch(1, 1, "a", "b", "c"), batch(2, 4, "d", "e", "f"))
    assert opened.journal.read(ReadJournal(b"O", 1, RUN, frozenset({LOG}), 0, first, last, 1), 2).batches == []


def test_retention_works_under_load_too(path, monkeypatch):
    """When each commit found the next items waiting, its turn never came, and the disk filled."""
    stepped = threading.Event()
    commit = Journal._commit

    def slow(self, writer, items):
        time.sleep(0.01)  # an fsync
        return commit(self, writer, items)

    class Stepping(Retention):
        def step(self, writer: sqlite3.Connection, wall: float, monotonic: float) -> bool:
            stepped.set()
            return False

    monkeypatch.setattr(Journal, "_commit", slow)
    monkeypatch.setattr("theorbo.broker.journal.RETENTION_S", 0.1)
    reports: queue.Queue[object] = queue.Queue()
    journal = Journal(path, Stepping(1e12, 1 << 40, Files(), reports.put), reports.put)
    until = time.monotonic() + 10.0
    sequence = 0
    while not (sequence > 100 and stepped.wait(0.001)):
        assert time.monotonic() < until
        if sequence == 100:
            stepped.clear()  # steps before the load do not count
        sequence += 1
        journal.submit([batch(sequence, sequence, "x")])
    assert journal.close(10)


def test_sequences_are_not_given_again_when_retention_has_removed_the_last(path):
    """A reader that had come to 500 would not be given the next 499."""
    opened = Opened(path)
    for sequence in range(1, 500):
        opened.journal.submit([batch(sequence, sequence, "x")])
    opened.write(keep(ended=100.0), batch(500, 500, "x"))
    opened.journal.close(10)
    opened = Opened(path, age_s=1000.0)
    opened.wait_for(Note)
    opened.journal.close(10)
    opened = Opened(path)
    assert read_all(opened.journal) == []
    assert opened.journal.last_sequence == 500
    opened.journal.close(10)


def test_sequences_are_not_given_again_when_the_last_came_too_late_for_its_execution(path):
    """It is acknowledged, live readers have it, and retention removes it."""
    opened = Opened(path)
    opened.write(keep(OTHER, ended=1e12), batch(1, 1, "x", execution=OTHER), batch(2, 1, "of a removed one"))
    opened.journal.close(10)
    opened = Opened(path)
    opened.wait_for(Note)
    opened.journal.close(10)
    opened = Opened(path)
    assert len(read_all(opened.journal)) == 1
    assert opened.journal.last_sequence == 2
    opened.journal.close(10)


def test_a_second_removal_does_not_set_the_sequences_back(path):
    opened = Opened(path)
    opened.write(keep(OTHER, ended=200.0), batch(1, 1, "x", execution=OTHER))
    opened.write(keep(ended=100.0), batch(2, 1, "x"))
    opened.journal.close(10)
    opened = Opened(path, age_s=1000.0)
    opened.wait_for(Note)
    opened.wait_for(Note)
    opened.journal.close(10)
    opened = Opened(path)
    assert opened.journal.last_sequence == 2
    opened.journal.close(10)
