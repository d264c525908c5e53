"""The splice under everything that a network and a slow reader can do to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from theorbo.observer.splice import SKIPPED, Ask, Deliver, Gap, Instruction, Splice
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import ANSWER_S, REPAIR_TRIES, REPAIRS_AT_ONCE
from theorbo.schemas.names import Channel
from theorbo.schemas.records import encode_record, split_body

A, B = b"a" * 16, b"b" * 16
LOG, SIGNALS = Channel.LOG, Channel.SIGNALS


def batch(position: int, count: int = 1, *, execution: bytes = A, channel: Channel = LOG, sequence: int = 1000):
    """A batch whose records say their positions."""
    body = b"".join(encode_record({"kind": "log", "p": p}) for p in range(position, position + count))
    header = Header(
        execution=execution, channel=channel, first=position, count=count, position=position, sequence=sequence
    )
    return header, body


@dataclass
class Reader:
    """What came out of a splice."""

    delivered: dict[tuple[bytes, int], list[int]] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)

    def take(self, instructions: list[Instruction]) -> Reader:
        for instruction in instructions:
            match instruction:
                case Deliver(header, body):
                    positions = [int(text.split(b":")[-1][:-1]) for text in split_body(body)]
                    assert positions == list(range(header.position, header.position + header.count))
                    assert header.first == header.position
                    self.delivered.setdefault((header.execution, header.channel), []).extend(positions)
                case Ask():
                    self.asks.append(instruction)
                case Gap():
                    self.gaps.append(instruction)
        return self

    def of(self, execution: bytes = A, channel: Channel = LOG) -> list[int]:
        return self.delivered.get((execution, channel), [])


def joined(heads=None, sequence: int = 100, **kwargs) -> tuple[Splice, Reader]:
    splice, reader = Splice(**kwargs), Reader()
    reader.take(splice.snapshot(heads or {}, sequence, 0.0))
    return splice, reader


def test_what_the_snapshot_holds_is_not_given_again_and_what_follows_is():
    splice, reader = Splice(), Reader()
    reader.take(splice.live(*batch(4, 2), 0.0))
    reader.take(splice.live(*batch(6, 2), 0.0))
    assert reader.of() == []
    reader.take(splice.snapshot({A: {LOG: 5}}, 100, 0.0))
    assert reader.of() == [6, 7]
    assert not reader.asks


def test_a_batch_that_overlaps_the_snapshot_is_cut():
    splice, reader = joined({A: {LOG: 5}})
    assert reader.take(splice.live(*batch(3, 5), 0.0)).of() == [6, 7]


def test_a_new_execution_begins_at_position_1():
    splice, reader = joined({A: {LOG: 5}})
    reader.take(splice.live(*batch(3, execution=B), 0.0))
    assert reader.asks == [Ask(B, LOG, 1, 2)]


def test_a_gap_is_asked_for_once_and_what_comes_meanwhile_is_held_back():
    splice, reader = joined({A: {LOG: 5}})
    for position in (8, 9, 10):
        reader.take(splice.live(*batch(position), 0.0))
    assert (reader.of(), reader.asks) == ([], [Ask(A, LOG, 6, 7)])
    reader.take(splice.repaired(*batch(6, 2), 0.0))
    assert reader.of() == [6, 7, 8, 9, 10]
    assert splice.held_bytes == 0


def test_a_beacon_shows_that_the_last_event_was_dropped():
    splice, reader = joined({A: {LOG: 5}})
    assert reader.take(splice.beacon({A: {LOG: 6}}, 0.0)).asks == [Ask(A, LOG, 6, 6)]


def test_what_has_no_room_is_read_from_the_journal_too():
    splice, reader = joined({A: {LOG: 0}}, held_bytes=2000)
    for position in range(2, 50):
        reader.take(splice.live(*batch(position), 0.0))
        assert splice.held_bytes <= 2000
    reader.take(splice.repaired(*batch(1), 0.0))
    held = reader.of()[-1]
    assert 1 < held < 49
    reader.take(splice.repair_ended(A, LOG, 0.0))
    assert reader.asks[-1] == Ask(A, LOG, held + 1, 49)
    reader.take(splice.repaired(*batch(held + 1, 49 - held), 0.0))
    assert reader.of() == list(range(1, 50))


def test_what_the_journal_does_not_have_any_more_is_told_and_the_rest_goes_on():
    splice, reader = joined({A: {LOG: 5}})
    reader.take(splice.live(*batch(9), 0.0))
    for _ in range(REPAIR_TRIES):
        reader.take(splice.repaired(*batch(8), 0.0))
        reader.take(splice.repair_ended(A, LOG, 0.0))
    assert [(gap.first, gap.last) for gap in reader.gaps] == [(6, 7)]
    assert reader.of() == [8, 9]


def test_a_refused_repair_is_told_with_the_brokers_words():
    splice, reader = joined({A: {LOG: 5}})
    reader.take(splice.live(*batch(9), 0.0))
    reader.take(splice.repair_refused(A, LOG, "retention has removed it", 0.0))
    assert reader.gaps == [Gap(A, LOG, 6, 8, "retention has removed it")]
    assert reader.of() == [9]


def test_silence_is_no_loss_but_a_reason_to_ask_again():
    splice, reader = joined({A: {LOG: 5}})
    reader.take(splice.live(*batch(9), 0.0))
    for turn in range(1, 10):
        reader.take(splice.tick(turn * (ANSWER_S + 1)))
    assert set(reader.asks) == {Ask(A, LOG, 6, 8)}
    assert len(reader.asks) == 10
    assert not reader.gaps


def test_only_some_gaps_are_repaired_at_a_time_and_the_others_take_their_turn():
    splice, reader = joined()
    executions = [bytes([number]) * 16 for number in range(3 * REPAIRS_AT_ONCE)]
    for execution in executions:
        reader.take(splice.live(*batch(2, execution=execution), 0.0))
    assert len(reader.asks) == REPAIRS_AT_ONCE
    for execution in executions:
        reader.take(splice.repaired(*batch(1, execution=execution), 0.0))
        reader.take(splice.repair_ended(execution, LOG, 0.0))
    assert {ask.execution for ask in reader.asks} == set(executions)
    assert all(reader.of(execution) == [1, 2] for execution in executions)


def test_an_execution_older_than_the_snapshot_which_left_it_out_is_no_news():
    splice, reader = joined(sequence=100)
    reader.take(splice.live(*batch(3, sequence=101), 0.0))
    reader.take(splice.repaired(*batch(1, 2, sequence=50), 0.0))
    assert reader.of() == [3]


def test_forgotten_executions_do_not_come_twice():
    splice, reader = joined(executions=1)
    reader.take(splice.live(*batch(1, 3, sequence=101), 0.0))
    reader.take(splice.live(*batch(1, execution=B, sequence=102), 0.0))
    reader.take(splice.beacon({B: {LOG: 1}}, 0.0))
    assert not splice.knows(A)
    reader.take(splice.live(*batch(4, sequence=200), 0.0))
    reader.take(splice.repaired(*batch(1, 3, sequence=101), 0.0))
    assert reader.of() == [1, 2, 3, 4]


def test_without_repairs_a_gap_is_told_at_once_and_nothing_is_asked_or_held():
    splice, reader = joined({A: {LOG: 5}}, repairs=False)
    reader.take(splice.live(*batch(9), 0.0))
    assert reader.gaps == [Gap(A, LOG, 6, 8, SKIPPED)]
    assert reader.of() == [9]
    reader.take(splice.live(*batch(7), 0.0))
    reader.take(splice.tick(ANSWER_S + 1))
    assert (reader.of(), reader.asks, splice.held_bytes) == ([9], [], 0)


def test_without_repairs_a_beacon_tells_what_was_dropped_last():
    splice, reader = joined({A: {LOG: 5}}, repairs=False)
    reader.take(splice.beacon({A: {LOG: 7}}, 0.0, 50.0))
    assert reader.gaps == [Gap(A, LOG, 6, 7, SKIPPED)]


def test_without_repairs_a_listing_counts_when_a_later_beacon_has_come():
    """It came by another connection: what it names may still be under way on the live stream."""
    splice, reader = joined({A: {LOG: 5}}, repairs=False)
    reader.take(splice.listed({A: {LOG: 7}}, 0.0, 50.0))
    reader.take(splice.beacon({A: {LOG: 5}}, 0.0, 49.0))
    reader.take(splice.live(*batch(6), 0.0))
    assert (reader.gaps, reader.of()) == ([], [6])
    reader.take(splice.beacon({}, 0.0, 51.0))
    assert reader.gaps == [Gap(A, LOG, 7, 7, SKIPPED)]
    assert splice.caught_up(A, {LOG: 7})


def test_without_repairs_what_came_while_joining_and_had_no_room_is_told():
    splice, reader = Splice(held_bytes=2000, repairs=False), Reader()
    for position in range(1, 50):
        reader.take(splice.live(*batch(position), 0.0))
    reader.take(splice.snapshot({A: {LOG: 1}}, 100, 0.0))
    held = reader.of()[-1]
    assert reader.of() == list(range(2, held + 1))
    assert reader.gaps == [Gap(A, LOG, held + 1, 49, SKIPPED)]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["live", "dropped", "beacon"])), max_size=40))
def test_without_repairs_events_and_gaps_together_are_everything_in_order(steps):
    splice, reader = joined({A: {LOG: 5}}, repairs=False)
    head, together = 5, []
    for count, what in steps:
        if what == "beacon":
            out = splice.beacon({A: {LOG: head}}, 0.0)
        else:
            made = batch(head + 1, count + 1)
            head += count + 1
            out = splice.live(*made, 0.0) if what == "live" else []
        for item in out:
            first, last = (
                (item.first, item.last)
                if isinstance(item, Gap)
                else (item.header.position, item.header.position + item.header.count - 1)
            )
            together += range(first, last + 1)
        reader.take(out)
    for item in splice.beacon({A: {LOG: head}}, 0.0):
        together += range(item.first, item.last + 1)
    assert together == list(range(6, head + 1))
    assert not reader.asks


# --- everything at once --------------------------------------------------------------------------

KEYS = [(A, LOG), (A, SIGNALS), (B, LOG)]


@dataclass
class World:
    """A journal, and what is on its way to the reader on two connections."""

    journal: list[tuple[Header, bytes]] = field(default_factory=list)
    heads: dict[tuple[bytes, Channel], int] = field(default_factory=dict)

    def commit(self, key: tuple[bytes, Channel], count: int) -> tuple[Header, bytes]:
        head = self.heads.get(key, 0)
        made = batch(head + 1, count, execution=key[0], channel=key[1], sequence=len(self.journal) + 1)
        self.journal.append(made)
        self.heads[key] = head + count
        return made

    def listed(self) -> dict[bytes, dict[Channel, int]]:
        heads: dict[bytes, dict[Channel, int]] = {}
        for (execution, channel), head in self.heads.items():
            heads.setdefault(execution, {})[channel] = head
        return heads

    def read(self, ask: Ask) -> list[tuple[Header, bytes]]:
        return [
            (header, body)
            for header, body in self.journal
            if (header.execution, header.channel) == (ask.execution, ask.channel)
            and header.position <= ask.last
            and header.position + header.count > ask.first
        ]


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_is_dropped_doubled_or_late_each_event_comes_once_and_in_order(data):
    world = World()
    splice = Splice(held_bytes=data.draw(st.sampled_from([0, 1500, 1 << 20])))
    reader = Reader()
    live: list[tuple[Header, bytes]] = []
    answers: list[tuple[Header, bytes] | Ask] = []
    now, answered = 0.0, 0
    answers_are_lost = data.draw(st.booleans(), label="answers are lost")

    def commits(label: str) -> None:
        for _ in range(data.draw(st.integers(0, 6), label=label)):
            made = world.commit(data.draw(st.sampled_from(KEYS)), data.draw(st.integers(1, 4)))
            live.extend([made] * data.draw(st.sampled_from([0, 1, 1, 1, 2])))

    def arrive(limit: int) -> None:
        nonlocal answered
        while answered < len(reader.asks):
            ask = reader.asks[answered]
            answered += 1
            if data.draw(st.booleans(), label="answered"):
                answers.extend([*world.read(ask), ask])
        for _ in range(limit):
            if live and data.draw(st.booleans()):
                at = data.draw(st.integers(0, min(2, len(live) - 1)))
                reader.take(splice.live(*live.pop(at), now))
            elif answers:
                item = answers.pop(0)
                if isinstance(item, Ask):
                    latest = [ask for ask in reader.asks if ask[:2] == item[:2]][-1]
                    if latest is item:  # the request tells them apart
                        reader.take(splice.repair_ended(item.execution, item.channel, now))
                elif not answers_are_lost or data.draw(st.integers(0, 5), label="kept"):
                    reader.take(splice.repaired(*item, now))

    commits("before")
    arrive(data.draw(st.integers(0, 5)))
    commits("more")
    start = dict(world.heads)
    reader.take(splice.snapshot(world.listed(), len(world.journal), now))
    for _ in range(data.draw(st.integers(0, 8), label="rounds")):
        commits("live")
        arrive(data.draw(st.integers(0, 8)))
        now += data.draw(st.sampled_from([0.1, ANSWER_S + 1]))
        reader.take(splice.tick(now))
        if data.draw(st.booleans()):
            reader.take(splice.reconnected(now))
        reader.take(splice.beacon(world.listed(), now))

    live.clear()
    answers.clear()
    answered = len(reader.asks)
    for _ in range(40):  # the network behaves again
        now += ANSWER_S + 1
        reader.take(splice.tick(now))
        reader.take(splice.beacon(world.listed(), now))
        while answered < len(reader.asks):
            ask = reader.asks[answered]
            answered += 1
            for header, body in world.read(ask):
                reader.take(splice.repaired(header, body, now))
            if [other for other in reader.asks if other[:2] == ask[:2]][-1] is ask:  # the request tells them apart
                reader.take(splice.repair_ended(ask.execution, ask.channel, now))

    assert answers_are_lost or not reader.gaps
    for key, head in world.heads.items():
        expected = list(range(start.get(key, 0) + 1, head + 1))
        missing = {
            p for gap in reader.gaps if (gap.execution, gap.channel) == key for p in range(gap.first, gap.last + 1)
        }
        assert reader.of(*key) == [p for p in expected if p not in missing]
        assert splice.caught_up(key[0], {key[1]: head})
    assert splice.held_bytes == 0
