from __future__ import annotations

import signal

from theorbo.schemas.launch_plan import NodeStart
from theorbo.schemas.limits import (
    AGENT_PAUSE_S,
    AGENT_READY_S,
    AGENT_RESTARTS,
    AGENT_STEADY_S,
    DRAIN_S,
    GOODBYE_S,
    LAUNCHER_END_S,
    LEAVE_S,
    LEFTOVER_S,
    SIBLINGS_S,
)
from theorbo.task_runtime.agent_keeping import DismissAgent, KillAgent, StartAgent, Warn
from theorbo.task_runtime.node_protocol import SWEEP
from theorbo.task_runtime.nodes import StartNodes, TellNodes
from theorbo.task_runtime.phase import Finish, MarkEnd, Phase
from theorbo.task_runtime.processes import Process, RankProcess
from theorbo.task_runtime.rank_ending import SendSignal
from theorbo.task_runtime.supervision import SignalLauncher, StartRanks, Supervision

RANK = RankProcess(0, pid=11, parent_pid=10, process_group=10, start_ticks=5)
PROGRAM = Process(11, 10, 10, 5)


def supervision(*, has_launcher=True, grace_s=10.0):
    """One whose rank 0 runs."""
    core = Supervision(has_launcher=has_launcher, grace_s=grace_s)
    assert core.start(0.0) == [StartAgent()]
    core.agent.started(0.0)
    assert core.agent_ready() == [StartRanks()]
    core.rank_started(RANK)
    return core


def draining():
    core = supervision()
    core.started_ended(50.0)
    assert core.due([], 100.0) == [MarkEnd()]
    assert core.phase is Phase.DRAINING
    return core


def numbers(instructions):
    return [(type(each).__name__, each.number) for each in instructions if hasattr(each, "number")]


def test_an_execution_that_goes_well():
    core = supervision()
    core.rank_ended(0, 0, 0, 50.0)
    core.started_ended(50.0)
    assert core.due([], 60.0) == [MarkEnd()]
    assert core.agent_ended(0, "", 61.0) == [Finish(None, True)]
    assert core.phase is Phase.OVER


def test_ranks_may_run_as_long_as_they_like():
    core = supervision()
    assert core.next_at(1e9) is None
    assert core.due([PROGRAM], 1e9) == []


def test_without_a_broker_nothing_is_started():
    core = Supervision(has_launcher=False, grace_s=1.0)
    core.start(0.0)
    core.agent.started(0.0)
    assert core.agent_ended(6, "no broker", 10.0) == [Finish("no broker", False)]


def test_an_agent_that_is_never_ready_is_not_waited_for():
    core = Supervision(has_launcher=False, grace_s=1.0)
    core.start(0.0)
    core.agent.started(0.0)
    assert core.next_at(0.0) == AGENT_READY_S
    stop, finish = core.due([], AGENT_READY_S)
    assert stop == DismissAgent()
    assert finish == Finish(f"the agent was not ready within {AGENT_READY_S:.0f} s", started=False)


def test_an_agent_that_dies_is_started_again_so_often():
    core = supervision()
    for number in range(AGENT_RESTARTS):
        assert core.agent_ended(-9, "", 1.0) == []
        pause_s = AGENT_PAUSE_S * 2**number
        assert core.next_at(1.0) == 1.0 + pause_s
        assert core.due([], 1.0 + 0.9 * pause_s) == []
        assert core.due([], 1.0 + pause_s) == [StartAgent()]
        core.agent.started(1.0)
    (warning,) = core.agent_ended(-9, "words", 2.0)
    assert isinstance(warning, Warn)
    core.started_ended(50.0)
    mark, finish = core.due([], 3.0)
    assert mark == MarkEnd()
    assert finish.problem


def test_deaths_of_long_ago_are_forgotten():
    core, now = supervision(), 0.0
    for _ in range(3 * AGENT_RESTARTS):
        now += AGENT_STEADY_S + 1
        assert core.agent_ended(-9, "", now) == []
        now += AGENT_PAUSE_S
        assert core.due([], now) == [StartAgent()]
        core.agent.started(now)


def test_an_agent_that_is_fenced_is_not_started_again():
    core = supervision()
    core.agent.fenced()
    (warning,) = core.agent_ended(6, "another agent has taken over", 1.0)
    assert "another agent has taken over" in warning.text
    assert core.next_at(1.0) is None
    core.started_ended(50.0)
    assert core.due([], 3.0) == [MarkEnd(), Finish("there is no agent any more", True)]


def test_the_drain_has_an_end():
    core = draining()
    assert core.next_at(100.0) == 100.0 + DRAIN_S
    assert core.due([], 100.0 + DRAIN_S) == [DismissAgent()]
    assert core.due([], 100.0 + DRAIN_S + GOODBYE_S) == [KillAgent()]
    (finish,) = core.agent_ended(-9, "", 230.0)
    assert "could be delivered" in finish.problem


def test_an_agent_that_dies_while_draining_is_started_again():
    core = draining()
    assert core.agent_ended(-9, "", 101.0) == []
    assert core.due([], 101.0 + AGENT_PAUSE_S) == [StartAgent()]


def test_a_launcher_whose_ranks_have_gone_is_ended():
    core = supervision(grace_s=3.0)
    core.rank_ended(0, 0, 0, 10.0)
    core.ranks_gone(10.0)
    assert core.next_at(10.0) == 10.0 + LAUNCHER_END_S
    out = core.due([], 10.0 + LAUNCHER_END_S)
    assert numbers(out) == [("SignalLauncher", signal.SIGTERM)]
    kill_at = 10.0 + LAUNCHER_END_S + 3.0 + GOODBYE_S
    assert core.due([], kill_at) == [SignalLauncher(signal.SIGKILL)]


def test_a_rank_that_starts_late_keeps_the_launcher():
    core = supervision()
    core.ranks_gone(10.0)
    core.rank_started(RANK._replace(rank=1, pid=21, parent_pid=20))
    assert core.next_at(10.0) is None


def test_when_one_ended_badly_the_others_and_the_launcher_are_ended_if_they_do_not_follow():
    core = supervision(grace_s=3.0)
    core.rank_started(RankProcess(1, 21, 20, 20, 5))
    core.rank_ended(1, -11, 0, 10.0)
    assert core.due([PROGRAM], 10.0 + SIBLINGS_S - 1) == []
    assert not core.wants_table(10.0 + SIBLINGS_S - 1)
    assert core.wants_table(10.0 + SIBLINGS_S)
    out = core.due([PROGRAM], 10.0 + SIBLINGS_S)
    assert numbers(out) == [("SignalLauncher", signal.SIGTERM), ("SendSignal", signal.SIGTERM)]
    assert out[0].text == "rank 1 ended badly and others did not follow: the launcher is being ended"


def test_ranks_that_were_started_directly_are_not_each_others_siblings():
    core = supervision(has_launcher=False)
    core.rank_ended(1, -11, 0, 10.0)
    assert core.due([PROGRAM], 1e6) == []


def test_told_to_end_it_ends_the_ranks_then_the_launcher():
    core = supervision(grace_s=3.0)
    (warning,) = core.told_to_end("SIGTERM", 10.0)
    assert "SIGTERM" in warning.text
    assert numbers(core.due([PROGRAM], 10.0)) == [("SendSignal", signal.SIGTERM)]
    assert numbers(core.due([PROGRAM], 13.0)) == [("SignalLauncher", signal.SIGTERM), ("SendSignal", signal.SIGKILL)]
    assert core.due([PROGRAM], 13.0 + GOODBYE_S)[0] == SignalLauncher(signal.SIGKILL)


def test_told_twice_there_is_no_grace():
    core = supervision(grace_s=30.0)
    core.told_to_end("SIGINT", 10.0)
    core.told_to_end("SIGINT", 11.0)
    assert ("SendSignal", signal.SIGKILL) in numbers(core.due([PROGRAM], 11.0))


def test_told_to_end_before_anything_was_started_it_just_ends():
    core = Supervision(has_launcher=False, grace_s=1.0)
    core.start(0.0)
    core.agent.started(0.0)
    finish, stop = core.told_to_end("SIGTERM", 1.0)
    assert (finish.started, stop) == (False, DismissAgent())


def test_a_launcher_that_outlives_a_cancellation_is_ended():
    core = supervision()
    core.agent_ends_ranks(5.0, 10.0)
    assert core.next_at(10.0) == 15.0 + LAUNCHER_END_S
    assert numbers(core.due([], 15.0 + LAUNCHER_END_S)) == [("SignalLauncher", signal.SIGTERM)]


def test_what_ranks_leave_behind_has_a_moment_then_sigterm_then_sigkill():
    orphan = Process(12, 1, 10, 6)
    core = supervision()
    core.started_ended(50.0)
    assert core.due([orphan], 0.0) == []
    assert core.next_at(0.0) == LEAVE_S
    warning, term = core.due([orphan], LEAVE_S)
    assert warning == Warn("left behind by rank 0, and ended: process 12")
    assert term == SendSignal(orphan, signal.SIGTERM)
    assert core.due([orphan], LEAVE_S + 0.1) == []
    assert core.due([orphan], LEAVE_S + LEFTOVER_S) == [SendSignal(orphan, signal.SIGKILL), MarkEnd()]


def test_what_goes_by_itself_is_not_mentioned():
    core = supervision()
    core.started_ended(50.0)
    assert core.due([Process(12, 1, 10, 6)], 0.0) == []
    assert core.due([], 0.1) == [MarkEnd()]


# --- with other machines -------------------------------------------------------------------------

NODES = [NodeStart(["ssh", "n1"], 1)]


def with_node():
    """Rank 0 runs here, rank 1 on the other machine."""
    core = Supervision(has_launcher=True, grace_s=10.0, nodes=NODES)
    assert core.start(0.0) == [StartAgent(), StartNodes(0)]
    core.agent.started(0.0)
    assert core.agent_ready() == []
    assert core.node_ready(1, "n1") == [StartRanks()]
    core.rank_started(RANK)
    core.rank_started_on(1)
    return core


def test_ranks_are_started_when_all_agents_are_ready_whichever_is_last():
    core = Supervision(has_launcher=True, grace_s=10.0, nodes=NODES)
    core.start(0.0)
    assert core.node_ready(1, "n1") == []
    assert core.agent_ready() == [StartRanks()]


def test_the_end_is_marked_when_all_machines_have_cleared_and_it_is_over_when_all_have_delivered():
    core = with_node()
    assert core.started_ended(50.0) == [TellNodes("over")]
    assert core.due([], 51.0) == []
    core.nodes.cleared(1)
    assert core.due([], 52.0) == [MarkEnd()]
    assert core.agent_ended(0, "", 53.0) == []
    core.nodes.done(1, "n1")
    core.nodes.command_ended(0, 0, "", "ssh n1", 5.0)
    assert core.due([], 54.0) == [Finish(None, started=True)]


def test_a_machine_that_does_not_get_ready_ends_the_launch_and_what_was_reported_is_delivered():
    core = Supervision(has_launcher=True, grace_s=10.0, nodes=NODES)
    core.start(0.0)
    core.agent.started(0.0)
    core.nodes.failed(1, "n1", "no broker")
    core.nodes.command_ended(0, 6, "", "ssh n1", 5.0)
    assert core.due([], 1.0) == []  # the agent here decides whether anything can be reported at all
    core.agent_ready()
    assert core.due([], 2.0) == [TellNodes("over"), MarkEnd("n1: no broker")]
    assert core.agent_ended(0, "", 3.0) == [Finish("n1: no broker", started=False)]


def test_without_a_broker_the_other_machines_leave():
    core = Supervision(has_launcher=True, grace_s=10.0, nodes=NODES)
    core.start(0.0)
    core.agent.started(0.0)
    assert core.agent_ended(6, "no broker", 1.0) == [Finish("no broker", started=False), TellNodes("leave")]


def test_the_launcher_is_ended_when_ranks_have_gone_from_all_machines():
    core = with_node()
    core.ranks_gone(10.0)
    assert core.next_at(10.0) is None
    core.ranks_gone(20.0, node=1)
    assert core.next_at(20.0) == 20.0 + LAUNCHER_END_S


def test_told_to_end_it_tells_the_other_machines():
    core = with_node()
    assert TellNodes("end", 10.0) in core.told_to_end("SIGTERM", 10.0)
    assert TellNodes("end", 0.0) in core.told_to_end("SIGTERM", 11.0)


def test_what_another_machine_could_not_deliver_is_said_with_the_rest():
    core = with_node()
    core.started_ended(50.0)
    core.nodes.cleared(1)
    core.due([], 52.0)
    core.nodes.failed(1, "n1", "the broker is away")
    core.nodes.command_ended(0, 6, "", "ssh n1", 5.0)
    assert core.due([], 53.0) == [StartNodes(0, SWEEP)]
    core.agent_ended(0, "", 54.0)
    core.nodes.command_ended(0, 6, "", "ssh n1", 5.0)
    assert core.due([], 55.0) == [Finish("n1: the broker is away", started=True)]


def test_a_launcher_that_does_not_notice_that_a_machine_has_gone_is_ended():
    core = with_node()
    core.nodes.command_ended(0, 255, "", "ssh n1", 5.0)
    core.due([], 5.0)
    core.nodes.command_ended(0, 255, "no route", "ssh n1", 6.0)
    assert core.due([], 6.0) == []
    assert core.next_at(6.0) == 6.0 + SIBLINGS_S
    out = core.due([PROGRAM], 6.0 + SIBLINGS_S)
    assert out[0] == Warn("n1 was lost and does not answer, and the launcher did not end: the launcher is being ended")
    assert out[1] == SignalLauncher(signal.SIGTERM)
