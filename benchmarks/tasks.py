"""Tasks for the benchmarks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

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


class Paced(Task):
    """Reports at a rate, each event with its number and a text of `size` bytes, and how many there were."""

    @dataclass
    class Parameters:
        """How fast, how long, how large; it ends earlier when the file is there."""

        rate: float = 1000.0
        seconds: float = 10.0
        size: int = 100
        stop_file: str = ""

    def _run(self) -> None:
        wanted = self.parameters
        padding = "x" * wanted.size
        began, number = time.monotonic(), 0
        while (elapsed := time.monotonic() - began) < wanted.seconds:
            if wanted.stop_file and Path(wanted.stop_file).exists():
                break
            for number in range(number + 1, int(wanted.rate * elapsed) + 1):  # noqa: B020 - it goes on where it was
                log(f"{number} {padding}")
            time.sleep(0.002)
        self.result = number
