"""Who has to answer a request, who has, and when the wait is over."""

import pytest

from theorbo.observer.receipts import Receipts
from theorbo.observer.requesting import StackLines
from theorbo.schemas import events
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import DRAIN_S, RECEIPT_S, SETTLE_S
from theorbo.schemas.names import BROKER, EXECUTOR, LAUNCHER, Channel, Source, SourceKind
from theorbo.schemas.states import State

REQUEST = 20
NOW = 1000.0
WRITERS_CLOCK = 5.0e6  # of nodes: any time at all


def agent(number):
    return Source(SourceKind.AGENT, number)


class Request:
    """Receipts of an execution on two nodes that runs, and was asked for something."""

    def __init__(self, action, *, agents=2, state="RUNNING"):
        self.receipts = Receipts(action, REQUEST, State.PENDING, NOW)
        self.position = 0
        if agents:
            self.say(LAUNCHER, events.LauncherStarted(time=0.0, host="login", agents=agents))
        for number in range(agents):
            self.say(agent(number), events.AgentStarted(time=0.0, host=f"node{number + 1}"))
        if state != "PENDING":
            self.state(state, "PENDING")
        self.position = REQUEST - 1
        self.say(BROKER, events.ControlRequested(time=0.0, action=action, by="ada@lab"))

    def say(self, source, event, now=NOW):
        self.position += 1
        header = Header(source=source, channel=Channel.SIGNALS, position=self.position)
        return self.receipts.take(header, event, now)

    def state(self, state, previous="RUNNING", now=NOW):
        return self.say(BROKER, events.StateChanged(time=0.0, state=state, previous=previous), now)

    def accept(self, source, span_s=12.0, now=NOW, position=REQUEST):
        return self.say(
            source,
            events.ControlAccepted(
                time=WRITERS_CLOCK, action="x", request=position, deadline=WRITERS_CLOCK + span_s
            ),
            now,
        )  # fmt: skip

    def done(self, source, now=NOW, position=REQUEST, **said):
        return self.say(source, events.ControlDone(time=WRITERS_CLOCK, action="x", request=position, **said), now)

    @property
    def missing(self):
        return [answer.source for answer in self.receipts.missing]


def test_it_is_over_when_all_nodes_have_done_it_and_the_state_says_so():
    asked = Request("stop")
    assert asked.missing == ["agent:0", "agent:1"]
    asked.accept(agent(0))
    asked.done(agent(0))
    assert asked.missing == ["agent:1"]
    assert not asked.receipts.over(NOW)
    asked.done(agent(1))
    assert not asked.receipts.over(NOW + 0.1), "STOPPED follows"
    asked.state("STOPPED")
    assert asked.receipts.over(NOW + 0.2)
    assert [(answer.source, answer.host) for answer in asked.receipts.answers] == [
        ("agent:0", "node1"), ("agent:1", "node2"),
    ]  # fmt: skip


def test_a_state_that_does_not_follow_is_not_waited_for_long():
    asked = Request("stop")
    asked.done(agent(0))
    asked.done(agent(1))
    assert not asked.receipts.over(NOW)
    assert asked.receipts.over(NOW + SETTLE_S)


@pytest.mark.parametrize(("action", "state"), [("stop", "PENDING"), ("continue", "RUNNING"), ("stacks", "RUNNING")])
def test_no_state_is_waited_for_that_cannot_follow(action, state):
    asked = Request(action, agents=1, state=state)
    asked.done(agent(0))
    assert asked.receipts.over(NOW)


def test_a_cancel_is_over_when_the_execution_has_ended():
    asked = Request("cancel")
    asked.done(agent(0))
    asked.done(agent(1))
    assert not asked.receipts.over(NOW)
    assert asked.state("CANCELLED")
    assert asked.receipts.over(NOW)
    assert asked.receipts.state is State.CANCELLED


def test_a_cancel_of_what_has_just_ended_is_over():
    asked = Request("cancel")
    asked.state("COMPLETED")
    assert asked.receipts.over(NOW)


def test_a_node_that_refuses_ends_the_wait_once_the_others_have_answered():
    asked = Request("cancel")
    asked.done(agent(0), refused="it has no ranks")
    assert asked.receipts.refused
    assert not asked.receipts.over(NOW)
    asked.done(agent(1))
    assert asked.receipts.over(NOW)


def test_receipts_of_another_request_are_none_of_ours():
    asked = Request("stop")
    assert not asked.accept(agent(0), position=REQUEST - 5)
    assert not asked.done(agent(0), position=REQUEST - 5)
    assert asked.missing == ["agent:0", "agent:1"]


def test_what_was_before_the_request_is_not_shown_and_what_follows_is():
    asked = Request("stop")
    before = Request("stop")
    before.position = 3
    assert not before.state("STOPPED")
    assert asked.say(agent(1), events.NodeLost(time=0.0, node=1, host="node2", reason="ssh ended"))
    assert asked.accept(agent(0))
    assert not asked.say(Source(SourceKind.RANK, 0), events.RankStarted(time=0.0, host="node1"))


def test_nodes_that_have_closed_or_were_given_up_need_not_answer():
    asked = Request("stacks")
    asked.say(agent(0), events.AgentClosed(time=0.0, streams={}))
    assert asked.missing == ["agent:1"]
    asked.say(BROKER, events.AgentGivenUp(time=0.0, node=1, reason="silent"))
    assert asked.missing == []


def test_a_node_that_was_swept_has_to_answer_again():
    asked = Request("cancel")
    asked.say(BROKER, events.AgentGivenUp(time=0.0, node=1, reason="silent"))
    asked.say(agent(1), events.AgentStarted(time=0.0, host="node2", epoch=2))
    assert "agent:1" in asked.missing


def test_of_a_job_that_waits_the_executor_answers():
    asked = Request("cancel", agents=0, state="PENDING")
    assert asked.missing == ["executor"]
    asked.accept(EXECUTOR)
    asked.done(EXECUTOR, detail="left the queue")
    assert not asked.receipts.over(NOW)
    asked.state("CANCELLED", "PENDING")
    assert asked.receipts.over(NOW)


def test_a_job_that_begins_meanwhile_is_its_agents_affair():
    asked = Request("cancel", agents=0, state="PENDING")
    asked.say(LAUNCHER, events.LauncherStarted(time=0.0, host="node1", agents=2))
    assert asked.missing == ["agent:0", "agent:1"]


def test_of_a_job_that_waits_nobody_can_stop_ranks():
    asked = Request("stop", agents=0, state="PENDING")
    assert asked.missing == []
    assert not asked.receipts.over(NOW)
    assert asked.receipts.too_late(NOW + RECEIPT_S)


def test_silence_ends_the_wait():
    asked = Request("stop")
    asked.accept(agent(0), span_s=60.0)
    asked.done(agent(0))
    assert not asked.receipts.too_late(NOW + RECEIPT_S - 0.1)
    assert asked.receipts.too_late(NOW + RECEIPT_S)


def test_the_deadline_that_was_stated_is_waited_for_by_the_span_not_by_the_nodes_clock():
    asked = Request("cancel")
    asked.accept(agent(0), span_s=60.0, now=NOW + 1)
    assert not asked.receipts.too_late(NOW + 61 + RECEIPT_S - 0.1)
    assert asked.receipts.too_late(NOW + 61 + RECEIPT_S)


def test_an_execution_that_does_not_end_though_all_is_done_is_not_waited_for_for_ever():
    asked = Request("cancel")
    asked.done(agent(0))
    asked.done(agent(1))
    assert not asked.receipts.over(NOW)
    assert not asked.receipts.too_late(NOW + DRAIN_S - 1)
    assert asked.receipts.too_late(NOW + DRAIN_S)


def test_a_state_of_a_later_version_is_passed_over():
    asked = Request("stop")
    asked.state("HIBERNATING")
    assert asked.receipts.state is State.RUNNING


DUMP = """\
Thread 0x00007f1c2b7fe700 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  ...

Current thread 0x00007f1c35b2a740 [main] (most recent call first):
  File "peaks.py", line 12 in _run
"""


def test_lines_of_stacks_are_told_from_other_lines_of_the_same_rank():
    lines = StackLines()
    said = ["before", *DUMP.splitlines(), "after", "  indented"]
    assert [text for text in said if lines.take("rank:0", text)] == [line for line in DUMP.splitlines() if line]


def test_lines_of_two_ranks_may_alternate():
    lines = StackLines()
    assert lines.take("rank:0", "Thread 0x1 (most recent call first):")
    assert not lines.take("rank:1", "  not one of a stack")
    assert lines.take("rank:0", '  File "a.py", line 1 in f')
