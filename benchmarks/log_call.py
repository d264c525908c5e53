"""What a `log` call costs the Task, beside the bare cost of json.dumps and one write to the same file system."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from figures import Figures

CALLS = 20_000
ROUNDS = 5
TEXT = "frame 1234: found 17 peaks, 3 of them strong, in 12.3 ms"


def call_times_us(call: object) -> float:
    """Median over `CALLS` calls, in microseconds."""
    assert callable(call)
    times = []
    for _ in range(CALLS):
        before = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - before)
    return median(times) / 1000


def main() -> None:
    """Measure both in turn."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ["THEORBO_SPOOL_ROOT"] = directory
        from theorbo.schemas.spool import make_spool

        os.environ["THEORBO_SPOOL"] = str(make_spool(Path(directory), "0" * 32))
        os.environ["THEORBO_RANK"] = "0"
        from theorbo.task_runtime import log

        bare = os.open(Path(directory) / "bare", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def peer() -> None:
            os.write(bare, json.dumps({"kind": "log", "time": time.time(), "pid": 1, "text": TEXT}).encode())

        ours, peers = [], []
        for _ in range(ROUNDS):
            peers.append(call_times_us(peer))
            ours.append(call_times_us(lambda: log(TEXT)))
    figures = Figures("A log call in the Task")
    figures.add("json.dumps and one write, bare", peers, "us")
    figures.add("theorbo log()", ours, "us", goal=15.0)
    figures.add("ratio", [a / b for a, b in zip(ours, peers, strict=True)], "x")
    figures.finish()


if __name__ == "__main__":
    main()
