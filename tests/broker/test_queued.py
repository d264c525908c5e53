"""An execution whose job waits in a scheduler's queue, and whose Executor has let go: nobody is heard for days."""

from __future__ import annotations

import pytest

from theorbo.schemas.limits import LOST_S
from theorbo.schemas.names import EXECUTOR, Channel, Source, SourceKind
from theorbo.schemas.records import encode_record

from .bus import RUN, Bus, put


class Queued(Bus):
    def __init__(self):
        super().__init__()
        self.number = 0
        self.hello(b"E", "executor", RUN)
        self.signal("execution_submitted", task="peaks", user="ada", host="login", launcher="slurm")
        self.signal("job_submitted", scheduler="slurm", job="12")

    def signal(self, kind, **fields):
        self.number += 1
        record = encode_record({"kind": kind, "time": self.now, **fields})
        self.say(b"E", put(EXECUTOR, Channel.SIGNALS, self.number, record))
        self.settle()


def test_a_job_that_waits_for_days_is_not_lost():
    bus = Queued()
    bus.signal("job_changed", job="12", state="PENDING", reason="Priority")
    bus.pass_time(3 * LOST_S)
    assert bus.states() == []


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("job_changed", {"job": "12", "state": "RUNNING", "nodes": "node1"}), ("launcher_gone", {"reason": "no job"})],
)
def test_one_that_waits_no_longer_is_over_or_lost_as_any_other(kind, fields):
    bus = Queued()
    bus.signal(kind, **fields)
    bus.pass_time(LOST_S + 2)
    assert bus.states() == ["LOST" if kind == "job_changed" else "FAILED"]


def test_one_that_has_begun_meanwhile_is_lost_when_its_agents_are_silent():
    bus = Queued()
    bus.pass_time(2 * LOST_S)
    agent = Source(SourceKind.AGENT, 0)
    bus.hello(b"A", "agent", RUN)
    bus.say(
        b"A", put(agent, Channel.SIGNALS, 1, encode_record({"kind": "agent_started", "time": bus.now, "host": "n"}))
    )
    bus.settle()
    bus.pass_time(LOST_S + 2)
    assert bus.states() == ["LOST"]
