"""Who may speak: epochs and incarnations; who comes back late; who comes back after the end."""

from __future__ import annotations

import pytest

from theorbo.broker.values import Keep, Tick
from theorbo.schemas.frames import Command, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import COUNT, LOST_S
from theorbo.schemas.names import BROKER, EXECUTOR, LAUNCHER, Channel, Source, SourceKind

from .bus import AGENT, RANK, RUN, SUBMITTED, Bus, decoded, log, put, record
from .test_core import STREAMS, view_of

SIGNALS, LOG = Channel.SIGNALS, Channel.LOG


@pytest.fixture
def bus() -> Bus:
    bus = Bus()
    bus.submit()
    return bus


class TestHello:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"source": None}, {"source": "executor"}, {"source": "rank:0"}, {"source": "agent:-1"},
            {"source": ["agent:0"]}, {"source": "agent:4294967296"}, {"source": "agent:00"},
            {"epoch": 0}, {"epoch": None}, {"epoch": True}, {"epoch": 1.0}, {"epoch": COUNT + 1},
            {"incarnation": ""}, {"incarnation": None}, {"incarnation": "x" * 201},
        ],
    )  # fmt: skip
    def test_an_agent_that_does_not_say_who_it_is_is_refused(self, bus, wrong):
        who = {"role": "agent", "source": "agent:0", "epoch": 1, "incarnation": "a", **wrong}
        bus.say(b"X", Message(Command.HELLO, Header(execution=RUN), encode_json(**who)))
        assert bus.refusals(b"X") == ["malformed"]

    def test_an_agent_that_has_only_said_hello_is_alive_under_its_name(self, bus):
        assert view_of(bus)["contact"] == {"agent:0": "alive", "executor": "alive"}

    @pytest.mark.parametrize(
        ("peer", "source"),
        [
            (b"E", RANK), (b"E", AGENT), (b"E", LAUNCHER), (b"A", EXECUTOR), (b"A", Source(SourceKind.AGENT, 1)),
            (b"A", BROKER),
        ],
    )  # fmt: skip
    def test_nobody_reports_for_somebody_else(self, bus, peer, source):
        bus.say(peer, put(source, LOG, 1, log("not mine")))
        assert bus.refusals(peer) == ["not_allowed"]
        assert bus.pending == []


class TestFencing:
    def test_a_higher_epoch_takes_over(self, bus):
        bus.hello(b"A2", "agent", RUN, epoch=2, incarnation="the second")
        assert bus.refusals(b"A") == ["fenced"]
        bus.say(b"A", put(RANK, LOG, 1, log("too late")))
        bus.hello(b"A", "agent", RUN)
        assert bus.refusals(b"A") == ["fenced", "unknown_peer", "fenced"]
        bus.say(b"A2", put(RANK, LOG, 1, log("mine")))
        bus.settle()
        assert bus.texts() == ["mine"]

    def test_the_same_epoch_of_another_process_is_a_copy(self, bus):
        bus.hello(b"C", "agent", RUN, incarnation="a copy")
        assert bus.refusals(b"C") == ["fenced"]
        assert bus.to(b"C", Command.WELCOME) == []
        bus.say(b"A", put(RANK, LOG, 1, log("the true one goes on")))
        bus.settle()
        assert bus.texts() == ["the true one goes on"]

    def test_the_same_process_on_a_new_connection_goes_on(self, bus):
        bus.hello(b"A'", "agent", RUN)
        assert bus.refusals(b"A") == []
        assert len(bus.to(b"A'", Command.WELCOME)) == 1
        bus.say(b"A'", put(RANK, LOG, 1, log("again")))
        bus.settle()
        assert bus.texts() == ["again"]

    def test_agents_of_other_nodes_are_not_concerned(self, bus):
        bus.hello(b"B", "agent", RUN, epoch=7, incarnation="on node 1", node=1)
        bus.say(b"A", put(RANK, LOG, 1, log("x")))
        bus.settle()
        assert bus.texts() == ["x"]

    def test_the_reads_of_a_fenced_executor_end(self, bus):
        bus.say(b"E", Message(Command.READ, Header(request=1, execution=RUN), encode_json(follow=True)))
        bus.hello(b"E2", "executor", RUN, epoch=2, incarnation="the second")
        bus.sent.clear()
        bus.say(b"A", put(RANK, LOG, 1, log("x")))
        bus.settle()
        assert bus.to(b"E", Command.EVENTS) == []

    def test_of_two_that_submit_the_same_the_first_wins(self):
        bus = Bus()
        bus.hello(b"E1", "executor", RUN, incarnation="one")
        bus.hello(b"E2", "executor", RUN, incarnation="two")
        bus.say(b"E2", put(EXECUTOR, SIGNALS, 1, SUBMITTED))
        bus.settle()
        bus.hello(b"E1", "executor", RUN, incarnation="one")
        assert bus.refusals(b"E1")[-1] == "fenced"
        assert bus.refusals(b"E2") == []

    @pytest.mark.parametrize(
        ("role", "source", "event"),
        [
            ("agent", AGENT, {"kind": "agent_started", "host": "h", "epoch": 3, "incarnation": "third"}),
            (
                "executor",
                EXECUTOR,
                {
                    "kind": "executor_attached",
                    "epoch": 3,
                    "incarnation": "third",
                    "number": 2,
                    "user": "u",
                    "host": "h2",
                },
            ),
        ],
    )
    def test_a_restarted_broker_knows_epochs_from_the_journal(self, bus, role, source, event):
        bus.hello(b"N", role, RUN, epoch=3, incarnation="third")
        bus.say(b"N", put(source, SIGNALS, 2 if source == EXECUTOR else 1, record(**event)))
        bus.settle()
        bus.restart()
        for epoch, incarnation in ((1, "the first"), (2, "second"), (3, "another third")):
            bus.hello(b"O", role, RUN, epoch=epoch, incarnation=incarnation)
        assert bus.refusals(b"O") == ["fenced"] * 3
        bus.hello(b"N", role, RUN, epoch=3, incarnation="third")
        assert bus.refusals(b"N") == []

    def test_a_restarted_broker_knows_who_submitted(self):
        bus = Bus()
        bus.hello(b"E", "executor", RUN, incarnation="one")
        submitted = record("execution_submitted", task="t", user="u", host="h", incarnation="one")
        bus.say(b"E", put(EXECUTOR, SIGNALS, 1, submitted))
        bus.settle()
        bus.restart()
        bus.hello(b"X", "executor", RUN, incarnation="two")
        bus.hello(b"E", "executor", RUN, incarnation="one")
        assert (bus.refusals(b"X"), bus.refusals(b"E")) == (["fenced"], [])

    def test_the_view_tells_the_executors_epoch_and_host(self, bus):
        assert (view_of(bus)["executor_epoch"], view_of(bus)["executor_host"]) == (1, "login")
        bus.hello(b"E2", "executor", RUN, epoch=2, incarnation="the second")
        attached = record("executor_attached", epoch=2, incarnation="the second", number=2, user="bob", host="login2")
        bus.say(b"E2", put(EXECUTOR, SIGNALS, 2, attached))
        bus.settle()
        assert (view_of(bus)["executor_epoch"], view_of(bus)["executor_host"]) == (2, "login2")
        assert view_of(bus)["host"] == "login"

    def test_the_view_of_an_ended_one_tells_an_epoch_to_go_on_from(self, bus):
        bus.run_to_end(streams=STREAMS, logs=3)
        bus.restart()
        bus.hello(b"E2", "executor", RUN, epoch=2, incarnation="the second")
        (welcome,) = bus.to(b"E2", Command.WELCOME)
        assert decode_json(welcome.body)["accepted"] == 1
        assert view_of(bus)["executor_epoch"] == 2


class TestGhosts:
    def kills(self, bus: Bus, peer: bytes) -> list[Message]:
        return [message for message in bus.to(peer, Command.CONTROL) if message.header.source == BROKER]

    def test_an_agent_that_says_hello_after_the_end_is_told_to_end(self, bus):
        bus.pass_time(LOST_S + 2)
        assert bus.states() == ["LOST"]
        bus.sent.clear()
        bus.hello(b"A", "agent", RUN)
        assert [send.message.command for send in bus.sent] == [Command.WELCOME, Command.CONTROL]
        (control,) = self.kills(bus, b"A")
        (event,) = decoded(control.body)
        assert (event.action, event.by, event.grace_s) == ("kill", "broker", 0.0)
        assert "LOST" in event.reason
        assert (control.header.position, control.header.count, control.header.execution) == (0, 1, RUN)

    def test_also_long_after_the_end_and_after_a_restart(self, bus):
        bus.pass_time(LOST_S + 2)
        bus.restart()
        bus.hello(b"A", "agent", RUN)
        assert len(self.kills(bus, b"A")) == 1
        assert bus.to(b"A", Command.CONTROL) == self.kills(bus, b"A")

    def test_one_that_comes_back_while_the_loss_is_on_its_way_to_the_disk_is_told_then(self, bus):
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="node1")))
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, record("launcher_gone", reason="killed")))
        while not any(b"state_changed" in batch.body for batch in bus.pending):
            bus.settle()
            bus.now += 1.0
            bus.say(b"E", Message(Command.PING))
            bus.give(Tick())
        bus.hello(b"A", "agent", RUN)
        assert bus.to(b"A", Command.CONTROL) == []
        bus.settle()
        assert bus.states() == ["LOST"]
        assert len(self.kills(bus, b"A")) == 1

    def test_an_agent_of_an_open_execution_is_not(self, bus):
        bus.hello(b"A", "agent", RUN)
        assert bus.to(b"A", Command.CONTROL) == []

    def test_what_a_ghost_delivers_is_late(self, bus):
        bus.pass_time(LOST_S + 2)
        bus.hello(b"A", "agent", RUN)
        bus.say(b"A", put(RANK, LOG, 1, log("boo")))
        bus.settle()
        assert bus.journal[-1].flags == 2
        assert bus.states() == ["LOST"]


class TestEvidence:
    @pytest.mark.parametrize(
        ("source", "kind", "fields"),
        [
            (RANK, "launcher_ended", {"exit_code": 0}),
            (RANK, "agent_closed", {"streams": {}}),
            (RANK, "control_requested", {"action": "kill", "by": "a rank"}),
            (AGENT, "rank_ended", {"exit_code": 0}),
            (AGENT, "state_changed", {"state": "COMPLETED", "previous": "RUNNING"}),
            (LAUNCHER, "execution_submitted", {"task": "t", "user": "u", "host": "h"}),
            (RANK, "executor_attached", {"epoch": 9, "incarnation": "x", "number": 1, "user": "u", "host": "h"}),
            (RANK, "conservation", {"streams": {}}),
        ],
    )
    def test_what_one_cannot_know_is_kept_and_is_no_evidence(self, bus, source, kind, fields):
        before = view_of(bus)
        bus.notes.clear()
        bus.say(b"A", put(source, SIGNALS, 1, record(kind, **fields)))
        bus.settle()
        assert [note.fields["problem"] for note in bus.notes] == [f"{source} cannot report {kind}"]
        assert bus.to(b"A", Command.CONTROL) == []
        assert {**view_of(bus), "heads": {}} == {**before, "heads": {}}
        assert bus.journal[-1].source == source

    def test_every_kind_of_signal_has_its_sources(self):
        from theorbo.schemas.names import KIND_CHANNELS, KIND_SOURCES

        assert set(KIND_SOURCES) == {kind for kind, channel in KIND_CHANNELS.items() if channel is SIGNALS}


def test_an_old_view_without_an_executors_epoch_still_has_one():
    bus = Bus()
    bus.kept[RUN] = Keep(RUN, 1.0, 2.0, {"state": "FAILED", "submitted": 1.0, "execution": RUN.hex()})
    bus.hello(b"A", "agent", RUN)
    assert view_of(bus)["executor_epoch"] == 1


def test_an_agent_that_has_said_hello_is_waited_for_when_the_launcher_has_gone():
    """It may be cut off, with all that the ranks have reported."""
    bus = Bus()
    bus.submit()
    bus.say(b"E", put(EXECUTOR, SIGNALS, 2, record("launcher_gone", reason="killed")))
    bus.settle()
    assert bus.states() == []
    bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="node1")))
    bus.say(b"A", put(RANK, SIGNALS, 1, record("rank_started", host="h"), record("rank_ended", exit_code=0)))
    bus.say(b"A", put(AGENT, SIGNALS, 2, record("agent_closed", streams={"rank:0/signals": 2})))
    bus.settle()
    assert bus.states() == ["RUNNING", "COMPLETED"]
