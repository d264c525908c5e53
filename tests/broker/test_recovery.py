from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from pathlib import Path

import pytest

from theorbo.broker import check, journal_command, recovery
from theorbo.broker.holes import missing
from theorbo.broker.rows import COLUMNS, decoded
from theorbo.broker.salvage import salvage
from theorbo.broker.schema import JournalDamaged, open_journal
from theorbo.broker.values import Batch, FindViews, Keep, Refer, Reference, Wanted
from theorbo.schemas import events
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.frames import NO_EXECUTION
from theorbo.schemas.limits import RECOVERED_SEQUENCES
from theorbo.schemas.names import BROKER, Channel, Stream
from theorbo.schemas.records import split_body

from .bus import AGENT, RANK, log, record
from .journals import ENDED, LOG, OPEN, PAGE, SIGNALS, Kept, Writer, destroy, fill, flip, leaf_pages


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def all_rows(path: Path) -> list[Batch]:
    connection = sqlite3.connect(path)
    rows = connection.execute(f"SELECT {COLUMNS} FROM batches ORDER BY sequence").fetchall()
    connection.close()
    found = [decoded(row) for row in rows]
    assert None not in found
    return found


def told_losses(rows: list[Batch], execution: bytes) -> dict[str, set[int]]:
    """Numbers that loss events of the broker tell, by stream; each once."""
    told: dict[str, set[int]] = defaultdict(set)
    for batch in rows:
        if batch.execution == execution and batch.source == BROKER:
            for event in map(events.decode_event, split_body(batch.body)):
                if isinstance(event, events.Loss):
                    numbers = set(range(event.first, event.last + 1))
                    assert event.count == len(numbers)
                    assert not numbers & told[event.stream]
                    told[event.stream] |= numbers
    return told


def account(before: list[Batch], after: list[Batch], execution: bytes) -> None:
    """Each number of each stream is there, as it was, or told as lost; never both."""
    told = told_losses(after, execution)
    kept = {(b.source, b.channel, b.first): b.body for b in after if b.execution == execution}
    for batch in (b for b in before if b.execution == execution):
        name = str(Stream(batch.source, Channel(batch.channel)))
        numbers = set(range(batch.first, batch.last + 1))
        if (batch.source, batch.channel, batch.first) in kept:
            assert kept[batch.source, batch.channel, batch.first] == batch.body
            assert not numbers & told[name]
        else:
            assert numbers <= told[name], (name, numbers)


def recovered(path: Path) -> Kept:
    kept = Kept(path)
    assert any("was recovered" in note.text for note in kept.told)
    return kept


class TestDamagedPages:
    @pytest.mark.parametrize("which", [0, 5, -1, slice(3, 9), slice(0, None, 3)])
    def test_pages_of_rows_that_cannot_be_read_are_told_and_the_rest_is_kept(self, path, which):
        fill(path)
        before = all_rows(path)
        identity = Kept(path)
        former = identity.journal.broker
        identity.close()
        pages = leaf_pages(path, "batches")
        destroyed = pages[which] if isinstance(which, slice) else [pages[which]]
        destroy(path, *destroyed)
        recovery.mark(path, "a test", 1.0)
        kept = recovered(path)
        assert kept.journal.broker != former
        assert kept.journal.last_sequence >= len(before) + RECOVERED_SEQUENCES
        assert kept.close()
        after = all_rows(path)
        lost = {b.sequence for b in before} - {b.sequence for b in after}
        assert len(lost) <= 20 * len(destroyed)  # more than 410 bytes a row, 8 KiB a page
        assert lost
        account(before, after, ENDED)

    def test_a_file_that_ends_within_a_page_keeps_what_is_before(self, path):
        """What SQLite finds in the rest of the page, which are zeros, are rows with the sequence 0."""
        fill(path, batches=150)
        before = all_rows(path)
        with path.open("r+b") as file:
            file.truncate((leaf_pages(path, "batches")[-1] - 1) * PAGE + 800)
        recovery.mark(path, "a test", 1.0)
        kept = recovered(path)
        assert kept.close()
        after = all_rows(path)
        assert after[:280] == before[:280]

    def test_positions_of_which_the_index_has_lost_the_place_too_are_noted(self, path):
        fill(path)
        destroy(path, leaf_pages(path, "batches")[5], *leaf_pages(path, "batches_by_position"))
        assert recovered(path).close()
        for ready in (path, path.parent):  # also of a journal that a former version has recovered
            connection = open_journal(path)
            assert check.check(connection, lambda *_: None).problems == []
            connection.execute("DELETE FROM damaged")
            connection.close()
            assert journal_command.main(["recover", str(ready)]) == 0

    @pytest.mark.parametrize("table", ["batches_by_position", "batches_by_execution", "executions", "meta"])
    def test_nothing_is_lost_with_an_index_or_what_can_be_made_anew(self, path, table):
        fill(path)
        before = all_rows(path)
        destroy(path, *leaf_pages(path, table))
        recovery.mark(path, "a test", 1.0)
        kept = recovered(path)
        assert [it.execution for it in kept.recalled] == [OPEN]
        assert kept.journal.recall(ENDED).ended_view["state"] == "COMPLETED"
        assert kept.close()
        assert all_rows(path) == before

    @pytest.mark.parametrize("field", [0, 3])
    def test_an_index_that_says_what_cannot_be_is_damage(self, path, field):
        """Of an open execution: a broker looks into the index when it starts."""
        fill(path)
        before = all_rows(path)
        place = bytes([LOG, 3, 2, int(RANK.kind)])  # channel, position, count, source_kind as the index has them
        wrong = bytes(77 if n == field else value for n, value in enumerate(place))
        data = path.read_bytes()
        assert data.count(OPEN + place) == 1
        path.write_bytes(data.replace(OPEN + place, OPEN + wrong))
        assert journal_command.main(["check", str(path)]) == 1
        if field == 3:
            kept = recovered(path)
            assert [it.execution for it in kept.recalled] == [OPEN]
            assert kept.close()
            assert all_rows(path) == before

    def test_a_view_that_is_none_is_made_again(self, path, capsys):
        fill(path)
        flip(path, b'"execution": "')
        assert journal_command.main(["check", str(path)]) == 1
        assert "its view is no JSON" in capsys.readouterr().out
        kept = Kept(path)
        for task in (None, "galaxies"):
            with pytest.raises(JournalDamaged):
                kept.journal.find(FindViews(b"", 0, Wanted(NO_EXECUTION, True, None, None, task, 10)))
        kept.close()
        kept = recovered(path)
        assert kept.journal.recall(ENDED).ended_view["state"] == "COMPLETED"
        assert kept.close()
        assert journal_command.main(["check", str(path)]) == 0

    def test_the_first_page_can_be_lost(self, path):
        """It says where all tables are; without it SQLite calls the file no database."""
        fill(path)
        before = all_rows(path)
        destroy(path, 1)
        kept = recovered(path)
        assert kept.close()
        assert all_rows(path) == before

    def test_damage_in_the_middle_of_the_tree_loses_nothing_below(self, path):
        """An interior page: its leaves are found by the index, each row by itself, or not at all, and then told."""
        fill(path, batches=3000, text="x" * 100)
        before = all_rows(path)
        connection = sqlite3.connect(path)
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'batches'").fetchone()
        connection.close()
        destroy(path, root)
        kept = recovered(path)
        assert kept.close()
        account(before, all_rows(path), ENDED)

    @pytest.mark.parametrize(("place", "origin"), [(5, 3), (3, 5), (-1, 0), (0, -1)])
    def test_a_page_that_was_written_to_a_wrong_place_does_not_hinder_it(self, path, place, origin):
        """Its rows are found twice, with right checksums, and out of order."""
        fill(path)
        before = all_rows(path)
        pages = leaf_pages(path, "batches")
        data = path.read_bytes()
        start = (pages[origin] - 1) * PAGE
        with path.open("r+b") as file:
            file.seek((pages[place] - 1) * PAGE)
            file.write(data[start : start + PAGE])
        recovery.mark(path, "a test", 1.0)
        kept = recovered(path)
        assert kept.close()
        after = all_rows(path)
        assert 0 < len(before) - len(after) <= 20
        account(before, after, ENDED)

    def test_a_file_that_ends_too_early_keeps_what_is_there(self, path):
        fill(path)
        before = all_rows(path)
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.truncate(size // 2 // 8192 * 8192)
        kept = recovered(path)
        assert kept.close()
        after = all_rows(path)
        assert {b.sequence for b in before} & {b.sequence for b in after}
        told = told_losses(after, ENDED)
        there = {(b.source, b.channel, b.first) for b in after if b.execution == ENDED}
        ends = {s: max(b.last for b in after if (b.execution, b.source, b.channel) == (ENDED, s, LOG)) for s in [RANK]}
        gaps = [
            b for b in before
            if (b.execution, b.source, b.channel) == (ENDED, RANK, LOG) and b.last <= ends[RANK]
            and (b.source, b.channel, b.first) not in there
        ]  # fmt: skip
        assert all(b.first in told["rank:0/log"] for b in gaps)

    def test_damage_is_found_without_a_mark_at_the_first_reads(self, path):
        fill(path)
        destroy(path, *leaf_pages(path, "executions_by_time"))
        connection = sqlite3.connect(path)
        with pytest.raises(sqlite3.DatabaseError):
            connection.execute("SELECT execution FROM executions ORDER BY submitted").fetchall()
        connection.close()
        destroy(path, *leaf_pages(path, "meta"))
        kept = recovered(path)
        assert [it.execution for it in kept.recalled] == [OPEN]
        assert kept.close()


class TestLoss:
    def test_what_is_missing_at_the_end_of_an_open_execution_is_asked_for_and_not_told(self, path):
        """Its sender may have it: the new identity makes it begin again after what the journal has."""
        kept = fill(path)
        last = leaf_pages(path, "batches")[-1]
        before = all_rows(path)
        destroy(path, last)
        recovery.mark(path, "a test", 1.0)
        kept = recovered(path)
        past = kept.journal.recall(OPEN)
        assert kept.close()
        after = all_rows(path)
        there = max(b.last for b in after if (b.execution, b.source, b.channel) == (OPEN, RANK, LOG))
        once = max(b.last for b in before if (b.execution, b.source, b.channel) == (OPEN, RANK, LOG))
        assert there < once
        assert not told_losses(after, OPEN)
        assert (RANK, LOG, there, there) in past.streams
        assert past.heads[LOG] == max(b.last_position for b in before if (b.execution, b.channel) == (OPEN, LOG))

    def test_it_is_told_when_the_sender_has_closed(self, path):
        kept, writer = Kept(path), Writer()
        lines = [writer.append(OPEN, RANK, LOG, log(f"line {n} " + "x" * 3000)) for n in range(50)]
        kept.write(
            Keep(OPEN, 1.0, None, {}),
            *lines,
            writer.append(OPEN, AGENT, SIGNALS, b'\x1e{"kind":"agent_closed","time":1,"streams":{"rank:0/log":50}}\n'),
        )
        kept.close()
        destroy(path, leaf_pages(path, "batches")[-2])
        recovery.mark(path, "a test", 1.0)
        kept = recovered(path)
        kept.close()
        account([item.batch for item in lines], all_rows(path), OPEN)
        assert told_losses(all_rows(path), OPEN)["rank:0/log"]

    def test_what_was_told_before_is_not_told_again(self, path):
        fill(path)
        destroy(path, leaf_pages(path, "batches")[4])
        recovery.mark(path, "a test", 1.0)
        recovered(path).close()
        first = all_rows(path)
        recovery.mark(path, "once more", 2.0)
        recovered(path).close()
        assert all_rows(path) == first

    def test_the_view_of_an_ended_execution_counts_it(self, path):
        fill(path)
        destroy(path, leaf_pages(path, "batches")[4])
        recovery.mark(path, "a test", 1.0)
        kept = recovered(path)
        lost = kept.journal.recall(ENDED).ended_view["lost"]
        kept.close()
        assert lost == sum(map(len, told_losses(all_rows(path), ENDED).values())) > 0


@pytest.mark.parametrize(
    ("intervals", "end", "found"),
    [
        ([], 0, []),
        ([], 3, [(1, 3)]),
        ([(1, 3)], 3, []),
        ([(2, 3), (7, 9)], 9, [(1, 1), (4, 6)]),
        ([(7, 9), (2, 3), (3, 5)], 12, [(1, 1), (6, 6), (10, 12)]),
    ],
)
def test_numbers_that_are_missing(intervals, end, found):
    assert missing(intervals, end) == found


class TestEveryStepMayBeTheLast:
    """A broker killed in mid-recovery: whoever starts next goes on, and nothing is lost by it."""

    def prepared(self, path: Path) -> list[Batch]:
        fill(path)
        before = all_rows(path)
        destroy(path, *leaf_pages(path, "batches_by_execution"))
        recovery.mark(path, "a test", 1.0)
        return before

    def test_before_the_new_one_is_complete(self, path):
        before = self.prepared(path)
        half = path.with_name("journal.recovering.sqlite")
        half.write_bytes(path.read_bytes()[: 8192 * 5])
        recovered(path).close()
        assert all_rows(path) == before

    @pytest.mark.parametrize("moved", [0, 1, 2])
    def test_while_files_are_moved(self, path, moved):
        before = self.prepared(path)
        new = path.with_name("journal.recovering.sqlite")
        old, target = sqlite3.connect(path), open_journal(new)
        salvage(old, target, 2.0, lambda _: None)
        target.close()
        old.close()
        aside = path.with_name("journal.damaged-X.sqlite")
        recovery.mark_of(path).write_text(json.dumps({"problem": "a test", "aside": aside.name}))
        if moved > 0:
            path.rename(aside)
        if moved > 1:
            new.rename(path)
        kept = Kept(path)
        kept.close()
        assert all_rows(path) == before
        assert aside.exists()
        assert not recovery.is_marked(path)

    def test_the_damaged_file_is_kept_as_it_was(self, path):
        self.prepared(path)
        damaged = path.read_bytes()
        recovered(path).close()
        (aside,) = path.parent.glob("journal.damaged-*.sqlite")
        assert aside.read_bytes() == damaged
        assert sorted(entry.name for entry in path.parent.iterdir()) == [aside.name, "journal.sqlite"]


def test_a_journal_without_anything_readable_is_left_as_it_is(path):
    fill(path)
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(Unavailable, match=r"nothing can be recovered.*restore a backup"):
        Kept(path)
    assert set(path.read_bytes()) == {0xFF}
    assert not list(path.parent.glob("*recovering*"))


def test_a_new_identity_for_a_restored_backup(path):
    fill(path)
    kept = Kept(path)
    former, last = kept.journal.broker, kept.journal.last_sequence
    kept.close()
    before = all_rows(path)
    recovery.renew(path)
    kept = Kept(path)
    assert kept.journal.broker != former
    assert kept.journal.last_sequence == last + RECOVERED_SEQUENCES
    kept.close()
    assert all_rows(path) == before


def test_a_row_with_a_wrong_checksum_is_not_taken_over(path):
    fill(path)
    before = all_rows(path)
    flip(path, log("17 " + "x" * 300)[:40])
    recovery.mark(path, "a test", 1.0)
    recovered(path).close()
    after = all_rows(path)
    assert len(after) == len(before)  # one lost, one loss event more
    account(before, after, ENDED)


def test_references_to_attachments_come_from_the_records_when_their_table_is_lost(path):
    """Else the sweep after the start would remove files that the journal names."""
    digest = bytes(range(32))
    kept, writer = Kept(path), Writer()
    named = [{"sha256": digest.hex(), "size": 70000}]
    kept.write(
        Keep(OPEN, 1.0, None, {}),
        Refer(Reference(OPEN, digest, 70000)),
        writer.append(OPEN, RANK, LOG, record("result", parts=[], attachments=named)),
    )
    kept.close()
    destroy(path, *leaf_pages(path, "attachments"))
    recovery.mark(path, "a test", 1.0)
    kept = recovered(path)
    assert kept.journal.attachment_size(OPEN, digest) == 70000
    kept.close()
