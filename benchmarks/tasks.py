"""Tasks for the benchmarks."""

from __future__ import annotations

import time
from dataclasses import dataclass

from theorbo.task_runtime import Task, log


class Empty(Task):
    """Does nothing."""

    def _run(self) -> None:
        pass


class Idle(Task):
    """Is there for a while and does nothing."""

    @dataclass
    class Parameters:
        """How long."""

        seconds: float = 30.0

    def _run(self) -> None:
        time.sleep(self.parameters.seconds)


class OneAtATime(Task):
    """Reports one line at a time."""

    @dataclass
    class Parameters:
        """How many, and how far apart."""

        events: int = 300
        spacing_s: float = 0.005

    def _run(self) -> None:
        for number in range(self.parameters.events):
            log(f"event {number}")
            time.sleep(self.parameters.spacing_s)


class Burst(Task):
    """Reports as fast as it can."""

    @dataclass
    class Parameters:
        """How many."""

        events: int = 200_000

    def _run(self) -> None:
        text = "x" * 120
        for _ in range(self.parameters.events):
            log(text)
