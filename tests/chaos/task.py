"""What is reported while everything is killed: log lines, metrics and results, each with a number of its own.

Each rank numbers what it reports 0, 1, 2 … over all kinds, and at its end leaves its own count in a file.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from theorbo.task_runtime import Task, log, metric, result

METRIC_EVERY = 10
RESULT_EVERY = 1000


class Reports(Task):
    class Parameters:
        def __init__(self, events: int, seconds: float, counts: str):
            self.events = events
            self.seconds = seconds
            self.counts = counts

    def _run(self):
        events, seconds = self.parameters.events, self.parameters.seconds
        rank = int(os.environ["THEORBO_RANK"])
        counts = {"log": 0, "metric": 0, "result": 0}
        begin = time.monotonic()
        for number in range(events):
            early_s = begin + seconds * number / events - time.monotonic()
            if early_s > 0.005:  # in small bursts, for each sleep costs as much as several reports
                time.sleep(early_s)
            if number % RESULT_EVERY == RESULT_EVERY - 1:
                result({"until": number}, name=f"counter {number}")
                counts["result"] += 1
            elif number % METRIC_EVERY == METRIC_EVERY - 1:
                metric("counter", number)
                counts["metric"] += 1
            else:
                log(f"counter {number}")
                counts["log"] += 1
        Path(self.parameters.counts, f"rank-{rank}.json").write_text(json.dumps(counts))
