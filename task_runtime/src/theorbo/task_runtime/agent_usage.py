"""Samples of what ranks and their node use, by psutil. A skin of `usage`."""

from __future__ import annotations

import time
from collections.abc import Mapping

import psutil

from theorbo.task_runtime.processes import Process
from theorbo.task_runtime.usage import RankUse, Sample


def sample(members: Mapping[int, list[Process]]) -> Sample:
    """What the members of ranks (see `processes.members`) and the node have used by now."""
    node = psutil.cpu_times()
    idle_s = node.idle + node.iowait
    twice_s = node.guest + node.guest_nice  # they are in user and nice as well
    memory = psutil.virtual_memory()
    ranks = {rank: _rank(processes) for rank, processes in members.items() if processes}
    return Sample(time.monotonic(), ranks, sum(node) - idle_s - twice_s, memory.total - memory.available)


def _rank(processes: list[Process]) -> RankUse:
    cpu_s, memory_bytes = 0.0, 0
    for process in processes:
        try:
            seen = psutil.Process(process.pid)
            with seen.oneshot():
                times = seen.cpu_times()
                memory_bytes += seen.memory_info().rss
        except psutil.Error:
            continue  # it has ended just now
        cpu_s += times.user + times.system + times.children_user + times.children_system
    return RankUse(cpu_s, memory_bytes)
