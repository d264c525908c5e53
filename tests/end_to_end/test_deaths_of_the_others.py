"""Executor, agent, launcher and ranks freeze or die: what is noticed, when, and what becomes of the execution."""

from __future__ import annotations

import os
import signal

import pytest

from tests.end_to_end.deaths import SLACK_S, assert_noticed, executor_heard_at, wait_until
from theorbo.schemas.limits import SUSPECT_S


@pytest.fixture
def named(broker):
    return ("--broker", str(broker.connection_file))


def test_a_frozen_executor_is_suspect_and_hears_everything_when_it_goes_on(scene, broker, named, asking):
    tail, run = scene.tail(*named), scene.run(*named)
    begin = scene.stop(run.process.pid)
    suspect_at = asking.contact(scene.execution, "executor", "suspect")
    heard_at = executor_heard_at(broker.state / "journal.sqlite", scene.execution, tail)
    assert_noticed(suspect_at, heard_at=heard_at, gone_at=begin)
    tail.wait_ticks()
    assert asking.view(scene.execution)["state"] == "RUNNING"
    begin = scene.go_on(run.process.pid)
    run.wait_ticks()
    assert asking.contact(scene.execution, "executor", "alive") - begin < SLACK_S
    scene.finish(tail)


def test_a_frozen_agent_is_suspect_and_the_task_does_not_notice(scene, named, asking):
    tail, run = scene.tail(*named), scene.run(*named)
    agent = scene.agent()
    begin = scene.stop(agent)
    before = scene.reported()
    suspect_at = asking.contact(scene.execution, "agent:0", "suspect")
    assert_noticed(suspect_at, heard_at=tail.last_tick_at(), gone_at=begin)
    assert scene.reported() - before > SUSPECT_S / 0.1
    shown = len(run.ticks())
    assert shown <= before + 1, "nobody else delivers"
    scene.go_on(agent)
    run.wait_ticks()
    asking.contact(scene.execution, "agent:0", "alive")
    assert scene.agent() == agent, "it was not replaced"
    scene.finish(tail)


def test_a_killed_agent_has_a_successor_at_once(scene, named):
    tail, run = scene.tail(*named), scene.run(*named)
    for _ in range(3):
        former = scene.kill_agent()
        for program in (run, tail):
            program.wait_ticks()
        assert scene.agent() != former
    scene.finish(tail)
    assert len(run.kind("agent_started")) == 4


def test_everything_on_the_node_killed_at_once_the_sweep_delivers_what_was_reported(scene, named, asking):
    """As when a batch system kills a job's whole step."""
    tail, run = scene.tail(*named), scene.run(*named)
    living = scene.living()
    assert len(living) >= 3, living
    for pid in living:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not scene.living(), "all of them to be dead")
    wait_until(lambda: run.kind("launcher_gone"), "the Executor to report that the launcher is gone")
    sweep = scene.start("agent", "--spool", str(scene.spool), *named)
    assert sweep.end() == 0, sweep.said()
    assert run.end() == 1, run.said()
    outcome = run.objects[-1]
    assert outcome["state"] == "FAILED"
    assert "signal 9" in outcome["reason"] or "SIGKILL" in outcome["reason"], outcome
    for program in (run, tail):
        wait_until(lambda program=program: len(program.ticks()) >= scene.reported(), "the last tick")
        assert program.ticks() == list(range(len(program.ticks())))
    assert len(run.ticks()) - scene.reported() in (0, 1), "a call may have returned, or not, when the rank was killed"
    assert not scene.spool.exists()


def test_the_executor_and_everything_killed_at_once_the_sweep_gives_it_an_end(scene, named, asking):
    tail, run = scene.tail(*named), scene.run(*named)
    for pid in (run.process.pid, *scene.living()):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not scene.living(), "all of them to be dead")
    sweep = scene.start("agent", "--spool", str(scene.spool), *named)
    assert sweep.end() == 0, sweep.said()
    wait_until(lambda: len(tail.ticks()) >= scene.reported(), "the last tick")
    assert tail.ticks() == list(range(len(tail.ticks())))
