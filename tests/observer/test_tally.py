"""The proof: what is counted, and what is called whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theorbo.observer.tally import Tally, Verification
from theorbo.observer.values import Missed, Snapshot
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import VERIFIED_GAPS
from theorbo.schemas.names import BROKER, Channel, Source, SourceKind
from theorbo.schemas.records import encode_record

A = b"a" * 16
LOG, SIGNALS = Channel.LOG, Channel.SIGNALS
RANKS = [Source(SourceKind.RANK, number) for number in range(3)]
NAMES = {"execution": A.hex(), "task": "t", "experiment": "", "run": ""}


class Counted:
    """A tally of one execution; positions go on by themselves."""

    def __init__(self, heads: dict[str, int] | None = None, **options: Any) -> None:
        self.tally = Tally(frozenset(Channel), **options)
        self.heads = dict(heads or {})
        if not options.get("whole"):
            self.tally.snapshot(Snapshot(({**NAMES, "heads": self.heads},), 1))

    def take(self, first: int, count: int = 1, source: Source = RANKS[0], channel: Channel = LOG, body: bytes = b""):
        position = self.heads.get(channel.text, 0) + 1
        self.heads[channel.text] = position + count - 1
        header = Header(execution=A, channel=channel, source=source, first=first, count=count, position=position)
        self.tally.batch(header, body)
        return self

    def say(self, number: int, **fields: Any):
        return self.take(number, 1, BROKER, SIGNALS, encode_record({"time": 1.0, **fields}))

    def lose(self, number: int, stream: str, first: int, last: int):
        return self.say(number, kind="loss", stream=stream, first=first, last=last, count=last + 1 - first, detail="x")

    def end(self, *, complete: bool = True) -> Verification:
        return self.tally.verification(complete=complete)


def row(it: Verification, source: Source = RANKS[0], channel: Channel = LOG):
    (found,) = [item for item in it.streams if (item.source, item.channel) == (str(source), channel.text)]
    return found


def test_a_gap_for_which_a_loss_leaves_no_room_does_not_count_as_told():
    counted = Counted(whole=True)
    for number in range(VERIFIED_GAPS):
        counted.take(10 * number + 6, 5)
    it = counted.lose(1, "rank:0/log", 3, 3).end()
    assert (row(it).gaps, row(it).told) == (5 * VERIFIED_GAPS, 1)


def test_numbers_that_go_on_are_whole_wherever_they_begin():
    it = Counted({"log": 90}).take(37, 5).take(42).take(1, 3, RANKS[1]).end()
    assert not it.problems
    assert row(it)[3:] == (37, 42, 6, 0, 0, 0, None)
    assert it.verdict == "verified: 9 events of 2 streams, gaps 0, duplicates 0"


def test_of_an_execution_whose_beginning_was_seen_numbers_begin_with_1():
    begun = Counted().take(1, 1, RANKS[0], SIGNALS)
    assert not begun.take(1).end().problems
    assert "1 numbers missing on signals" in begun.take(2, 1, RANKS[1], SIGNALS).end().verdict


def test_a_gap_and_a_double_are_seen():
    it = Counted({"log": 5}).take(1, 5).take(8, 2).take(9).end()
    assert row(it)[3:9] == (1, 9, 8, 2, 0, 1)
    assert len(it.problems) == 2
    assert it.verdict.startswith("NOT verified: ")


@pytest.mark.parametrize("early", [True, False])
def test_a_gap_that_a_loss_event_tells_is_in_order(early):
    counted = Counted({"log": 5, "signals": 5}).take(1, 5)
    if early:
        counted.lose(1, "rank:0/log", 6, 9)
    counted.take(10)
    if not early:
        counted.lose(1, "rank:0/log", 6, 9)
    it = counted.end()
    assert not it.problems
    assert (row(it).gaps, row(it).told) == (4, 4)
    assert "4 told as lost" in it.verdict


def test_a_loss_of_other_numbers_explains_nothing():
    it = Counted({"log": 5, "signals": 5}).take(1, 5).take(10).lose(1, "rank:0/log", 8, 20).end()
    assert (row(it).gaps, row(it).told) == (4, 2)
    assert it.problems == (f"2 numbers missing on log of {A.hex()}",)


def test_what_the_conservation_record_says_and_did_not_come_is_missing_once_all_is_here():
    counted = Counted({"log": 5, "signals": 5}).take(1, 5)
    counted.say(1, kind="conservation", streams={"rank:0/log": [7, 7]}, lost=0)
    assert not counted.end(complete=False).problems
    it = counted.end()
    assert (row(it).reported, row(it).gaps) == (7, 2)
    assert it.problems


def test_what_was_reported_and_not_delivered_must_be_told_as_lost():
    streams = {"rank:0/log": [7, 5]}
    silent = Counted({"signals": 5}).take(1, 5).say(1, kind="conservation", streams=streams, lost=0)
    assert "2 events" in silent.end(complete=False).verdict
    told = Counted({"signals": 5}).take(1, 5).lose(1, "rank:0/log", 6, 7)
    assert not told.say(2, kind="conservation", streams=streams, lost=2).end().problems


def test_positions_must_go_on_too():
    counted = Counted({"log": 5}).take(1)
    counted.heads["log"] += 3
    it = counted.take(2).end()
    assert it.problems == (f"3 positions missing on log of {A.hex()}",)


@pytest.mark.parametrize("skips", [True, False])
def test_what_is_told_as_missed_is_in_order_only_where_it_was_wished(skips):
    counted = Counted({"log": 5}, skips=skips).take(1)
    counted.tally.missed(Missed(NAMES, LOG, 7, 9, "too slow"))
    counted.heads["log"] = 9
    it = counted.take(5).end()
    assert bool(it.problems) is not skips
    assert "3 skipped as wished" in it.verdict or not skips
    counted.heads["log"] += 1
    assert counted.take(7).end().problems  # this one nobody has told


def test_the_past_must_reach_up_to_the_snapshot():
    tally = Tally(frozenset(Channel))
    header = Header(execution=A, channel=LOG, source=RANKS[0], first=3, count=2, position=3)
    tally.batch(header, b"")
    tally.snapshot(Snapshot(({**NAMES, "heads": {"log": 6}},), 1))
    assert "2 positions missing" in tally.verification(complete=True).verdict


def test_another_snapshot_begins_anew():
    counted = Counted({"log": 5}).take(1, 5)
    counted.heads = {"log": 2}
    counted.tally.snapshot(Snapshot(({**NAMES, "heads": counted.heads},), 1))
    it = counted.take(3).end()
    assert not it.problems


def test_a_replay_begins_with_1_and_reaches_the_heads():
    assert not Counted(whole=True).take(1, 5).end().problems
    assert "2 numbers missing" in Counted(whole=True).take(3, 5).end().verdict
    short = Counted(whole=True).take(1, 5)
    short.tally.heads({**NAMES, "heads": {"log": 6, "metrics": 1}})
    assert len(short.end().problems) == 2


def test_memory_for_one_stream_is_constant():
    counted = Counted({"log": 1})
    for number in range(1, 40 * VERIFIED_GAPS, 2):
        counted.take(number)
    it = counted.end()
    assert row(it).gaps == 20 * VERIFIED_GAPS - 1
    numbers = next(iter(counted.tally._executions[A].streams.values()))
    assert len(numbers.gaps) == VERIFIED_GAPS


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), max_size=20), st.sets(st.integers(1, 35)))
def test_gaps_and_doubles_are_those_of_a_plain_count(batches, told):
    counted = Counted({"log": 1, "signals": 1})
    for number, lost in enumerate(sorted(told), 1):
        counted.lose(number, "rank:0/log", lost, lost)
    seen: list[int] = []
    jumped: set[int] = set()
    double = highest = 0
    for first, count in batches:
        for number in range(first, first + count):
            double += bool(seen) and number <= highest
            if seen and number > highest + 1:
                jumped |= set(range(highest + 1, number))
            highest = max(highest, number)
            seen.append(number)
        counted.take(first, count)
    it = counted.end()
    if batches:
        assert (row(it).events, row(it).gaps, row(it).told) == (len(seen), len(jumped), len(jumped & told))
        assert row(it).duplicates == double
    assert bool(it.problems) == bool(double or jumped - told)
