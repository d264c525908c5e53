"""The past, read before what follows: each event once, whoever falls silent in between."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theorbo.observer.filters import Filter
from theorbo.observer.history import AskView, Complete, History
from theorbo.observer.values import Batch, Missed
from theorbo.schemas.errors import UsageError
from theorbo.schemas.frames import Command, Header, Message, decode_json
from theorbo.schemas.limits import ANSWER_S, CREDIT_BYTES
from theorbo.schemas.names import Channel
from theorbo.schemas.points_in_time import point_in_time
from theorbo.schemas.records import encode_record

A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
LOG = Channel.LOG


def view(execution: bytes) -> dict[str, str]:
    return {"execution": execution.hex(), "task": "t", "experiment": "", "run": ""}


class Past:
    """A history with a snapshot of A up to position `head`, and what came of it."""

    def __init__(self, head: int = 9, sequence: int = 100, through: int | None = None) -> None:
        self.history = History(17.0, Filter(), itertools.count(1).__next__)
        self.out: list[object] = []
        self.snapshot(head, sequence, through)

    def snapshot(self, head: int, sequence: int = 100, through: int | None = None, now: float = 0.0) -> None:
        self.out += self.history.begin({A: view(A)}, {A: {LOG: head}}, sequence, through or sequence, now)

    def events(self, position: int, sequence: int, execution: bytes = A, size: int = 1, now: float = 0.0) -> Past:
        header = Header(
            request=self.history.request, execution=execution, channel=LOG, count=1, first=position,
            position=position, sequence=sequence,
        )  # fmt: skip
        self.out += self.history.events(header, encode_record({"kind": "log", "text": "x" * size}), now)
        return self

    def sent(self, command: bytes) -> list[Message]:
        return [item for item in self.out if isinstance(item, Message) and item.command == command]

    def given(self) -> list[tuple[bytes, int]]:
        return [(item.header.execution, item.header.position) for item in self.out if isinstance(item, Batch)]


def test_what_is_up_to_the_heads_is_history_and_the_rest_is_not():
    past = Past(head=9)
    assert decode_json(past.sent(Command.READ)[0].body)["since"] == 17.0
    past.events(8, 50).events(9, 60).events(10, 99)
    past.out += past.history.end()
    assert past.given() == [(A, 8), (A, 9)]
    assert past.out[-1] == Complete()


def test_it_ends_behind_the_snapshot_though_the_journal_grows_faster_than_it_is_read():
    past = Past(sequence=100)
    past.events(9, 100).events(10, 101)
    assert [item.command for item in past.out[-2:-1]] == [Command.CLOSE]
    assert past.out[-1] == Complete()
    count = len(past.out)
    assert len(past.events(11, 102).out) == count


def test_one_without_a_name_is_asked_for_while_the_rest_waits_without_credit():
    past = Past()
    past.events(1, 10, B, size=CREDIT_BYTES // 2).events(8, 20).events(1, 30, C)
    assert past.given() == []
    assert not past.sent(Command.CREDIT)
    assert [item for item in past.out if isinstance(item, AskView)] == [AskView(B)]
    past.out += past.history.named(B, view(B), 0.0)
    assert past.given() == [(B, 1), (A, 8)]
    assert past.sent(Command.CREDIT)
    past.out += [*past.history.named(C, None, 0.0), *past.history.end()]
    assert past.given() == [(B, 1), (A, 8)]
    assert past.out[-1] == Complete()


def test_one_that_was_not_listed_is_history_up_to_the_snapshots_sequence():
    past = Past(sequence=100, through=120)  # two listings: some heads are later
    past.out += past.history.named(B, view(B), 0.0)
    past.events(1, 100, B).events(2, 101, B)
    assert past.given() == [(B, 1)]


def test_after_a_restart_of_the_broker_it_goes_on_behind_what_was_handed_over():
    past = Past()
    past.events(7, 70).events(1, 71, B)  # the second waits for a name
    past.snapshot(head=12, sequence=200)
    assert decode_json(past.sent(Command.READ)[1].body)["after"] == 70
    past.out += past.history.named(B, view(B), 0.0)
    past.events(1, 71, B).events(8, 120)
    assert past.given() == [(A, 7), (B, 1), (A, 8)]


def test_a_name_that_does_not_come_is_asked_for_again():
    past = Past()
    past.events(1, 71, B)
    assert past.history.tick(ANSWER_S) == []
    assert past.history.tick(ANSWER_S + 1) == [AskView(B)]
    assert past.history.tick(ANSWER_S + 2) == []


def test_silence_means_nothing_but_what_was_refused_for_now_is_asked_for_again():
    """A broker may need long to find the next event of a rare kind: a READ anew would begin the search anew."""
    past = Past()
    past.events(7, 70)
    assert past.history.tick(1000 * ANSWER_S) == []
    past.history.put_off(0.0)
    assert past.history.tick(ANSWER_S - 1) == []
    (again,) = past.history.tick(ANSWER_S)
    assert decode_json(again.body)["after"] == 70
    assert past.history.tick(ANSWER_S) == []


def test_what_the_journal_does_not_have_is_told():
    past = Past(head=9).events(3, 30).events(6, 60)
    past.out += past.history.end()
    missed = [(item.first, item.last) for item in past.out if isinstance(item, Missed)]
    assert missed == [(4, 5), (7, 9)]


def test_another_journal_may_give_positions_again():
    past = Past(head=9).events(7, 70)
    past.snapshot(head=4, sequence=1_000_000_100)
    past.events(4, 1_000_000_001)
    past.out += past.history.end()
    assert past.given() == [(A, 7), (A, 4)]
    assert not [item for item in past.out if isinstance(item, Missed)]


@given(st.data())
def test_history_and_what_follows_together_are_everything_once(data):
    """Whatever was committed before, between and after the two listings, for listed and unlisted executions."""
    journal = data.draw(st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=30))
    positions: dict[bytes, int] = {}
    rows = []
    for sequence, execution in enumerate(journal, 1):
        positions[execution] = positions.get(execution, 0) + 1
        rows.append((sequence, execution, positions[execution]))
    sequence = data.draw(st.integers(0, len(rows)))
    through = data.draw(st.integers(sequence, len(rows)))
    heads = {A: {LOG: max([p for s, e, p in rows if e == A and s <= through], default=0)}}
    history = History(0.0, Filter(), itertools.count(1).__next__)
    out = list(history.begin({A: view(A)}, heads, sequence, through, 0.0))
    for number, execution, position in rows:
        header = Header(
            request=history.request, execution=execution, channel=LOG, count=1, first=position, position=position,
            sequence=number,
        )  # fmt: skip
        step = history.events(header, encode_record({"kind": "log"}), 0.0)
        while any(isinstance(item, AskView) for item in step):
            out += step
            step = history.named(execution, view(execution), 0.0)
        out += step
    out += history.end()
    given_ = [(item.header.execution, item.header.position) for item in out if isinstance(item, Batch)]
    assert given_ == [(e, p) for s, e, p in rows if (p <= heads[A][LOG] if e == A else s <= sequence)]
    assert sum(isinstance(item, Complete) for item in out) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("2h", 7200), ("3d", 259200), ("1d12h", 129600), ("1.5h", 5400)],
)
def test_a_duration_is_how_long_ago(text, seconds):
    assert point_in_time(text, 1e9) == 1e9 - seconds


def test_a_time_is_local_unless_it_says_its_zone():
    zone = timezone(timedelta(hours=1))
    assert point_in_time("2026-11-22T14:30+01:00", 0.0) == datetime(2026, 11, 22, 14, 30, tzinfo=zone).timestamp()
    assert point_in_time("2026-11-22T14:30", 0.0) == datetime(2026, 11, 22, 14, 30).timestamp()


@pytest.mark.parametrize("text", ["", "yesterday", "10", "10 m", "m", "-5m", "10x", "2026-13-01"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UsageError, match="is no time"):
        point_in_time(text, 1e9)
