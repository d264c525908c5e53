"""What an agent's look at the usage of its ranks costs, for as many ranks as a large node has."""

from __future__ import annotations

import os
import subprocess
import time

from figures import Figures

from theorbo.schemas.limits import USAGE_S
from theorbo.task_runtime.agent_usage import sample
from theorbo.task_runtime.processes import RankProcess, members, process_table
from theorbo.task_runtime.usage import usage
from theorbo.task_runtime.wrapper import start_ticks

RANKS = 128
ROUNDS = 20


def main() -> None:
    """Measure processor time of whole looks."""
    children = [subprocess.Popen(["sleep", "600"], process_group=0) for _ in range(RANKS)]
    try:
        ranks = [
            RankProcess(rank, child.pid, os.getpid(), child.pid, start_ticks(child.pid))
            for rank, child in enumerate(children)
        ]
        before, times = sample(members(ranks, process_table())), []
        for _ in range(ROUNDS):
            begun = time.process_time()
            before, former = sample(members(ranks, process_table())), before
            usage(former, before, {})
            times.append((time.process_time() - begun) * 1000)
    finally:
        for child in children:
            child.kill()
            child.wait()
    figures = Figures(f"Usage of {RANKS} ranks on one node")
    figures.add("one look", times, "ms")
    figures.add(f"of a core, every {USAGE_S:g} s", [one / 10 / USAGE_S for one in times], "%", goal=0.5)
    figures.finish()


if __name__ == "__main__":
    main()
