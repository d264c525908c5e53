"""What ranks use, computed from samples; and samples of real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from theorbo.schemas.limits import RECORD_BYTES, USAGE_RANKS
from theorbo.schemas.names import Source, SourceKind
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import make_spool
from theorbo.task_runtime.agent_core import AgentCore
from theorbo.task_runtime.agent_spool import NodeSpool
from theorbo.task_runtime.agent_usage import sample
from theorbo.task_runtime.processes import RankProcess, members, process_table
from theorbo.task_runtime.usage import RankUse, Sample, usage
from theorbo.task_runtime.wrapper import start_ticks

EXECUTION = "0123456789abcdef" * 2
AGENT = Source(SourceKind.AGENT, 0)
SPIN = "import sys\nprint('ready', flush=True)\nwhile True: pass"


def sampled(time_s, node_cpu_s=0.0, **ranks):
    return Sample(time_s, {int(name[1:]): RankUse(*use) for name, use in ranks.items()}, node_cpu_s, 7000)


def test_rates_are_of_the_time_between_two_samples_and_sums_over_all_ranks():
    before = sampled(100.0, 50.0, r0=(10.0, 1), r1=(0.0, 1))
    now = sampled(110.0, 65.0, r0=(15.0, 1000), r1=(20.0, 2000))
    assert usage(before, now, {0: 3.21, 1: 0.0}) == {
        "cpu": 2.5, "memory_bytes": 3000, "node_cpu": 1.5, "node_memory_bytes": 7000,
        "ranks": {0: [0.5, 1000, 3.2], 1: [2.0, 2000, 0.0]},
    }  # fmt: skip


def test_a_rank_that_has_started_meanwhile_counts_and_time_that_was_taken_along_is_not_negative():
    before, now = sampled(0.0, r0=(10.0, 1)), sampled(10.0, r0=(4.0, 1), r1=(5.0, 1))
    assert usage(before, now, {})["ranks"] == {0: [0.0, 1, 0.0], 1: [0.5, 1, 0.0]}


def test_of_very_many_ranks_the_quietest_and_the_largest_are_listed_and_all_are_summed():
    many = range(20 * USAGE_RANKS)
    before = Sample(0.0, dict.fromkeys(many, RankUse(0.0, 1)), 0.0, 0)
    now = Sample(10.0, {rank: RankUse(10.0, 10**12 + rank) for rank in many}, 0.0, 0)
    fields = usage(before, now, {rank: 1e6 if rank in (5, 7) else 0.0 for rank in many})
    assert len(fields["ranks"]) == USAGE_RANKS
    assert {5, 7, many[-1], many[-2]} <= fields["ranks"].keys()
    assert fields["cpu"] == len(many)
    assert len(encode_record({"kind": "usage", **fields})) < RECORD_BYTES / 20


@pytest.fixture
def spinning():
    """A rank that uses a core, started as a thin parent does."""
    with subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE, process_group=0) as child:
        assert child.stdout.readline() == b"ready\n"
        yield RankProcess(0, child.pid, os.getpid(), child.pid, start_ticks(child.pid))
        child.kill()


def test_a_rank_that_spins_uses_a_core_and_its_memory_is_seen(spinning):
    first = sample(members([spinning], process_table()))
    deadline = time.monotonic() + 30
    while True:  # long enough for a kernel that counts in hundredths of a second
        now = sample(members([spinning], process_table()))
        fields = usage(first, now, {})
        if now.ranks[0].cpu_s - first.ranks[0].cpu_s >= 0.3:
            break
        assert time.monotonic() < deadline, fields
    assert 0.0 < fields["cpu"] < 1.3
    assert 2_000_000 < fields["memory_bytes"] < fields["node_memory_bytes"]
    assert fields["node_cpu"] > 0.0


def test_an_agent_reports_usage_and_who_is_quiet_also_after_another_has_taken_over(agent, spinning):
    running = agent(first="limits.USAGE_S = 0.2")
    started = {"kind": "rank_started", "time": 1, "pid": spinning.pid, "host": "h", "parent_pid": spinning.parent_pid}
    more = {"process_group": spinning.process_group, "start_ticks": spinning.start_ticks}
    running.append("rank-0.rec", encode_record({**started, **more}))
    running.client.follow(lambda client: client.events("usage"))
    event = running.client.events("usage", "agent:0")[0]
    assert event.host == socket.gethostname()
    assert event.ranks[0][1] == event.memory_bytes > 2_000_000
    running.client.follow(lambda client: quiet(client)[-1] > 1.5)
    assert quiet(running.client) == sorted(quiet(running.client))
    running.append("rank-0.rec", encode_record({"kind": "log", "time": 1, "text": "at work"}))
    running.client.follow(lambda client: quiet(client)[-1] < 1.5)
    running.stop()
    count = len(running.client.events("usage"))
    running.start("limits.USAGE_S = 0.2")
    running.client.follow(lambda client: len(client.events("usage")) > count + 2)
    running.end()
    closed = running.client.events("agent_closed")[0]
    assert closed.streams["agent:0/metrics"] == len(running.client.events("usage"))


def quiet(client):
    """For how long rank 0 had been quiet, each time."""
    return [event.ranks[0][2] for event in client.events("usage")]


@pytest.mark.parametrize(("spool_bytes", "written"), [(1, False), (10**6, True)])
def test_while_there_is_no_room_usage_is_not_reported(tmp_path, spool_bytes, written):
    spool = NodeSpool(make_spool(tmp_path, EXECUTION), AGENT)
    core = AgentCore(bytes.fromhex(EXECUTION), 0, spool_bytes=spool_bytes)
    spool.attach(core, lambda _: None)
    (spool.path / "rank-0.out").write_bytes(b"not delivered yet\n")
    spool.look_at_everything()
    spool.adjust_pressure(0.0)
    spool.write_usage({"host": "h"})
    spool._inotify.close()
    assert (spool.path / "agent-0.use").exists() == written
