"""Silence that lasts longer than a limit allows: LOST, and who comes back then; a spool that is full."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.end_to_end.deaths import SLACK_S, Asking, wait_until
from tests.proxy.front import Front
from tests.running_broker import RunningBroker

LOST_AFTER_S = 8.0


@pytest.fixture
def broker(isolation):
    """One that waits for nobody longer than LOST_AFTER_S."""
    (isolation / "hasty").mkdir()
    running = RunningBroker(isolation / "hasty", "--lost-after", str(LOST_AFTER_S))
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def named(broker):
    return ("--broker", str(broker.connection_file))


@pytest.fixture
def front(broker, isolation):
    front = Front(broker.connection_file, isolation / "hasty-front.json")
    yield front
    front.close()


def is_lost(view):
    return view["state"] == "LOST"


def test_when_all_have_died_it_is_lost_and_what_a_sweep_brings_then_is_late(scene, named, asking):
    tail, run = scene.tail(*named), scene.run(*named)
    for pid in (run.process.pid, *scene.living()):
        os.kill(pid, signal.SIGKILL)
    begin = time.monotonic()
    assert LOST_AFTER_S - 1 <= asking.when(scene.execution, is_lost) - begin <= LOST_AFTER_S + SLACK_S
    reason = asking.view(scene.execution)["reason"]
    assert reason == f"neither Executor nor agents have been heard for {LOST_AFTER_S:.0f} s"
    shown = len(tail.ticks())
    assert shown <= scene.reported()
    sweep = scene.start("agent", "--spool", str(scene.spool), *named)
    assert sweep.end() == 0, sweep.said()
    wait_until(lambda: len(tail.ticks()) >= scene.reported(), "the last tick")
    assert tail.ticks() == list(range(len(tail.ticks())))
    assert all(event.get("late") for event in tail.kind("log")[shown:])
    assert asking.view(scene.execution)["state"] == "LOST", "what comes late changes nothing"


def test_cut_off_for_too_long_it_is_lost_and_the_ghost_is_told_to_end(scene, named, front, asking):
    """Its ranks live. When the network is back they are ended, and what they reported meanwhile is kept as late."""
    tail, run = scene.tail(*named), scene.run("--broker", str(front.connection_file))
    front.refuse()
    begin = time.monotonic()
    assert LOST_AFTER_S - 1 <= asking.when(scene.execution, is_lost) - begin <= LOST_AFTER_S + SLACK_S
    assert scene.living()
    shown = len(tail.ticks())
    front.pass_all()
    assert run.end() == 5, run.said()
    assert run.objects[-1]["state"] == "LOST"
    wait_until(lambda: not scene.living(), f"the ghost to end: {scene.living()}")
    wait_until(lambda: len(tail.ticks()) >= scene.reported(), "the last tick")
    assert tail.ticks() == list(range(len(tail.ticks())))
    assert all(event.get("late") for event in tail.kind("log")[shown:])


def test_a_broker_that_was_frozen_itself_declares_nobody_lost(scene, broker, named):
    tail, run = scene.tail(*named), scene.run(*named)
    scene.stop(broker.process.pid)
    before = scene.reported()
    wait_until(lambda: scene.reported() - before > 1.3 * LOST_AFTER_S / 0.06, "time to pass")
    scene.go_on(broker.process.pid)
    for program in (run, tail):
        program.wait_ticks()
    asking = Asking(broker.connection_file)
    try:
        assert asking.view(scene.execution)["state"] == "RUNNING"
    finally:
        asking.close()
    scene.finish(tail)


def test_cut_off_for_longer_than_the_spool_holds_the_loss_is_counted_to_the_event(scene, named, front, asking):
    """The Task does not wait. What has no room is dropped; what has room arrives."""
    bound = ("--spool-bytes", "100000", "-p", "every_s=0.001")
    run = scene.run("--broker", str(front.connection_file), *bound)
    tail = scene.tail(*named)
    front.refuse()
    before = scene.reported()
    wait_until(lambda: (scene.spool / "pressure").read_bytes() != b"0", "the spool to be full")
    full = scene.reported()
    wait_until(lambda: scene.reported() > full + 1000, "the Task to go on")
    assert full - before < 20 * 1100, "a bound of 1,100 ticks is seen within seconds"
    front.pass_all()
    wait_until(lambda: (scene.spool / "pressure").read_bytes() == b"0", "the spool to have room again")
    run.wait_ticks()
    scene.let_end()
    assert run.end() == 0, run.said()
    ticks, reported = run.ticks(), scene.reported()
    assert ticks == sorted(set(ticks)), "in order, none twice"
    lost = sum(event["count"] for event in run.kind("loss") if event["stream"] == "rank:0/log")
    assert lost > 0
    assert len(ticks) + lost == reported
    (conservation,) = run.kind("conservation")
    assert conservation["lost"] == lost
    asking.when(scene.execution, lambda view: view["lost"] == lost)
    wait_until(lambda: tail.ticks()[-1:] == ticks[-1:], "the last tick")
