from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theorbo.schemas.limits import LINE_BYTES, RECORD_BYTES
from theorbo.schemas.names import Channel
from theorbo.schemas.records import (
    RS,
    Attachment,
    LineReader,
    RecordReader,
    attachments_of,
    channel_of,
    drop_first,
    encode_output,
    encode_record,
    split_body,
)

LOG = encode_record({"kind": "log", "time": 1.0, "text": "hello"})
RESULT = encode_record({"kind": "result", "time": 2.0})
TOO_LARGE = encode_record({"kind": "log", "time": 1.0, "text": "x" * RECORD_BYTES})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# What may stand in a spool file: whole records, torn ones, foreign bytes, and some that are too large.
fragments = st.one_of(
    st.sampled_from([LOG, RESULT, LOG[:9], LOG[:-1], b"noise\n", b"\n", RS, TOO_LARGE, TOO_LARGE[:-7]]),
    st.binary(max_size=20),
)


def read_cut(reader_bytes, cuts, text):
    """Feed `text` cut at these places; everything found, and the reader."""
    reader = RecordReader()
    pieces, damages = [], []
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for start, end in pairwise(edges):
        found = reader.feed(text[start:end])
        pieces += found[0]
        damages += found[1]
    found = reader.feed(b"", final=True)
    return pieces + found[0], damages + found[1], reader


@given(json_values)
def test_any_json_value_comes_back_from_a_record(value):
    record = encode_record({"kind": "data", "value": value})
    assert record.count(RS) == record.count(b"\n") == 1
    again = json.loads(record[1:])["value"]
    if "nan" not in repr(value) and "inf" not in repr(value) and not any(0xD800 <= ord(c) < 0xE000 for c in str(value)):
        assert again == json.loads(json.dumps(value))


def test_numbers_that_json_does_not_have_become_their_names():
    record = encode_record({"kind": "metric", "values": [float("nan"), float("inf"), (float("-inf"), 1.5)]})
    assert json.loads(record[1:])["values"] == ["NaN", "Infinity", ["-Infinity", 1.5]]


def test_a_lone_surrogate_becomes_its_escape_as_text():
    assert json.loads(encode_record({"kind": "log", "text": "a\udcffb"})[1:])["text"] == "a\\udcffb"


def test_a_value_that_json_cannot_carry_is_a_type_error():
    with pytest.raises(TypeError, match="set"):
        encode_record({"kind": "data", "value": {1, 2}})


def test_bytes_that_are_no_text_are_shown_by_number():
    assert json.loads(encode_output(b"a\xffb", 1.0)[1:])["text"] == "a\\xffb"


@pytest.mark.parametrize("byte", [b"\x00", b"\xff", b"\\", b'"'])
def test_the_worst_line_makes_a_record_that_may_be_sent(byte):
    assert len(encode_output(byte * LINE_BYTES, 1795382042.7531464)) <= RECORD_BYTES


def test_a_body_is_split_and_shortened_by_records():
    body = LOG + RESULT + LOG
    assert [json.loads(text)["kind"] for text in split_body(body)] == ["log", "result", "log"]
    assert drop_first(body, 2) == LOG
    assert drop_first(body, 3) == b""


def test_the_channel_follows_from_the_kind_wherever_it_stands():
    assert channel_of(RESULT) is Channel.RESULTS
    assert channel_of(b'\x1e{"time": 1, "kind": "rank_ended"}\n') is Channel.SIGNALS
    assert channel_of(b'\x1e{"kind":"of_tomorrow"}\n') is Channel.LOG
    assert channel_of(b"\x1eno json\n") is Channel.LOG
    assert channel_of(b'\x1e["kind"]\n') is Channel.LOG


def test_attachments_are_found_where_they_are_named_rightly():
    named = encode_record({"kind": "data", "attachments": [{"sha256": "ab" * 32, "size": 5}]})
    assert attachments_of(named) == [Attachment("ab" * 32, 5)]
    assert attachments_of(LOG) == []
    assert attachments_of(encode_record({"kind": "log", "attachments": "none"})) == []
    assert attachments_of(encode_record({"kind": "log", "attachments": [{"size": 1}]})) == []


# --- reading records -----------------------------------------------------------------------------


@given(st.lists(fragments, max_size=12), st.lists(st.integers(min_value=0), max_size=12))
def test_how_reads_are_cut_does_not_matter(parts, cuts):
    text = b"".join(parts)
    assert read_cut(text, cuts, text)[:2] == read_cut(text, [], text)[:2]


@given(st.lists(fragments, max_size=12))
def test_every_byte_is_in_one_record_or_one_damage(parts):
    text = b"".join(parts)
    pieces, damages, reader = read_cut(text, [], text)
    ranges = sorted([(p.end - len(p.record), p.end) for p in pieces] + [(d.start, d.end) for d in damages])
    assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])] if ranges else text == b""
    assert reader.offset == reader.next_read == len(text)


@given(st.lists(fragments, max_size=12), st.integers(min_value=0))
def test_a_second_reader_that_starts_at_the_offset_of_the_first_finds_the_rest(parts, cut):
    text = b"".join(parts)
    cut %= len(text) + 1
    first = RecordReader()
    pieces, damages = first.feed(text[:cut])
    second = RecordReader(first.offset)
    assert second.next_read == first.offset
    more_pieces, more_damages = second.feed(text[first.offset :], final=True)
    assert (pieces + more_pieces, damages + more_damages) == read_cut(text, [], text)[:2]


@given(st.lists(st.sampled_from([LOG, RESULT]), max_size=20), st.integers(min_value=0), st.integers(min_value=0))
def test_a_record_torn_in_the_middle_of_the_file_costs_only_itself(records, at, length):
    at %= len(records) + 1
    torn = LOG[: 1 + length % (len(LOG) - 1)]
    pieces, damages = RecordReader().feed(b"".join([*records[:at], torn, *records[at:]]), final=True)
    assert [piece.record for piece in pieces] == records
    assert [damage.end - damage.start for damage in damages] == [len(torn)]
    assert damages[0].why == "record torn in mid-write"


def test_foreign_bytes_are_one_damage_up_to_the_next_record():
    pieces, damages = RecordReader().feed(b"printf was here\nand here\n" + LOG)
    assert [piece.record for piece in pieces] == [LOG]
    assert [damage[:] for damage in damages] == [(0, 25, "foreign bytes between records")]


def test_a_record_that_is_too_large_is_skipped_without_being_kept():
    reader = RecordReader()
    for _ in range(100):
        assert reader.feed(TOO_LARGE[:-1] if reader.next_read == 0 else b"x" * RECORD_BYTES) == ([], [])
    assert reader.offset == 0  # a second reader judges alike
    pieces, damages = reader.feed(b"\n" + LOG)
    assert [piece.record for piece in pieces] == [LOG]
    assert [damage.why for damage in damages] == [f"record larger than {RECORD_BYTES} bytes"]


def test_a_record_of_just_the_limit_is_taken():
    frame = len(encode_record({"kind": "log", "text": ""}))
    record = encode_record({"kind": "log", "text": "x" * (RECORD_BYTES - frame)})
    assert len(record) == RECORD_BYTES
    assert RecordReader().feed(record)[0][0].record == record
    assert RecordReader().feed(record.replace(b'"x', b'"xx'))[0] == []


def test_an_unfinished_tail_waits_until_the_end_is_declared():
    reader = RecordReader()
    assert reader.feed(LOG + RESULT[:5])[0][0].record == LOG
    assert (reader.offset, reader.next_read) == (len(LOG), len(LOG) + 5)
    assert [piece.record for piece in reader.feed(RESULT[5:])[0]] == [RESULT]


# --- reading lines -------------------------------------------------------------------------------

line_parts = st.one_of(
    st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b"x" * (LINE_BYTES - 1), b"y" * LINE_BYTES, b"z" * (LINE_BYTES + 1)]),
    st.binary(max_size=8),
)


def lines_cut(text, cuts, *, offset=0, final=True):
    reader = LineReader(Channel.STDOUT, offset)
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = []
    for start, end in pairwise(edges):
        pieces += reader.feed(text[start:end], 1.0)
    return pieces + (reader.feed(b"", 1.0, final=True) if final else []), reader


def texts(pieces):
    return [json.loads(piece.record[1:])["text"] for piece in pieces]


@given(st.lists(line_parts, max_size=10), st.lists(st.integers(min_value=0), max_size=10))
def test_how_reads_of_lines_are_cut_does_not_matter(parts, cuts):
    text = b"".join(parts)
    assert lines_cut(text, cuts)[0] == lines_cut(text, [])[0]


@given(st.lists(line_parts, max_size=10), st.integers(min_value=0))
def test_a_second_reader_of_lines_starts_where_the_first_was(parts, cut):
    text = b"".join(parts)
    cut %= len(text) + 1
    pieces, first = lines_cut(text[:cut], [], final=False)
    rest, second = lines_cut(text[first.offset :], [], offset=first.offset)
    assert pieces + rest == lines_cut(text, [])[0]
    assert second.offset == second.next_read == len(text)


@given(st.lists(st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=("Cs",)), max_size=9)))
def test_lines_come_out_as_they_went_in(lines):
    assert texts(lines_cut("".join(f"{line}\n" for line in lines).encode(), [])[0]) == lines


def test_lines_end_by_lf_cr_lf_or_cr():
    assert texts(lines_cut(b"one\ntwo\r\n10%\r20%\rdone\n\nlast", [])[0]) == [
        "one", "two", "10%", "20%", "done", "", "last",
    ]  # fmt: skip


def test_a_line_without_an_end_waits():
    reader = LineReader(Channel.STDERR)
    assert reader.feed(b"no end yet", 1.0) == []
    assert texts(reader.feed(b"\r", 1.0)) == []  # it may become CR LF
    assert texts(reader.feed(b"\n", 1.0)) == ["no end yet"]


def test_a_long_line_is_cut():
    found = texts(lines_cut(b"x" * (2 * LINE_BYTES + 5) + b"\n", [])[0])
    assert [len(text) for text in found] == [LINE_BYTES, LINE_BYTES, 5]
