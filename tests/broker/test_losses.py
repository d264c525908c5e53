"""Numbered losses, and rows of the journal that are damaged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theorbo.broker.streams import StreamHead
from theorbo.broker.values import Forgotten, JournalRead, Past, Recalled, Tick
from theorbo.schemas.frames import Command, Flag, Header, Message, encode_json
from theorbo.schemas.limits import ENDED_IN_MEMORY, LOSSES_AHEAD, LOST_S, RECENT_S
from theorbo.schemas.names import EXECUTOR, Channel

from .bus import AGENT, RANK, RUN, Bus, log, put, record
from .test_core import view_of

LOG, SIGNALS = Channel.LOG, Channel.SIGNALS


def loss(first: int, last: int, stream: str = "rank:0/log") -> bytes:
    return record("loss", stream=stream, first=first, last=last, count=last - first + 1, detail="a torn spool")


@pytest.fixture
def bus() -> Bus:
    """With log lines 1 and 2 of the rank."""
    bus = Bus()
    bus.submit()
    bus.say(b"A", put(RANK, LOG, 1, log("1"), log("2")))
    bus.settle()
    bus.sent.clear()
    return bus


def acknowledged(bus: Bus) -> list[tuple[int, int]]:
    return [(m.header.first, m.header.flags) for m in bus.to(b"A", Command.ACK) if m.header.source == RANK]


class TestNumberedLoss:
    def test_moves_the_stream_when_it_is_on_disk_and_says_so(self, bus):
        bus.say(b"A", put(RANK, LOG, 6, log("6")))
        assert acknowledged(bus) == [(2, Flag.REWIND)]
        bus.say(b"A", put(AGENT, SIGNALS, 1, loss(3, 5)))
        bus.say(b"A", put(RANK, LOG, 6, log("6")))
        assert bus.texts() == ["1", "2"]
        bus.commit()
        assert acknowledged(bus) == [(2, Flag.REWIND), (5, Flag.REWIND)]  # what was dropped is to come now
        bus.say(b"A", put(RANK, LOG, 6, log("6")))
        bus.settle()
        assert bus.texts() == ["1", "2", "6"]
        assert [batch.position for batch in bus.journal if batch.channel == LOG] == [1, 3]

    def test_waits_until_the_stream_has_come_to_it(self, bus):
        bus.say(b"A", put(AGENT, SIGNALS, 1, loss(5, 9)))
        bus.settle()
        bus.say(b"A", put(RANK, LOG, 10, log("10")))
        bus.settle()
        assert acknowledged(bus) == [(2, Flag.REWIND)]
        bus.say(b"A", put(RANK, LOG, 3, log("3"), log("4")))
        assert bus.core._executions[RUN].streams[RANK, LOG].committed == 2
        bus.settle()
        assert acknowledged(bus)[-1] == (9, 0)

    def test_is_not_acknowledged_before_what_comes_first_is_on_disk(self, bus):
        bus.say(b"A", put(AGENT, SIGNALS, 1, loss(4, 9)))
        bus.say(b"A", put(RANK, LOG, 3, log("3")))
        loss_row, line = bus.pending
        bus.pending = [loss_row]
        bus.commit()
        assert [first for first, _ in acknowledged(bus)] in ([], [2])
        bus.pending = [line]
        bus.commit()
        assert acknowledged(bus)[-1] == (9, 0)

    def test_what_came_all_the_same_is_not_lost(self, bus):
        bus.say(b"A", put(AGENT, SIGNALS, 1, loss(1, 4)))
        bus.settle()
        assert acknowledged(bus) == [(4, 0)]
        assert conserved(bus) == {"rank:0/log": (4, 2)}

    def test_is_known_after_a_restart(self, bus):
        bus.say(b"A", put(AGENT, SIGNALS, 1, loss(3, 5), loss(9, 9)))
        bus.settle()
        bus.restart()
        bus.hello(b"A", "agent", RUN)
        bus.say(b"A", put(RANK, LOG, 6, log("6"), log("7"), log("8")))
        bus.settle()
        bus.restart()
        bus.hello(b"A", "agent", RUN)
        bus.say(b"A", put(RANK, LOG, 10, log("10")))
        bus.settle()
        assert bus.texts() == ["1", "2", "6", "7", "8", "10"]
        assert conserved(bus) == {"rank:0/log": (10, 6)}

    def test_after_the_final_state_it_still_lets_its_stream_go_on(self, bus):
        """Else the agent of an execution that has ended without it would be told to go back for ever."""
        bus.pass_time(LOST_S + 1)
        bus.settle()
        assert bus.states()[-1] == "LOST"
        bus.hello(b"A", "agent", RUN)
        bus.say(b"A", put(AGENT, SIGNALS, 1, loss(3, 5)))
        bus.settle()
        assert acknowledged(bus)[-1] == (5, 0)
        bus.say(b"A", put(RANK, LOG, 6, log("6")))
        bus.settle()
        assert bus.texts() == ["1", "2", "6"]
        assert bus.states()[-1] == "LOST"

    def test_is_known_long_after_the_end(self, bus):
        """When the execution is not in memory any more, and its agent comes back with what follows the loss."""
        bus.say(b"A", put(AGENT, SIGNALS, 1, loss(3, 5)))
        bus.pass_time(LOST_S + 1)
        bus.pass_time(RECENT_S + 10)
        bus.hello(b"A", "agent", RUN)
        bus.say(b"A", put(RANK, LOG, 6, log("6")))
        bus.settle()
        assert bus.texts() == ["1", "2", "6"]
        assert acknowledged(bus)[-1] == (6, 0)

    def test_of_a_whole_stream(self, bus):
        bus.say(b"A", put(AGENT, SIGNALS, 1, loss(1, 7, "rank:0/metrics")))
        bus.settle()
        assert conserved(bus)["rank:0/metrics"] == (7, 0)

    def test_settles_what_was_reported(self, bus):
        signals = [record("rank_started", host="h"), record("rank_ended", exit_code=0)]
        bus.say(b"A", put(RANK, SIGNALS, 1, *signals))
        launcher = [record("launcher_started", host="h", agents=1), record("launcher_ended", exit_code=0)]
        from theorbo.schemas.names import LAUNCHER

        bus.say(b"A", put(LAUNCHER, SIGNALS, 1, *launcher))
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="h")))
        closed = record("agent_closed", streams={"rank:0/log": 12, "rank:0/signals": 2})
        bus.say(b"A", put(AGENT, SIGNALS, 2, closed))
        bus.settle()
        assert bus.states() == ["RUNNING"]
        bus.say(b"A", put(AGENT, SIGNALS, 3, loss(3, 12)))
        bus.settle()
        assert bus.states() == ["RUNNING", "COMPLETED"]
        assert bus.own_events()[-2].streams["rank:0/log"] == (12, 2)
        assert bus.own_events()[-2].lost == 10
        assert view_of(bus)["lost"] == 10

    @pytest.mark.parametrize(
        ("peer", "source", "number", "event"),
        [
            (b"A", AGENT, 1, loss(2, 5, "executor/signals")),
            (b"A", AGENT, 1, loss(1, 5, "agent:1/signals")),
            (b"A", AGENT, 1, loss(1, 5, "broker/signals")),
            (b"A", RANK, 1, loss(1, 5, "rank:1/log")),
            (b"E", EXECUTOR, 2, loss(3, 5)),
            (b"A", AGENT, 1, loss(5, 3)),
            (b"A", AGENT, 1, loss(3, 5, "rank:0/smells")),
        ],
    )
    def test_that_is_not_for_its_source_to_say_changes_nothing(self, bus, peer, source, number, event):
        before = {stream: head.accepted for stream, head in bus.core._executions[RUN].streams.items()}
        bus.say(peer, put(source, SIGNALS, number, event))
        bus.settle()
        after = {stream: head.accepted for stream, head in bus.core._executions[RUN].streams.items()}
        assert {stream: after[stream] for stream in before if stream != (source, SIGNALS)} == {
            stream: number for stream, number in before.items() if stream != (source, SIGNALS)
        }
        assert view_of(bus)["lost"] == 0
        assert len(bus.notes) == 1


def conserved(bus: Bus) -> dict[str, tuple[int, int]]:
    """Reported and delivered of the streams of ranks, as it would stand in the conservation record."""
    (record,) = bus.core._executions[RUN]._conservation(bus.now)
    return {stream: counts for stream, counts in record.streams.items() if stream.startswith("rank")}


@settings(max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("accept"), st.integers(1, 4), st.just(0)),
            st.tuples(st.just("commit"), st.just(0), st.just(0)),
            st.tuples(st.just("lose"), st.integers(1, 40), st.integers(0, 8)),
        ),
        max_size=60,
    )
)
def test_a_stream_counts_every_number_once_as_delivered_or_missing(steps):
    """Against a model that is a set of numbers for each."""
    head = StreamHead()
    delivered: set[int] = set()
    said_lost: set[int] = set()
    pending: list[int] = []
    for what, a, b in steps:
        match what:
            case "accept":
                first = head.accepted + 1
                delivered |= set(range(first, first + a))
                pending.append(first + a - 1)
                head.accept(a)
            case "commit" if pending:
                head.commit(pending.pop(0))
            case "lose":
                said_lost |= set(range(a, a + b + 1))
                head.lose(a, a + b)
        assert head.committed <= head.accepted
        assert set(range(1, head.accepted + 1)) <= delivered | said_lost
        assert head.accepted + 1 not in said_lost - delivered
        assert head.missing == len(set(range(1, head.accepted + 1)) - delivered)
        assert pending or head.committed == head.accepted
        on_disk = delivered - set(range(pending[0], head.accepted + 1)) if pending else delivered
        assert set(range(1, head.committed + 1)) <= on_disk | said_lost


def test_losses_far_ahead_are_remembered_up_to_a_limit():
    head = StreamHead()
    for number in range(LOSSES_AHEAD + 50, 1, -1):
        head.lose(2 * number, 2 * number)
    assert len(head._losses) == LOSSES_AHEAD
    head.accept(3)
    assert head.accepted == 4


class TestDamagedRows:
    def read(self, bus: Bus, request: int = 1) -> None:
        bus.hello(b"O", "observer")
        bus.say(b"O", Message(Command.READ, Header(request=request, execution=RUN), encode_json(follow=False)))

    @pytest.fixture
    def sequence(self, bus) -> int:
        """Of a row with lines 3 and 4, which is damaged."""
        bus.say(b"A", put(RANK, LOG, 3, log("3"), log("4")))
        bus.settle()
        bus.damaged.add(bus.journal[-1].sequence)
        bus.say(b"A", put(RANK, LOG, 5, log("5")))
        bus.settle()
        return next(iter(bus.damaged))

    def test_are_reported_as_a_loss_and_set_aside_once(self, bus, sequence):
        self.read(bus)
        self.read(bus, 2)
        assert bus.set_aside == [sequence]
        bus.settle()
        (lost,) = bus.own_events()
        assert (lost.stream, lost.first, lost.last, lost.count) == ("rank:0/log", 3, 4, 2)
        assert lost.detail == "damaged in the journal"
        assert conserved(bus) == {"rank:0/log": (5, 3)}
        assert view_of(bus)["lost"] == 2

    def test_the_loss_and_the_removal_are_one_transaction(self, bus, sequence):
        before = len(bus.instructions)
        self.read(bus)
        kinds = [type(each).__name__ for each in bus.instructions[before:]]
        assert kinds.index("SetAside") == kinds.index("Append") + 1

    def test_are_known_after_a_restart(self, bus, sequence):
        self.read(bus)
        bus.settle()
        bus.restart()
        assert conserved(bus) == {"rank:0/log": (5, 3)}
        assert bus.core._executions[RUN].streams[RANK, LOG].accepted == 5

    def test_of_the_end_of_a_stream_are_not_delivered_again_and_their_positions_not_given_again(self, bus):
        bus.damaged.add(bus.journal[-1].sequence)
        self.read(bus)
        bus.settle()
        bus.restart()
        bus.hello(b"A", "agent", RUN)
        bus.say(b"A", put(RANK, LOG, 1, log("1"), log("2"), log("3")))
        bus.settle()
        assert (bus.journal[-1].first, bus.journal[-1].position) == (3, 3)
        assert conserved(bus) == {"rank:0/log": (3, 1)}

    def test_of_an_ended_execution_are_late(self, bus, sequence):
        bus.pass_time(130)
        assert bus.states() == ["LOST"]
        bus.pass_time(100)
        self.read(bus)
        bus.settle()
        assert bus.journal[-1].flags == Flag.LATE
        assert bus.own_events()[-1].detail == "damaged in the journal"
        assert bus.states() == ["LOST"]

    def test_found_while_the_final_state_is_on_its_way_to_the_disk_are_late(self, bus, sequence):
        bus.pass_time(LOST_S - 2)
        for _ in range(4):
            bus.now += 1.0
            bus.give(Tick())
        assert bus.pending
        self.read(bus)
        bus.settle()
        assert [batch.flags for batch in bus.journal[-2:]] == [0, Flag.LATE]
        assert bus.states() == ["LOST"]

    @pytest.mark.parametrize("way", ["time", "retention", "others"])
    def test_of_an_ended_execution_keep_it_in_memory_until_their_loss_is_on_disk(self, bus, sequence, way):
        """On a full disk that takes as long as it takes."""
        bus.pass_time(LOST_S + 1)
        bus.pass_time(RECENT_S + 10)
        self.read(bus)
        (loss_event,) = bus.pending
        match way:
            case "time":
                for _ in range(int(RECENT_S) + 2):
                    bus.now += 1.0
                    bus.give(Tick())
            case "retention":
                bus.give(Forgotten(RUN))
            case _:
                for number in range(ENDED_IN_MEMORY + 1):
                    execution = number.to_bytes(16, "big")
                    bus.give(Recalled(execution, Past([], {}, [], bus.kept[RUN].view)))
        assert bus.pending == [loss_event]
        bus.settle()
        assert bus.own_events()[-1].detail == "damaged in the journal"

    def test_of_an_execution_that_is_removed_are_only_set_aside(self, bus):
        row = bus.journal[-1]._replace(execution=b"?" * 16, body=b"", sequence=99)
        bus.give(JournalRead(b"O", 1, 0, [], 0, damaged=(row, row)))
        assert bus.set_aside == [99]
        assert bus.pending == []
