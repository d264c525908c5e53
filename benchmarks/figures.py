"""What the benchmark programs share: medians, goals, and an exit status."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence


class Figures:
    """Collects figures with their goals and prints them; `finish` ends the program."""

    def __init__(self, title: str) -> None:
        print(title)
        self._missed = False

    def add(self, name: str, samples: Sequence[float], unit: str, goal: float | None = None) -> float:
        """Print median, minimum and maximum of `samples`, and whether the median is at most `goal`."""
        median = statistics.median(samples)
        line = (
            f"  {name:<58} {median:10.3f} {unit:<6} (min {min(samples):.3f}, max {max(samples):.3f}, n={len(samples)})"
        )
        if goal is not None:
            reached = median <= goal
            self._missed |= not reached
            line += f"  goal <= {goal:g}: {'reached' if reached else 'MISSED'}"
        print(line, flush=True)
        return median

    def finish(self) -> None:
        """Exit with 1 if a goal was missed."""
        sys.exit(1 if self._missed else 0)


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0 to 1) of the samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
