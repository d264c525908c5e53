"""A Task that reports until it is told to end, whatever its broker does."""

from __future__ import annotations

import time
from pathlib import Path

from theorbo.task_runtime import Task, log


class Ticks(Task):
    class Parameters:
        def __init__(self, place: str = ""):
            self.place = place

    def _run(self):
        place, number = Path(self.parameters.place), 0
        while not (place / "enough").exists():
            number += 1
            log(f"tick {number} " + "x" * 500)
            (place / "ticks").write_text(str(number))
            time.sleep(0.005)
