from __future__ import annotations

import signal

import pytest

from theorbo.schemas.limits import AGENT_PAUSE_S, AGENT_RESTARTS, HEADLESS_S, LEAVE_S
from theorbo.task_runtime.agent_keeping import DismissAgent, StartAgent, Warn
from theorbo.task_runtime.node_supervision import NodeSupervision, Say
from theorbo.task_runtime.phase import Finish, MarkEnd, Phase
from theorbo.task_runtime.processes import Process, RankProcess
from theorbo.task_runtime.rank_ending import SendSignal

RANK = RankProcess(3, pid=11, parent_pid=10, process_group=10, start_ticks=5)
PROGRAM = Process(11, 10, 10, 5)


def node(*, rank=True):
    """One that is ready, with a rank."""
    core = NodeSupervision(grace_s=10.0)
    assert core.start(0.0) == [StartAgent()]
    core.agent.started(0.0)
    assert core.agent_ready() == [Say("ready")]
    if rank:
        core.rank_started(RANK)
    return core


def test_it_clears_up_when_it_is_told_that_all_is_over_then_drains_and_is_done():
    core = node()
    core.rank_ended(3)
    core.ranks_gone()
    assert core.due([], 50.0) == []  # ranks may come again
    core.told_over()
    left = Process(12, 1, 10, 6)
    assert core.due([left], 60.0) == []
    warning, term = core.due([left], 60.0 + LEAVE_S)
    assert warning.text.startswith("left behind by rank 3")
    assert term == SendSignal(left, signal.SIGTERM)
    assert core.due([], 61.0) == [Say("cleared"), MarkEnd()]
    assert core.agent_ended(0, "", 62.0) == [Finish(None, started=True)]
    assert core.phase is Phase.OVER


def test_an_agent_that_was_never_welcomed_is_told_with_its_words():
    core = NodeSupervision(grace_s=1.0)
    core.start(0.0)
    core.agent.started(0.0)
    assert core.agent_ended(6, "no broker", 10.0) == [Finish("no broker", started=False)]


def test_told_that_all_is_over_before_its_agent_is_ready_it_still_drains():
    core = NodeSupervision(grace_s=1.0)
    core.start(0.0)
    core.agent.started(0.0)
    core.told_over()
    assert core.due([], 1.0) == []
    core.agent_ready()
    assert core.due([], 2.0) == [Say("cleared"), MarkEnd()]


def test_told_to_leave_it_does():
    core = node(rank=False)
    finish, dismiss = core.told_to_leave()
    assert (finish.started, dismiss) == (False, DismissAgent())


def test_without_a_head_it_goes_on_until_its_ranks_have_gone():
    core = node()
    assert core.head_gone(10.0) == []
    assert core.due([PROGRAM], 1e6) == []
    assert core.next_at(1e6) is None
    core.rank_ended(3)
    core.ranks_gone()
    assert core.due([], 1e6 + 1) == []
    assert core.due([], 1e6 + 1) == [Say("cleared"), MarkEnd()]


def test_without_a_head_ranks_that_were_never_seen_are_waited_for_a_while():
    core = node(rank=False)
    core.head_gone(10.0)
    assert core.next_at(10.0) == 10.0 + HEADLESS_S
    core.due([], 10.0 + HEADLESS_S - 1)
    assert core.phase is Phase.RUNNING
    core.due([], 10.0 + HEADLESS_S)
    assert core.phase is Phase.CLEARING


def test_when_the_head_has_gone_before_anything_was_started_it_goes_too():
    core = NodeSupervision(grace_s=1.0)
    core.start(0.0)
    core.agent.started(0.0)
    finish, dismiss = core.head_gone(1.0)
    assert (finish.started, dismiss) == (False, DismissAgent())


@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_to_all_ends_the_ranks_within_the_grace_however_often_it_comes(times):
    core = node()
    (warning,) = core.terminated("SIGTERM", 10.0)
    assert isinstance(warning, Warn)
    for _ in range(1, times):
        assert core.terminated("SIGTERM", 10.1) == []
    assert core.due([PROGRAM], 10.2) == [SendSignal(PROGRAM, signal.SIGTERM)]
    assert core.next_at(10.2) == 20.0
    assert core.due([PROGRAM], 20.0) == [SendSignal(PROGRAM, signal.SIGKILL)]
    core.ranks_gone()
    core.due([], 20.1)
    assert core.phase is Phase.CLEARING  # nobody may be left to say that all is over


def test_the_head_may_end_the_ranks_sooner():
    core = node()
    core.terminated("SIGTERM", 10.0)
    core.told_to_end(0.0, 11.0)
    assert core.due([PROGRAM], 11.0) == [SendSignal(PROGRAM, signal.SIGKILL)]


def test_a_sweep_starts_an_agent_that_finds_the_end_marked():
    core = NodeSupervision(grace_s=1.0, sweep=True)
    assert core.start(0.0) == [MarkEnd(), StartAgent()]
    core.agent.started(0.0)
    assert core.agent_ended(0, "", 1.0) == [Finish(None, started=True)]


def test_a_sweep_waits_for_an_agent_that_still_delivers_and_finds_its_work_done():
    core = NodeSupervision(grace_s=1.0, sweep=True)
    core.start(0.0)
    core.agent.started(0.0)
    assert core.agent_ended(6, "another agent is delivering", 1.0) == []
    assert core.due([], 1.0 + AGENT_PAUSE_S) == [StartAgent()]
    assert core.spool_gone() == [Finish(None, started=True)]


def test_a_sweep_has_an_end():
    core, now = NodeSupervision(grace_s=1.0, sweep=True), 0.0
    core.start(now)
    for _ in range(AGENT_RESTARTS):
        assert core.agent_ended(6, "no", now) == []
        now += 10.0
        assert core.due([], now) == [StartAgent()]
        core.agent.started(now)
    (finish,) = core.agent_ended(6, "no", now)
    assert finish.problem.endswith("status 6: no")
