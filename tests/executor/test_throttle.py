"""What comes often becomes fewer lines, and the last one is always among them."""

from __future__ import annotations

from theorbo.executor.reported import Reported
from theorbo.executor.throttle import Throttle
from theorbo.schemas import events
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import PROGRESS_LINE_S
from theorbo.schemas.names import Channel, Source, SourceKind


def reported(event: events.EventBase, rank: int = 0) -> Reported:
    return Reported(Header(channel=Channel.METRICS, source=Source(SourceKind.RANK, rank)), event)


def metric(value: float, name: str = "rate", rank: int = 0) -> Reported:
    return reported(events.Metric(time=0.0, name=name, value=value), rank)


def progress(done: float, rank: int = 0) -> Reported:
    return reported(events.Progress(time=0.0, done=done, total=2), rank)


def test_progress_is_throttled_by_rank_and_its_end_always_shown():
    throttle = Throttle()
    assert throttle.due(progress(0), 0.0)
    assert throttle.due(progress(0, rank=1), 0.1)
    assert not throttle.due(progress(1), 0.2)
    end = progress(2)
    assert throttle.due(end, 0.3) == [end]
    log = reported(events.Log(time=0.0, text=""))
    assert throttle.due(log, 0.3) == [log]
    assert throttle.rest() == []


def test_each_metric_of_each_rank_is_throttled_by_itself():
    throttle = Throttle()
    first = [metric(1), metric(1, name="size"), metric(1, rank=1)]
    assert [throttle.due(each, 0.1) for each in first] == [[each] for each in first]
    assert throttle.due(metric(2), 0.2) == []
    later = metric(3)
    assert throttle.due(later, 0.1 + PROGRESS_LINE_S) == [later]


def test_the_last_metric_comes_before_the_final_state_or_at_the_end():
    throttle = Throttle()
    last = metric(3)
    for each in (metric(1), metric(2), last):
        throttle.due(each, 0.0)
    running = reported(events.StateChanged(time=0.0, state="RUNNING", previous="PENDING"))
    assert throttle.due(running, 0.1) == [running]
    final = reported(events.StateChanged(time=0.0, state="COMPLETED", previous="RUNNING"))
    assert throttle.due(final, 0.1) == [last, final]
    after = metric(4)
    throttle.due(after, 0.2)
    assert throttle.rest() == [after]


def test_what_was_held_back_for_long_is_shown_with_whatever_comes_then():
    throttle = Throttle()
    throttle.due(metric(1), 0.0)
    held, log = metric(2), reported(events.Log(time=0.0, text=""))
    throttle.due(held, 0.1)
    assert throttle.due(log, 2 * PROGRESS_LINE_S) == [held, log]
    assert throttle.due(metric(3), 2.1 * PROGRESS_LINE_S) == []


def test_a_task_that_names_every_metric_anew_is_not_remembered_for_ever():
    throttle = Throttle()
    for number in range(1000):
        throttle.due(metric(1, name=str(number)), float(number))
    assert len(throttle._given_at) < 5
