"""Joining a stream that flows, again and again: snapshot and stream together are what the Task has counted."""

from __future__ import annotations

import threading

import pytest

from tests.conftest import DEADLINE_S
from tests.observer.producer import Producer
from theorbo.observer.filters import Filter
from theorbo.observer.tally import Tally
from theorbo.observer.values import Missed, Observation, Snapshot
from theorbo.observer.watcher import Watcher

JOINS = 30
EVENTS_PER_JOIN = 300


@pytest.fixture
def flowing(broker):
    """The id of an execution that counts its lines as fast as the broker takes them."""
    started, stop = threading.Event(), threading.Event()
    made: list[Producer] = []

    def run() -> None:
        one = Producer(broker.connection_file)
        made.append(one)
        number = 0
        while not stop.is_set():
            one.log(*(f"{number + step} {'x' * 100}" for step in range(1, 101)))
            number += 100
            one.pump()
            started.set()
        one.flush()
        one.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(DEADLINE_S)
    yield made[0].id
    stop.set()
    thread.join(DEADLINE_S)


def test_each_time_the_first_event_is_the_one_behind_the_head_and_none_is_missing_or_double(broker, flowing):
    heads = [0]
    for _ in range(JOINS):
        wanted = Filter.of(execution=flowing)
        tally, counted = Tally(wanted.followed), []
        with Watcher(str(broker.connection_file), wanted, tally=tally) as watcher:
            while len(counted) < EVENTS_PER_JOIN:
                for item in watcher.collect():
                    assert not isinstance(item, Missed)
                    if isinstance(item, Snapshot):
                        heads.append(item.views[0]["heads"].get("log", 0))
                    elif isinstance(item, Observation) and item.event.kind == "log":
                        counted.append(int(item.event.text.split()[0]))
                watcher.wait()
        assert counted == list(range(heads[-1] + 1, heads[-1] + 1 + len(counted)))
        assert not tally.verification(complete=False).problems
    assert heads == sorted(heads)
    assert heads[-1] > heads[1]
