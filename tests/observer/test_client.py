"""Watching a real broker from a program: joined anywhere, nothing is missing and nothing comes twice."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from tests.conftest import DEADLINE_S
from tests.observer.producer import AGENT, Producer
from theorbo.observer import Missed, Observation, Snapshot, watch, watch_async
from theorbo.observer.filters import Filter
from theorbo.observer.watcher import Watcher
from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.limits import HEARTBEAT_S, LATEST_S, SUSPECT_S
from theorbo.schemas.names import Channel


class Stream:
    """Two executions that report as fast as they can, until told to stop."""

    def __init__(self, connection_file) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(connection_file,))
        self._started = threading.Event()
        self._thread.start()
        assert self._started.wait(DEADLINE_S)

    def _run(self, connection_file) -> None:
        producers = [Producer(connection_file, experiment=name) for name in ("mfx1", "cxi2")]
        self._started.set()
        while not self._stop.is_set():
            for item in producers:
                item.log(*("a line " * 10 for _ in range(50)))
                item.put(kind="metric", name="rate", value=1.0)
                item.pump()
        for item in producers:
            item.flush()
            item.close()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)


@pytest.fixture
def stream(broker):
    running = Stream(broker.connection_file)
    yield running
    running.stop()


def taken(items, count: int) -> tuple[Snapshot, list[Observation]]:
    """The snapshot and the next `count` events."""
    snapshot = next(items)
    assert isinstance(snapshot, Snapshot)
    found = []
    for item in items:
        assert isinstance(item, Observation)
        found.append(item)
        if len(found) == count:
            break
    return snapshot, found


def check_whole(snapshot: Snapshot, found: list[Observation]) -> None:
    """Each channel of each execution goes on just behind its head in the snapshot, without gap or double."""
    heads = {(view["execution"], name): head for view in snapshot.views for name, head in view["heads"].items()}
    for item in found:
        key = (item.view["execution"], Channel(item.header.channel).text)
        assert item.header.position == heads.get(key, 0) + 1
        heads[key] = item.header.position


def test_joining_in_the_middle_of_a_fast_stream_twenty_times_misses_and_doubles_nothing(broker, stream):
    heads = 0
    for _ in range(20):
        items = watch(str(broker.connection_file))
        snapshot, found = taken(items, 500)
        items.close()
        assert len(snapshot.views) == 2
        check_whole(snapshot, found)
        now = sum(sum(view["heads"].values()) for view in snapshot.views)
        assert now > heads
        heads = now


def test_a_filter_leaves_out_what_others_do(broker, stream):
    items = watch(str(broker.connection_file), experiment="cxi2", kinds=["metric"])
    snapshot, found = taken(items, 20)
    items.close()
    assert [view["experiment"] for view in snapshot.views] == ["cxi2"]
    assert {item.view["experiment"] for item in found} == {"cxi2"}
    assert {item.event.kind for item in found} == {"metric"}
    check_whole(snapshot, found)


def test_asyncio_sees_the_same_while_other_things_run(broker, stream):
    async def main() -> tuple[Snapshot, list[Observation], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(tick())
        snapshot, found = None, []
        async for item in watch_async(str(broker.connection_file)):
            if isinstance(item, Snapshot):
                snapshot = item
            else:
                found.append(item)
            if len(found) == 500:
                break
        other.cancel()
        return snapshot, found, ticks

    snapshot, found, ticks = asyncio.run(main())
    check_whole(snapshot, found)
    assert ticks > 1


def test_a_reader_that_stops_reading_for_a_while_gets_what_was_dropped_from_the_journal(broker, producer):
    """The publisher's queue is bounded; a slow reader makes it full, and the journal is where the rest is."""
    one = producer()
    items = watch(str(broker.connection_file), execution=one.id, channels=["log"])
    next(items)
    for number in range(3000):
        one.log(f"{number} {'x' * 5000}")
        one.pump()
    one.flush()
    numbers = [int(next(items).event.text.split()[0]) for _ in range(3000)]
    items.close()
    assert numbers == list(range(3000))


def test_it_ends_when_the_execution_has_ended_with_all_of_its_events(broker, producer):
    one, other = producer(), producer()
    items = watch(str(broker.connection_file), execution=one.id, until_ended=True)
    next(items)
    one.log(*map(str, range(1000)))
    other.log("something else")
    one.end()
    found = list(items)
    assert [item.event.text for item in found if item.event.kind == "log"] == list(map(str, range(1000)))
    assert [item.event.state for item in found if item.event.kind == "state_changed"][-1] == "COMPLETED"
    assert {item.view["execution"] for item in found} == {one.id}


def test_it_ends_at_once_for_an_execution_that_has_ended(broker, producer):
    one = producer()
    one.end()
    items = list(watch(str(broker.connection_file), execution=one.id, until_ended=True))
    assert [view["state"] for view in items[0].views] == ["COMPLETED"]
    assert len(items) == 1


def test_events_that_cannot_be_understood_are_shown_as_such(broker, producer):
    one = producer()
    items = watch(str(broker.connection_file), execution=one.id, channels=["log"])
    next(items)
    one.put(kind="log")
    one.put(kind="weather", sky="clear")
    one.log("a\x1b[2Jb")
    one.flush()
    invalid, unknown, log = (next(items).event for _ in range(3))
    items.close()
    assert (invalid.kind, invalid.problem) == ("invalid", "log.text: Field required")
    assert (unknown.kind, unknown.fields["sky"]) == ("weather", "clear")
    assert log.text == "a\x1b[2Jb"


def test_a_broker_that_does_not_exist_or_answer_is_told(broker, tmp_path):
    with pytest.raises(UsageError, match="no connection file"):
        next(watch(str(tmp_path / "none.json")))
    broker.kill()
    with pytest.raises(Unavailable, match="tried tcp://"):
        next(watch(str(broker.connection_file)))


def test_waiting_costs_next_to_nothing(broker, producer):
    producer()
    items = watch(str(broker.connection_file))
    next(items)
    before, began = time.thread_time(), time.monotonic()
    one = producer()
    thread = threading.Timer(4.0, lambda: (one.put(AGENT, kind="agent_started", host="here"), one.flush()))
    thread.start()
    for item in items:
        if isinstance(item, Observation) and item.event.kind == "agent_started":
            break
    used, lasted = time.thread_time() - before, time.monotonic() - began
    items.close()
    thread.join()
    assert lasted > 3
    assert used < 0.01 * lasted


def test_who_takes_long_over_an_event_is_not_told_that_the_broker_is_silent(broker, producer, wait_for):
    one = producer()
    with Watcher(str(broker.connection_file), Filter()) as watcher:
        items = []
        while not any(isinstance(item, Snapshot) for item in items):
            watcher.wait()
            items += watcher.collect()
        one.log("first", "second")
        one.flush()
        looked_at = time.monotonic()
        wait_for(lambda: time.monotonic() > looked_at + 1.1 * HEARTBEAT_S)  # it is time to look after the connections
        seen = []
        while len([item for item in seen if isinstance(item, Observation)]) < 2:
            watcher.wait()
            for item in watcher.collect():
                seen.append(item)
                if len(seen) == 1:
                    began = time.monotonic()
                    wait_for(lambda began=began: time.monotonic() > began + 1.1 * SUSPECT_S)
    assert [getattr(getattr(item, "event", None), "text", item) for item in seen] == ["first", "second"]


def test_a_slow_reader_of_the_latest_is_not_given_what_has_waited_for_long(broker, producer, wait_for):
    one = producer()
    with Watcher(str(broker.connection_file), Filter(), policy="latest") as watcher:
        items = []
        while not any(isinstance(item, Snapshot) for item in items):
            watcher.wait()
            items += watcher.collect()
        for number in range(20):
            one.log(f"a{number}", f"b{number}")
            one.flush()
        one.result([])
        one.flush()
        seen, missed = [], 0
        while len(seen) - 1 + missed < 40:
            watcher.wait()
            for item in watcher.collect():
                if isinstance(item, Missed):
                    missed += item.last - item.first + 1
                elif isinstance(item, Observation):
                    seen.append(item.event.kind)
                    if len(seen) == 1:
                        began = time.monotonic()
                        wait_for(lambda began=began: time.monotonic() > began + 1.1 * LATEST_S)
    assert len(seen) < 10
    assert seen.count("result") == 1, "states and results are never too old"
    assert len(seen) - 1 + missed == 40
