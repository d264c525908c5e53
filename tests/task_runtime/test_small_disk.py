"""A disk that fills up under the spool. Each outcome is stated by a name here."""

from __future__ import annotations

import contextlib
import sys
import time

import pytest

from tests.task_runtime.launching import launch
from tests.task_runtime.running_agent import log
from theorbo.schemas.spool import Pressure

LOUD = """
import os, time
from theorbo.task_runtime import log, result
while not os.path.exists(os.environ["GO"]): time.sleep(0.01)
for number in range(60_000):
    log(f"{number} " + "x" * 300)
    if number % 100 == 0: time.sleep(0.005)
result({"reported": 60_000})
"""


@pytest.fixture
def cut_off(broker, tmp_path, medium_disk, wait_for):
    """A launch on a small disk, whose rank reports more than that holds while the broker is away."""
    go = tmp_path / "go"
    run = launch(broker.connection_file, tmp_path, sys.executable, "-c", LOUD, environment={"GO": str(go)})
    run.client.follow(lambda client: client.events("rank_started"))
    broker.kill()
    go.touch()
    yield run
    run.client.close()


def test_a_spool_that_fills_its_own_disk_keeps_room_for_result_and_end_and_tells_what_it_dropped(
    cut_off, broker, wait_for
):
    wait_for(lambda: b'"result"' in (cut_off.spool / "rank-0.rec").read_bytes()[-1000:], timeout_s=60)
    broker.restart()
    assert cut_off.client.follow_to_end() == ("COMPLETED", "")
    delivered = cut_off.client.texts("rank:0", "log")
    losses = [event for event in cut_off.client.events("loss") if event.stream == "rank:0/log"]
    assert len(delivered) + sum(event.count for event in losses) == 60_000
    assert {event.detail for event in losses} == {"dropped by the rank: the spool has reached its bound"}
    assert [event.name for event in cut_off.client.events("result")] == ["result"]
    assert cut_off.client.events("rank_ended")[0].exit_code == 0
    cut_off.end()
    assert not cut_off.spool.exists()


def test_on_a_disk_that_the_spool_has_filled_what_is_delivered_is_given_back(agent, medium_disk, wait_for):
    running = agent(root=medium_disk, first="limits.DISK_RESERVE_BYTES = 0")
    running.client.follow(lambda client: client.events("agent_started"))
    running.broker.kill()
    numbers = iter(range(10_000))
    written = 0
    with contextlib.suppress(OSError):
        for number in numbers:
            running.append("rank-0.rec", log(number, padding="x" * 10_000))
            written += 1
    running.broker.restart()
    path = running.spool / "rank-0.rec"
    wait_for(lambda: path.stat().st_blocks * 512 < 3_000_000)
    running.append("rank-0.rec", log("more"))
    running.end()
    assert running.client.texts("rank:0", "log") == [*map(str, range(written)), "more"]


def test_a_disk_that_somebody_else_fills_makes_ranks_drop_log_lines_before_it_is_full(agent, medium_disk, wait_for):
    running = agent(root=medium_disk)
    pressure = running.spool / "pressure"
    assert pressure.read_bytes() == Pressure.FREE
    filler = medium_disk / "filler"
    filler.write_bytes(bytes(10_000_000))
    wait_for(lambda: pressure.read_bytes() == Pressure.FULL)
    filler.unlink()
    wait_for(lambda: pressure.read_bytes() == Pressure.FREE)
    running.end()


def test_an_agent_that_dies_on_a_full_disk_is_followed_by_one_that_loses_nothing(agent, small_disk):
    running = agent(root=small_disk)
    running.append("rank-0.rec", log("first"))
    running.client.follow(lambda client: client.events("log"))
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    running.stop()
    running.start()
    time_s = time.time()
    running.end()
    assert running.client.texts("rank:0", "log") == ["first"]
    assert [event.epoch for event in running.client.events("agent_started")] == [1, 2]
    assert time.time() - time_s < 20
