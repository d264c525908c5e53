"""Virtual time: what happens next, in one order that the seed alone decides; and processes that live in it."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

UNIX_S = 1_700_000_000.0
"""What the wall clocks of all hosts show when a run begins."""


class Scheduler:
    """A heap of actions. Time passes only here."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        """Of everything that is not planned: latencies, what a crash leaves."""
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = 0

    def after(self, delay_s: float, action: Callable[..., object], *arguments: Any) -> None:
        """Call `action` then. Of two at the same time the one that was asked for first comes first."""
        self._order += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._order, action, arguments))

    def step(self) -> bool:
        """The next action; False if there is none."""
        if not self._heap:
            return False
        self.now, _, action, arguments = heapq.heappop(self._heap)
        self.steps += 1
        action(*arguments)
        return True


class Host:
    """A machine with a wall clock, which somebody may set."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self._scheduler = scheduler
        self.name = name
        self.wall_offset_s = UNIX_S

    @property
    def wall(self) -> float:
        return self._scheduler.now + self.wall_offset_s


class Process:
    """Something that runs, may be killed (for ever) and frozen (SIGSTOP). What is due meanwhile comes when it thaws."""

    def __init__(self, scheduler: Scheduler, host: Host, name: str) -> None:
        self.scheduler = scheduler
        self.host = host
        self.name = name
        self.alive = True
        self._frozen = 0
        self._missed: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def __str__(self) -> str:
        return self.name

    @property
    def now(self) -> float:
        """The monotonic clock, which goes on while the process is frozen and never jumps."""
        return self.scheduler.now

    @property
    def wall(self) -> float:
        return self.host.wall

    @property
    def frozen(self) -> bool:
        return self._frozen > 0

    def after(self, delay_s: float, action: Callable[..., object], *arguments: Any) -> None:
        """As `Scheduler.after`, as long as the process lives."""
        self.scheduler.after(delay_s, self.run, action, *arguments)

    def run(self, action: Callable[..., object], *arguments: Any) -> None:
        if not self.alive:
            return
        if self._frozen:
            self._missed.append((action, arguments))
        else:
            action(*arguments)

    def freeze(self) -> None:
        self._frozen += 1

    def thaw(self) -> None:
        if self._frozen:
            self._frozen -= 1
        if not self._frozen:
            missed, self._missed = self._missed, []
            for action, arguments in missed:
                self.run(action, *arguments)

    def kill(self) -> None:
        self.alive = False
        self._missed.clear()
