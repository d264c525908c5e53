"""REQUEST: what anybody wants of an execution is journaled once, answered, and heard by all its agents."""

from __future__ import annotations

import pytest

from theorbo.broker.values import Keep
from theorbo.schemas import events
from theorbo.schemas.frames import NO_EXECUTION, Command, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import (
    BEGINNING_CHARACTERS,
    CONTROLS,
    GRACE_MOST_S,
    NAME_CHARACTERS,
    PENDING_JOURNAL_BYTES,
    REQUESTS_UNDER_WAY,
)
from theorbo.schemas.names import BROKER, EXECUTOR, Channel, Source, SourceKind

from .bus import AGENT, RUN, Bus, decoded, log, put, record
from .test_core import STREAMS

SIGNALS = Channel.SIGNALS


@pytest.fixture
def bus() -> Bus:
    """An execution with an agent `A`, and a bystander `O`."""
    bus = Bus()
    bus.submit()
    bus.hello(b"O", "observer", principal="ada")
    bus.sent.clear()
    return bus


def ask(bus, peer=b"O", request=5, execution=RUN, principal="ada", **body):
    fields = {"action": "cancel", "by": "ada@login", **body}
    bus.say(
        peer, Message(Command.REQUEST, Header(request=request, execution=execution), encode_json(**fields)), principal
    )


def requests(bus):
    """What stands in the journal."""
    own = [event for batch in bus.journal for event in decoded(batch.body)]
    return [event for event in own if isinstance(event, events.ControlRequested)]


def controls(bus, peer=b"A"):
    """What an agent has heard, as (action, position)."""
    return [(decoded(message.body)[0].action, message.header.position) for message in bus.to(peer, Command.CONTROL)]


class TestRequest:
    def test_it_is_journaled_as_the_brokers_own_event_with_who_and_why(self, bus):
        ask(bus, action="stop", reason="the beam is off", grace_s=3, token="t1")
        bus.commit()
        (event,) = requests(bus)
        assert (event.action, event.by, event.reason, event.grace_s) == ("stop", "ada@login", "the beam is off", 3.0)
        assert (event.principal, event.token, event.cause, event.time) == ("ada", "t1", "user", bus.now)
        assert bus.journal[-1].source == BROKER
        assert bus.journal[-1].flags == 0

    def test_nobody_hears_of_it_before_it_is_on_disk(self, bus):
        ask(bus)
        assert bus.sent == []
        assert bus.published == []
        bus.commit()
        (answer,) = bus.to(b"O", Command.REQUESTED)
        row = bus.journal[-1]
        assert (answer.header.request, answer.header.execution) == (5, RUN)
        assert (answer.header.position, answer.header.sequence) == (row.position, row.sequence)
        (control,) = bus.to(b"A", Command.CONTROL)
        assert (control.header.source, control.header.position) == (BROKER, row.position)
        assert control.body == row.body

    def test_without_a_grace_the_executions_own_holds(self, bus):
        ask(bus)
        other = bytes(16 * [9])
        submitted = record("execution_submitted", task="t", user="u", host="h", grace_s=33.0)
        bus.hello(b"F", "executor", other)
        bus.say(b"F", put(EXECUTOR, SIGNALS, 1, submitted, execution=other))
        bus.commit()
        ask(bus, execution=other)
        bus.commit()
        assert [event.grace_s for event in requests(bus)] == [10.0, 33.0]

    def test_an_executor_may_request_too_also_of_another_execution(self, bus):
        other = bytes(16 * [9])
        bus.hello(b"F", "executor", other)
        ask(bus, peer=b"F", principal="alice")
        bus.commit()
        assert len(bus.to(b"F", Command.REQUESTED)) == 1

    def test_of_an_execution_that_is_only_in_the_journal(self, bus):
        del bus.core._executions[RUN]
        ask(bus)
        bus.commit()
        assert len(bus.to(b"O", Command.REQUESTED)) == 1

    def test_who_has_gone_is_not_answered_and_the_request_stands(self, bus):
        ask(bus)
        bus.say(b"O", Message(Command.BYE), "ada")
        bus.commit()
        assert bus.to(b"O", Command.REQUESTED) == []
        assert controls(bus) == [("cancel", 2)]


class TestRefused:
    def refused(self, bus, peer=b"O"):
        (message,) = bus.to(peer, Command.REFUSED)
        assert bus.pending == []
        return decode_json(message.body)

    @pytest.mark.parametrize(
        ("wrong", "word"),
        [
            ({"action": "explode"}, "cancel, kill, stop, continue, stacks"),
            ({"action": None}, "action 'None'"),
            ({"action": ["cancel"]}, "action"),
            ({"by": ""}, "by is empty"),
            ({"by": 7}, "by is no text"),
            ({"by": "x" * (NAME_CHARACTERS + 1)}, str(NAME_CHARACTERS)),
            ({"reason": "x" * (BEGINNING_CHARACTERS + 1)}, str(BEGINNING_CHARACTERS)),
            ({"reason": None}, "reason is no text"),
            ({"reason": "\ud800"}, "half a character"),
            ({"grace_s": -1}, "grace_s -1"),
            ({"grace_s": True}, "grace_s True"),
            ({"grace_s": "10"}, "grace_s"),
            ({"grace_s": float("nan")}, "grace_s nan"),
            ({"grace_s": 10**400}, "grace_s"),
            ({"grace_s": GRACE_MOST_S + 1}, f"{GRACE_MOST_S:.0f}"),
            ({"token": 3}, "token is no text"),
            ({"token": "x" * (NAME_CHARACTERS + 1)}, str(NAME_CHARACTERS)),
        ],
    )  # fmt: skip
    def test_what_is_not_as_it_must_be_names_what_and_how(self, bus, wrong, word):
        ask(bus, **wrong)
        refusal = self.refused(bus)
        assert refusal["code"] == "malformed"
        assert word in refusal["message"]

    @pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff"])
    def test_what_is_no_object(self, bus, body):
        bus.say(b"O", Message(Command.REQUEST, Header(request=5, execution=RUN), body), "ada")
        assert self.refused(bus)["code"] == "malformed"

    def test_of_no_execution(self, bus):
        ask(bus, execution=NO_EXECUTION)
        assert self.refused(bus)["code"] == "malformed"

    def test_of_an_execution_that_nobody_knows(self, bus):
        ask(bus, execution=bytes(16 * [7]))
        assert self.refused(bus)["code"] == "unknown_execution"

    def test_of_one_that_has_ended(self, bus):
        bus.run_to_end(streams=STREAMS, logs=3)
        ask(bus)
        refusal = self.refused(bus)
        assert refusal["code"] == "ended"
        assert "COMPLETED" in refusal["message"]

    def test_of_one_that_had_ended_before_the_broker_was_started(self, bus):
        bus.kept[RUN] = Keep(RUN, 1.0, 2.0, {**bus.kept[RUN].view, "state": "FAILED", "submitted": 1.0})
        bus.restart()
        bus.hello(b"O", "observer", principal="ada")
        ask(bus)
        assert self.refused(bus)["code"] == "ended"

    def test_while_the_final_state_is_on_its_way_to_the_disk(self, bus):
        """Behind it a request would be late, and nobody would carry it out."""
        bus.say(b"E", put(EXECUTOR, SIGNALS, 2, record("launcher_gone", reason="killed")))
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="h"), record("agent_closed", streams={})))
        bus.commit()
        assert b"state_changed" in bus.pending[-1].body
        ask(bus)
        assert bus.refusals(b"O") == ["ended"]
        bus.settle()
        assert requests(bus) == []

    def test_by_an_agent(self, bus):
        ask(bus, peer=b"A", principal="alice")
        assert self.refused(bus, b"A")["code"] == "not_allowed"

    def test_by_one_who_has_not_said_hello(self, bus):
        ask(bus, peer=b"X")
        assert self.refused(bus, b"X")["code"] == "unknown_peer"

    def test_while_too_much_waits_for_the_journal(self, bus):
        bus.core._deliveries._pending_bytes = PENDING_JOURNAL_BYTES + 1
        ask(bus)
        assert self.refused(bus)["code"] == "busy"

    def test_more_than_may_wait(self, bus):
        for number in range(REQUESTS_UNDER_WAY):
            ask(bus, token=str(number))
        assert bus.refusals(b"O") == []
        ask(bus)
        assert bus.refusals(b"O") == ["busy"]
        bus.commit()
        ask(bus)
        assert bus.refusals(b"O") == ["busy"]
        assert len(bus.pending) == 1


class TestAskedAgain:
    """A link asks an unanswered question again after each WELCOME."""

    def test_before_the_commit_all_who_asked_are_answered_once(self, bus):
        ask(bus, token="t1")
        bus.hello(b"O2", "observer", principal="ada")
        ask(bus, peer=b"O2", token="t1", request=6)
        ask(bus, peer=b"O2", token="t1", request=6)
        bus.settle()
        assert len(requests(bus)) == 1
        assert [len(bus.to(peer, Command.REQUESTED)) for peer in (b"O", b"O2")] == [1, 1]
        assert bus.to(b"O2", Command.REQUESTED)[0].header.request == 6
        assert len(controls(bus)) == 1

    def test_after_the_commit_the_same_position_is_told(self, bus):
        ask(bus, token="t1")
        bus.commit()
        bus.hello(b"O2", "observer", principal="ada")
        ask(bus, peer=b"O2", token="t1", request=9)
        assert bus.pending == []
        (first,), (again,) = bus.to(b"O", Command.REQUESTED), bus.to(b"O2", Command.REQUESTED)
        assert again.header.request == 9
        assert (again.header.position, again.header.sequence) == (first.header.position, first.header.sequence)

    def test_of_a_broker_that_was_restarted_after_the_commit(self, bus):
        ask(bus, token="t1")
        bus.commit()
        bus.restart()
        bus.hello(b"O", "observer", principal="ada")
        ask(bus, token="t1")
        bus.settle()
        assert len(requests(bus)) == 1
        (answer,) = bus.to(b"O", Command.REQUESTED)
        assert answer.header.position == 2

    def test_of_a_broker_that_was_restarted_before_the_commit(self, bus):
        ask(bus, token="t1")
        bus.restart()
        bus.hello(b"O", "observer", principal="ada")
        ask(bus, token="t1")
        bus.settle()
        assert len(requests(bus)) == 1
        assert len(bus.to(b"O", Command.REQUESTED)) == 1

    def test_of_an_execution_that_has_ended_meanwhile(self, bus):
        ask(bus, action="stacks", token="t1")
        bus.commit()
        bus.run_to_end(streams=STREAMS, logs=3)
        bus.sent.clear()
        ask(bus, action="stacks", token="t1")
        assert len(bus.to(b"O", Command.REQUESTED)) == 1

    def test_a_token_names_one_request_only(self, bus):
        ask(bus, token="t1")
        ask(bus, action="kill", token="t1")
        (message,) = bus.to(b"O", Command.REFUSED)
        assert "cancel" in decode_json(message.body)["message"]

    def test_without_a_token_it_is_another_request(self, bus):
        ask(bus)
        ask(bus)
        bus.settle()
        assert len(requests(bus)) == 2

    def test_tokens_are_remembered_within_a_bound(self, bus):
        for number in range(2 * CONTROLS):
            ask(bus, token=str(number))
        bus.settle()
        assert len(bus.core._executions[RUN].controls._tokens) == CONTROLS
        ask(bus, token=str(CONTROLS))
        assert bus.pending == []


class TestAgentsThatComeLater:
    def hear(self, bus, node=1):
        bus.hello(b"B%d" % node, "agent", RUN, node=node)
        return controls(bus, b"B%d" % node)

    def done(self, bus, position, node=1, first=1, **fields):
        done = record("control_done", action="stop", request=position, **fields)
        bus.say(b"B%d" % node, put(Source(SourceKind.AGENT, node), SIGNALS, first, done))
        bus.settle()

    def want(self, bus, *actions):
        for action in actions:
            ask(bus, action=action)
            bus.commit()

    def test_every_request_for_an_end_and_the_last_of_the_others(self, bus):
        self.want(bus, "stop", "stacks", "cancel", "continue", "stop", "kill", "stacks")
        assert self.hear(bus) == [("cancel", 4), ("stop", 6), ("kill", 7), ("stacks", 8)]

    def test_also_after_a_restart_of_the_broker(self, bus):
        self.want(bus, "stop", "stacks", "cancel", "continue")
        bus.restart()
        assert self.hear(bus) == [("stacks", 3), ("cancel", 4), ("continue", 5)]

    def test_what_an_agent_has_carried_out_it_does_not_hear_again(self, bus):
        self.want(bus, "cancel", "stop", "stacks")
        assert self.hear(bus) == [("cancel", 2), ("stop", 3), ("stacks", 4)]
        self.done(bus, 3)
        self.done(bus, 4, first=2, refused="no handler")
        bus.sent.clear()
        assert self.hear(bus) == [("cancel", 2)]
        assert self.hear(bus, node=2) == [("cancel", 2), ("stop", 3), ("stacks", 4)]

    def test_another_stop_it_has_to_hear(self, bus):
        self.want(bus, "stop")
        self.hear(bus)
        self.done(bus, 2)
        self.want(bus, "continue", "stop")
        bus.sent.clear()
        assert self.hear(bus) == [("stop", 5)]

    def test_ends_are_bounded_and_others_do_not_push_them_out(self, bus):
        self.want(bus, "cancel", *["stacks"] * (2 * CONTROLS))
        assert self.hear(bus) == [("cancel", 2), ("stacks", 2 * CONTROLS + 2)]
        self.want(bus, *["kill"] * (CONTROLS + 5))
        assert len(self.hear(bus, node=2)) == CONTROLS + 1

    def test_none_when_the_execution_has_ended(self, bus):
        self.want(bus, "cancel")
        bus.run_to_end(streams=STREAMS, logs=3)
        assert [position for _, position in self.hear(bus)] == [0]


class TestAgentsRequests:
    def say(self, bus, **fields):
        bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="h"), record("control_requested", **fields)))
        bus.settle()

    def test_a_time_limit_that_an_agent_keeps_reaches_all(self, bus):
        bus.hello(b"B", "agent", RUN, node=1)
        self.say(bus, action="cancel", cause="time_limit", by="agent:0", reason="time limit of 60 s")
        assert controls(bus) == controls(bus, b"B") == [("cancel", 3)]

    def test_nothing_else_is_an_agents_to_want(self, bus):
        self.say(bus, action="kill", cause="user", by="agent:0")
        assert controls(bus) == []
        assert bus.core._executions[RUN].evidence.request is None
        (note,) = [note for note in bus.notes if "malformed" in note.text]
        assert "agent:0 cannot request to kill" in note.fields["problem"]


def test_a_request_between_two_batches_keeps_positions_and_numbers(bus):
    bus.say(b"A", put(AGENT, SIGNALS, 1, record("agent_started", host="h")))
    ask(bus)
    bus.say(b"A", put(AGENT, SIGNALS, 2, log("x")))
    bus.settle()
    assert [(batch.source, batch.first, batch.position) for batch in bus.journal[1:]] == [
        (AGENT, 1, 2),
        (BROKER, 1, 3),
        (AGENT, 2, 4),
    ]
