from __future__ import annotations

from theorbo.schemas.launch_plan import NodeStart
from theorbo.schemas.limits import DRAIN_S, GOODBYE_S, NODE_LOOK_S, NODES_CLEAR_S, NODES_READY_S
from theorbo.task_runtime.node_protocol import LOOK, SWEEP
from theorbo.task_runtime.nodes import EndCommand, Nodes, ReportLost, StartNodes, TellNodes

ONE_EACH = [NodeStart(["ssh", "n1"], 1), NodeStart(["ssh", "n2"], 2)]
BY_SRUN = [NodeStart(["srun"], 1, nodes=3)]


def ready(starts):
    nodes = Nodes(starts)
    assert nodes.start(0.0) == [StartNodes(index) for index in range(len(starts))]
    for number in range(1, 1 + sum(start.nodes for start in starts)):
        assert not nodes.all_ready
        nodes.ready(number, f"n{number}")
    assert nodes.all_ready
    return nodes


def draining(starts):
    nodes = ready(starts)
    assert nodes.over(10.0) == [TellNodes("over")]
    for number in range(1, 1 + sum(start.nodes for start in starts)):
        nodes.cleared(number)
    assert nodes.all_cleared
    assert nodes.drain(11.0) == []
    return nodes


def test_without_other_machines_there_is_nothing_to_wait_for():
    nodes = Nodes([])
    assert nodes.start(0.0) == []
    assert nodes.all_ready
    assert nodes.over(1.0) == []
    assert nodes.all_cleared
    assert nodes.drain(2.0) == []
    assert nodes.is_over
    assert nodes.undelivered() == []
    assert nodes.tell("end", 5.0) == []


def test_all_are_done():
    nodes = draining(BY_SRUN)
    for number in (1, 2, 3):
        nodes.done(number, f"n{number}")
    assert not nodes.is_over  # until the command has ended
    assert nodes.command_ended(0, 0, "", "srun", 5.0) == []
    assert nodes.is_over
    assert nodes.undelivered() == []


def test_a_node_that_is_not_ready_in_time_is_lost_and_its_command_ended():
    nodes = Nodes(ONE_EACH)
    nodes.start(0.0)
    nodes.ready(1, "n1")
    assert nodes.times()[0] == NODES_READY_S
    lost, end = nodes.due(NODES_READY_S)
    assert lost == ReportLost(2, "", f"not ready within {NODES_READY_S:.0f} s")
    assert end == EndCommand(1)
    assert nodes.start_problem == f"node 2: {lost.reason}"


def test_a_command_that_has_started_several_is_not_ended_for_one_that_is_late():
    nodes = Nodes(BY_SRUN)
    nodes.start(0.0)
    nodes.ready(1, "n1")
    assert [type(each) for each in nodes.due(NODES_READY_S)] == [ReportLost, ReportLost]


def test_what_a_node_says_of_its_failure_stands_and_not_how_its_command_ended():
    nodes = Nodes(ONE_EACH)
    nodes.start(0.0)
    assert nodes.failed(1, "n1", "no broker") == [ReportLost(1, "n1", "no broker")]
    assert nodes.command_ended(0, 6, "words", "ssh n1", 5.0) == []
    assert nodes.start_problem == "n1: no broker"


def test_a_node_that_is_lost_while_ranks_run_is_swept_once_after_their_end():
    nodes = ready(ONE_EACH)
    assert nodes.command_ended(0, 255, "broken pipe", "ssh n1", 5.0) == [
        ReportLost(1, "n1", "broken pipe (ssh n1 ended with status 255)")
    ]
    nodes.over(10.0)
    nodes.cleared(2)
    assert nodes.all_cleared
    assert nodes.drain(11.0) == [StartNodes(0, SWEEP)]
    nodes.done(2, "n2")
    nodes.command_ended(1, 0, "", "ssh n2", 5.0)
    assert not nodes.is_over
    assert nodes.command_ended(0, 255, "no route", "ssh n1", 5.0) == []
    assert nodes.due(12.0) == []  # not a second time
    assert nodes.is_over
    assert nodes.undelivered() == [(1, "n1", "n1: broken pipe (ssh n1 ended with status 255)")]


def test_a_sweep_that_works_leaves_nothing_undelivered():
    nodes = draining(ONE_EACH)
    nodes.done(2, "n2")
    nodes.command_ended(1, 0, "", "ssh n2", 5.0)
    assert nodes.command_ended(0, -9, "", "ssh n1", 5.0) == []  # the end is marked: nothing more can be reported
    assert not nodes.is_over
    assert nodes.due(20.0) == [StartNodes(0, SWEEP)]
    nodes.done(1, "n1")
    nodes.command_ended(0, 0, "", "ssh n1", 5.0)
    assert nodes.is_over
    assert nodes.undelivered() == []
    assert nodes.recovered


def test_where_nothing_was_ever_ready_nothing_is_swept():
    nodes = Nodes(ONE_EACH)
    nodes.start(0.0)
    nodes.ready(2, "n2")
    nodes.command_ended(0, 127, "", "ssh n1", 5.0)
    nodes.over(1.0)
    nodes.cleared(2)
    assert nodes.drain(2.0) == []
    nodes.done(2, "n2")
    nodes.command_ended(1, 0, "", "ssh n2", 5.0)
    assert nodes.is_over


def test_a_node_that_does_not_clear_up_is_not_waited_for():
    nodes = ready(ONE_EACH)
    nodes.over(10.0)
    nodes.cleared(1)
    assert nodes.due(10.0 + NODES_CLEAR_S) == [
        ReportLost(2, "n2", f"no answer for {NODES_CLEAR_S:.0f} s"), EndCommand(1),
    ]  # fmt: skip
    assert nodes.all_cleared


def test_the_drain_of_others_has_an_end_and_their_sweep_too():
    nodes = draining(ONE_EACH[:1])
    end_at = 11.0 + DRAIN_S + 2 * GOODBYE_S
    assert nodes.due(end_at - 1) == []
    assert nodes.due(end_at) == [EndCommand(0)]
    nodes.command_ended(0, -9, "", "ssh n1", 5.0)
    assert nodes.due(end_at) == []
    assert nodes.is_over
    assert [number for number, _, _ in nodes.undelivered()] == [1]


def test_what_strangers_say_changes_nothing():
    nodes = ready(ONE_EACH)
    nodes.ready(7, "n7")
    nodes.cleared(7)
    nodes.done(7, "n7")
    assert nodes.failed(7, "n7", "x") == []
    assert nodes.all_ready


def lost():
    nodes = ready(ONE_EACH)
    nodes.command_ended(0, 255, "", "ssh n1", 5.0)
    assert nodes.due(5.0) == [StartNodes(0, LOOK)]
    return nodes


def test_a_lost_node_whose_machine_answers_is_looked_at_again_later():
    nodes = lost()
    nodes.alive(1)
    assert nodes.command_ended(0, 0, "", "ssh n1", 6.0) == []
    assert not nodes.gone
    assert nodes.due(6.0 + NODE_LOOK_S - 1) == []
    assert nodes.due(6.0 + NODE_LOOK_S) == [StartNodes(0, LOOK)]
    nodes.command_ended(0, 255, "no route", "ssh n1", 70.0)
    assert nodes.gone == "n1"


def test_a_machine_that_does_not_answer_in_time_is_gone():
    nodes = lost()
    assert nodes.due(5.0 + NODES_READY_S) == [EndCommand(0)]
    assert nodes.due(6.0 + NODES_READY_S) == []
    nodes.command_ended(0, -9, "", "ssh n1", 66.0)
    assert nodes.gone == "n1"


def test_a_look_ends_with_the_ranks_and_the_sweep_comes_after_it():
    nodes = lost()
    assert nodes.over(10.0) == [TellNodes("over"), EndCommand(0)]
    nodes.cleared(2)
    assert nodes.drain(11.0) == []
    nodes.command_ended(0, -9, "", "ssh n1", 11.0)
    assert nodes.due(12.0) == [StartNodes(0, SWEEP)]
