"""The network dies in several ways, between the broker and one of its clients or all, for seconds, and comes back."""

from __future__ import annotations

import itertools
import shutil
import time

import pytest

from tests.end_to_end.deaths import SLACK_S, assert_noticed, executor_heard_at, wait_answer, wait_until
from tests.proxy.front import Front
from tests.proxy.proxy import Way
from theorbo.schemas.limits import SILENT_S, SUSPECT_S
from theorbo.schemas.link import open_link

AFTER_SILENCE_S = 2 * SUSPECT_S + SLACK_S
"""A half-open connection is given up by libzmq after twice SUSPECT_S, by a link after SUSPECT_S; whichever
is under way when the network comes back, everything flows again within this time."""


@pytest.fixture
def direct(broker):
    return ("--broker", str(broker.connection_file))


@pytest.fixture
def proxied(front):
    return ("--broker", str(front.connection_file))


@pytest.fixture
def observers_front(broker, tmp_path):
    front = Front(broker.connection_file, tmp_path / "observers.json")
    yield front
    front.close()


def longest_pause_s(program):
    """Of the Task, by its own clock."""
    times = [event["time"] for event in program.kind("log")]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("how", ["cut", "refuse"])
def test_a_cut_for_seconds_delays_and_loses_nothing(how, scene, front, proxied):
    tail, run = scene.tail(*proxied), scene.run(*proxied)
    getattr(front, how)()
    if how == "refuse":
        for program, words in ((run, "silent for 5 s; the Task goes on"), (tail, "waiting for it")):
            program.said_at(words)
        front.pass_all()
    for program in (run, tail):
        program.wait_ticks(timeout_s=SUSPECT_S + SLACK_S)
    scene.finish(tail)
    assert longest_pause_s(run) < 2.0


def test_half_open_to_executor_and_agent_is_noticed_on_both_sides(scene, broker, front, proxied, direct, asking):
    tail, run = scene.tail(*direct), scene.run(*proxied)
    front.half_open()
    begin = time.monotonic()
    assert_noticed(run.said_at("silent for 5 s; the Task goes on"), heard_at=run.last_tick_at(), gone_at=begin)
    suspect_at = asking.contact(scene.execution, "executor", "suspect")
    executor_at = executor_heard_at(broker.state / "journal.sqlite", scene.execution, tail)
    assert_noticed(suspect_at, heard_at=executor_at, gone_at=begin)
    suspect_at = asking.contact(scene.execution, "agent:0", "suspect")
    assert_noticed(suspect_at, heard_at=tail.last_tick_at(), gone_at=begin)
    silent_at = asking.contact(scene.execution, "agent:0", "silent")
    assert_noticed(silent_at, heard_at=tail.last_tick_at(), gone_at=begin, limit_s=SILENT_S)
    assert asking.view(scene.execution)["state"] == "RUNNING", "being silent ends nothing"
    front.pass_all()
    for program in (run, tail):
        program.wait_ticks(timeout_s=AFTER_SILENCE_S)
    asking.contact(scene.execution, "agent:0", "alive")
    scene.finish(tail)
    assert longest_pause_s(run) < 2.0


def test_half_open_to_an_observer_concerns_nobody_else(scene, observers_front, direct):
    run = scene.run(*direct)
    tail = scene.tail("--broker", str(observers_front.connection_file))
    heard_at = wait_answer(observers_front.router)
    observers_front.half_open()
    begin = time.monotonic()
    assert_noticed(tail.said_at("waiting for it"), heard_at=heard_at, gone_at=begin)
    run.wait_ticks()
    observers_front.pass_all()
    tail.wait_ticks(timeout_s=AFTER_SILENCE_S)
    scene.finish()
    first = tail.ticks()[0]
    wait_until(lambda: tail.ticks()[-1] == scene.reported() - 1, "the last tick")
    assert tail.ticks() == list(range(first, scene.reported()))
    assert "silent" not in run.said()


def test_half_open_to_the_agent_alone_nothing_arrives_and_then_everything(
    scene, broker, front, direct, asking, tmp_path
):
    """The agent comes through the proxy, for the connection file has changed before it was started again."""
    file = tmp_path / "changing.json"
    shutil.copy(broker.connection_file, file)
    tail, run = scene.tail(*direct), scene.run("--broker", str(file))
    shutil.copy(front.connection_file, file)
    scene.kill_agent()
    run.wait_ticks()
    assert front.router.connections == 1
    front.half_open()
    begin = time.monotonic()
    suspect_at = asking.contact(scene.execution, "agent:0", "suspect")
    assert_noticed(suspect_at, heard_at=tail.last_tick_at(), gone_at=begin)
    assert asking.view(scene.execution)["contact"]["executor"] == "alive"
    front.pass_all()
    for program in (run, tail):
        program.wait_ticks(timeout_s=AFTER_SILENCE_S)
    scene.finish(tail)
    assert "silent" not in run.said()


def test_half_open_to_the_executor_alone_it_takes_the_other_road_that_the_file_names(
    scene, broker, front, direct, tmp_path
):
    file = tmp_path / "changing.json"
    shutil.copy(front.connection_file, file)
    tail, run = scene.tail(*direct), scene.run("--broker", str(file))
    shutil.copy(broker.connection_file, file)
    scene.kill_agent()
    tail.wait_ticks()
    front.half_open()
    begin, heard_at = time.monotonic(), run.last_tick_at()
    tail.wait_ticks()
    assert_noticed(run.said_at("the broker is back"), heard_at=heard_at, gone_at=begin)
    scene.finish(tail)


@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("which", ["router", "publisher"])
def test_a_flipped_bit_ends_a_connection_and_nothing_else(which, way, scene, front, proxied):
    """Whose it is, libzmq gives it up for good on the client's side: silence has to tell."""
    tail, run = scene.tail(*proxied), scene.run(*proxied)
    getattr(front, which).garble(way)
    for program in (run, tail):
        program.wait_ticks(timeout_s=AFTER_SILENCE_S)
    scene.finish(tail)


def test_half_open_to_the_live_stream_alone_is_noticed_while_the_broker_answers(scene, front, proxied):
    tail, run = scene.tail(*proxied), scene.run(*proxied)
    tail.wait_ticks()
    front.publisher.half_open()
    run.wait_ticks(int(2 * SUSPECT_S / 0.05))
    front.publisher.pass_all()
    tail.wait_ticks(timeout_s=AFTER_SILENCE_S)
    scene.finish(tail)


def test_bits_flipped_in_the_first_hand_shake_cost_another_one(front):
    """libzmq never takes up again a connection whose hand-shake was no ZMTP."""
    for _ in range(4):
        front.router.garble(Way.DOWN)
    open_link(str(front.connection_file)).close()
