from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theorbo.schemas.limits import OUTPUT_READ_BYTES, PUNCH_BYTES, READ_BYTES
from theorbo.schemas.names import Channel, Source, SourceKind
from theorbo.schemas.records import Attachment, encode_record
from theorbo.schemas.spool import spool_name
from theorbo.task_runtime.spool_reader import Mark, Saved, SpoolFile, Tail, parse_checkpoint

RANK, AGENT = Source(SourceKind.RANK, 0), Source(SourceKind.AGENT, 0)
LOG = encode_record({"kind": "log", "time": 1.0, "text": "hello"})
METRIC = encode_record({"kind": "metric", "time": 1.0, "name": "m", "value": 1})


def records(saved=None):
    return SpoolFile("rank-0.rec", RANK, None, saved)


def saved(file):
    """What a checkpoint of the file says, after its way through JSON."""
    return parse_checkpoint(json.loads(json.dumps(file.checkpoint())))


def lines():
    return SpoolFile("rank-0.err", RANK, Channel.STDERR)


def read(file, text, numbers, *, final=False):
    """Read what `text`, the whole file, holds beyond what was read; note (channel, number) → record."""
    file.resize(len(text))
    while file.unread:
        pieces, _ = file.take(text[file.offset : file.offset + file.unread], 1.0)
        for piece in pieces:
            file.counts[piece.channel] = file.counts.get(piece.channel, 0) + 1
            numbers[piece.channel, file.counts[piece.channel]] = piece.record
        file.mark()


@given(
    st.lists(st.sampled_from([LOG, METRIC, LOG[:7], b"noise"]), max_size=30),
    st.lists(st.integers(0, 2000), max_size=6),
    st.dictionaries(st.sampled_from([Channel.LOG, Channel.METRICS]), st.integers(0, 30)),
)
def test_a_second_reader_numbers_everything_alike_from_any_checkpoint(parts, sizes, acknowledged):
    text = b"".join(parts)
    first, numbers = records(), {}
    for size in [*sorted(min(size, len(text)) for size in sizes), len(text)]:
        read(first, text[:size], numbers)
    first.settle(lambda channel: acknowledged.get(channel, 0))
    second, again = records(saved(first)), {}
    read(second, text, again)
    assert again == {key: record for key, record in numbers.items() if key in again}
    assert {key for key in numbers if key[1] > acknowledged.get(key[0], 0)} <= again.keys()


def test_the_checkpoint_waits_for_every_channel():
    file = records()
    read(file, LOG + METRIC, {})
    file.settle({Channel.LOG: 1, Channel.METRICS: 0}.__getitem__)
    assert saved(file).settled == Mark(0, {})
    file.settle({Channel.LOG: 1, Channel.METRICS: 1}.__getitem__)
    counts = {Channel.LOG: 1, Channel.METRICS: 1}
    assert saved(file).settled == Mark(len(LOG + METRIC), counts, (), Tail.of(LOG + METRIC))
    assert file.is_settled


def test_reading_goes_in_bounded_pieces():
    file, output = records(), lines()
    for each, limit in ((file, READ_BYTES), (output, OUTPUT_READ_BYTES)):
        each.resize(10 * READ_BYTES)
        assert each.unread == limit


def test_whole_units_are_given_back_once_they_are_acknowledged():
    file = lines()
    text = (b"x" * 1023 + b"\n") * (2 * PUNCH_BYTES // 1024) + b"more\n"
    read(file, text, {})
    assert file.to_free() is None
    file.settle(lambda _: len(text))
    assert file.kept == file.settled
    assert file.to_free() == (0, 2 * PUNCH_BYTES - 4096)  # the last bytes are compared when it is read on
    file.freed = 2 * PUNCH_BYTES - 4096
    assert file.to_free() is None


def test_what_is_given_back_begins_and_ends_at_a_mark_from_which_a_reader_can_start_again():
    file, numbers = lines(), {}
    text = b"".join(b"%d %s\n" % (number, b"x" * 1000) for number in range(4 * PUNCH_BYTES // 1000))
    for size in range(0, len(text), 100_000):
        read(file, text[:size], numbers)
        file.settle(lambda _: len(numbers))
        freed = file.to_free()
        if freed:
            file.freed = sum(freed)
    assert 2 * PUNCH_BYTES < file.freed <= file.kept.offset < file.settled.offset
    again = SpoolFile("rank-0.err", RANK, Channel.STDERR, saved(file))
    again.rewind(again.kept)
    repeated = {}
    read(again, bytes(file.freed) + text[file.freed : file.size], repeated)
    assert len(repeated) > 10
    assert repeated == {key: numbers[key] for key in repeated}


def test_a_file_that_was_written_anew_to_more_than_its_former_size_is_not_intact():
    file = lines()
    read(file, b"one\ntwo\n", {})
    assert file.tail == Tail.of(b"one\ntwo\n")
    assert file.is_intact(b"one\ntwo\n")
    assert not file.is_intact(b"1\n2\n3\n4\n"[:8])
    file.settle(lambda _: 2)
    assert saved(file).settled.tail == file.tail


def test_another_file_of_the_same_name_starts_over():
    file = lines()
    assert file.resize(4, inode=7) is None
    assert file.resize(8, inode=7) is None
    damage = file.resize(8, inode=8)
    assert "replaced by another file" in damage.why
    assert file.starts_over


def test_attachments_are_needed_until_their_record_is_acknowledged():
    attachment = Attachment("ab" * 32, 5)
    file = records()
    file.resize(len(LOG))
    file.take(LOG, 1.0)
    file.counts[Channel.LOG] = 1
    file.mark((attachment,))
    assert file.names(attachment)
    assert file.settle(lambda _: 0) == []
    assert file.settle(lambda _: 1) == [attachment]
    assert not file.names(attachment)


def test_a_truncated_file_is_read_from_its_beginning_with_the_counts_so_far():
    """A shell script says `echo … > /dev/stderr`, which truncates the file that stderr is."""
    file, numbers = lines(), {}
    read(file, b"one\ntwo\n", numbers)
    damage = file.resize(3)
    assert "truncated" in damage.why
    assert file.unread == 0  # as long as a second agent could not find its way
    assert file.resize(6) is None
    file.settle(lambda _: 2)
    assert file.starts_over
    file.start_over({Channel.STDERR: 2})
    assert saved(file).settled == Mark(0, {Channel.STDERR: 2})
    assert (file.unread, file.read_to_end) == (0, False)  # on disk it is not yet
    file.checkpoint_written()
    read(file, b"three\n", numbers)
    assert list(numbers) == [(Channel.STDERR, 1), (Channel.STDERR, 2), (Channel.STDERR, 3)]


def test_a_file_that_was_truncated_while_nobody_looked_is_read_anew_at_once():
    file = SpoolFile("rank-0.err", RANK, Channel.STDERR, Saved(Mark(100, {Channel.STDERR: 7})))
    assert file.resize(4) is not None
    assert file.unread == 0  # until it is known which numbers the agent before has used
    file.start_over({Channel.STDERR: 9})
    file.checkpoint_written()
    assert (file.offset, file.unread) == (0, 4)


def test_the_end_makes_a_line_of_what_has_no_end_and_a_loss_of_a_torn_record():
    file = lines()
    read(file, b"no end", {})
    pieces, _ = file.take(b"", 1.0, final=True)
    assert json.loads(pieces[0].record[1:])["text"] == "no end"
    torn = records()
    read(torn, LOG[:9], {})
    _, damages = torn.take(b"", 1.0, final=True)
    assert [damage.why for damage in damages] == ["record torn in mid-write"]


@pytest.mark.parametrize("source", [RANK, AGENT])
def test_no_two_files_of_one_source_have_a_channel_in_common(source):
    """Else each would count what the other has, and numbers would be given twice."""
    channels = [None, Channel.STDOUT, Channel.STDERR, *([Channel.METRICS] if source == AGENT else [])]
    files = [SpoolFile(spool_name(source, channel), source, channel) for channel in channels]
    shared = [channel for file in files for channel in file.channels]
    assert sorted(shared) == list(Channel)
