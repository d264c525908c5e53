"""The broker dies, freezes, moves, or never comes back: what everybody else notices, and when. Nothing is lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.deaths import SLACK_S, assert_noticed, wait_answer, with_limits
from theorbo.schemas.limits import SUSPECT_S


@pytest.fixture
def named(broker):
    return ("--broker", str(broker.connection_file))


def test_killed_and_started_under_another_address_it_is_found_by_its_file(scene, broker, named):
    tail, run = scene.tail(*named), scene.run(*named)
    old = json.loads(broker.connection_file.read_text())["router"]
    broker.kill()
    broker.move()
    broker.start()
    assert json.loads(broker.connection_file.read_text())["router"] != old
    # The old address is silent: after SUSPECT_S the file is read again.
    for program in (run, tail):
        program.wait_ticks(timeout_s=SUSPECT_S + SLACK_S)
    scene.finish(tail)


def test_killed_again_and_again_it_costs_nothing(scene, broker, named):
    tail, run = scene.tail(*named), scene.run(*named)
    for _ in range(4):
        broker.kill()
        broker.start()
        for program in (run, tail):
            program.wait_ticks(timeout_s=SUSPECT_S + SLACK_S)
    scene.finish(tail)


def test_frozen_it_is_told_once_and_missed_by_nobody(scene, broker, front, named):
    tail, run = scene.tail("--broker", str(front.connection_file)), scene.run(*named)
    heard_at = wait_answer(front.router)
    before, frozen = scene.reported(), scene.stop(broker.process.pid)
    noticed_at = run.said_at("silent for 5 s; the Task goes on", since=frozen)
    assert_noticed(noticed_at, heard_at=run.last_tick_at(), gone_at=frozen)
    assert_noticed(tail.said_at("waiting for it", since=frozen), heard_at=heard_at, gone_at=frozen)
    assert scene.reported() - before > SUSPECT_S / 0.1, "the Task does not wait"
    scene.go_on(broker.process.pid)
    for program in (run, tail):
        program.said_at("is back", since=frozen)
    scene.finish(tail)
    assert [program.said().count("is back") for program in (run, tail)] == [1, 1]
    assert "suspect" not in run.said()


def test_gone_for_good_run_gives_up_and_says_where_the_rest_is(scene, broker, named, tmp_path):
    """The Task ends by itself; then the launch waits `DRAIN_S`, and the Executor as long again."""
    drain_s = 3.0
    run = scene.run(*named, environment=with_limits(tmp_path / "limits", DRAIN_S=drain_s))
    broker.kill()
    scene.executor.said_at("silent for 5 s; the Task goes on")
    scene.let_end()
    assert run.end(2 * drain_s + SLACK_S + 10) == 6
    assert "the launcher has ended" in run.said()
    assert f"the broker has been silent for {drain_s:g} s" in run.said()
    assert f"theorbo tail --execution {scene.execution} may tell later" in run.said()
    assert "Traceback" not in run.said()
    assert f"the rest is in {scene.spool}" in run.said()
    # Nothing is lost: whoever delivers the spool later makes the journal whole.
    reported = scene.reported()
    broker.start()
    agent = scene.start("agent", "--spool", str(scene.spool), *named)
    assert agent.end() == 0, agent.said()
    result = scene.start("tail", "--json", "--execution", scene.execution, *named)
    assert result.end() == 0
    assert result.objects[0]["state"] == "COMPLETED"
    assert result.objects[0]["heads"]["log"] == reported


def test_a_broker_of_ones_own_that_is_killed_is_started_again(scene):
    run = scene.run()
    tail = scene.tail()
    connection = Path(os.environ["THEORBO_STATE"], "connection.json")
    first = json.loads(connection.read_text())["pid"]
    os.kill(first, signal.SIGKILL)
    for program in (run, tail):
        program.wait_ticks(timeout_s=SUSPECT_S + SLACK_S)
    assert json.loads(connection.read_text())["pid"] != first
    scene.finish()
    assert tail.ticks() == list(range(tail.ticks()[0], scene.reported()))
