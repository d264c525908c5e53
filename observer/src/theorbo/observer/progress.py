"""The progress of all ranks of an execution as one line: who watches many ranks wants to know how far all are. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from theorbo.schemas.events import Progress
from theorbo.schemas.limits import PROGRESS_LINE_S
from theorbo.schemas.presentation import progress_text, visible


class Together(NamedTuple):
    """What to show: `rank` alone, or of several ranks all that they have done."""

    time: float
    who: str
    text: str


class RanksProgress:
    """Of one execution. One rank is shown as it reports; several together, once in `PROGRESS_LINE_S` and at the end."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[float, float | None]] = {}
        self._shown_at = -math.inf
        self._held: Together | None = None

    def take(self, rank: int, event: Progress, now: float) -> Together | None:
        """What to show now, if anything."""
        self._done[rank] = (event.done, event.total)
        if len(self._done) == 1:
            words = " ".join(part for part in (f"progress {progress_text(event)}", visible(event.text)) if part)
            return Together(event.time, f"rank {rank}", words)
        done = sum(each for each, _ in self._done.values())
        totals = [total for _, total in self._done.values() if total is not None]
        total = sum(totals) if len(totals) == len(self._done) else None
        together = Progress(time=event.time, done=done, total=total, unit=event.unit)
        self._held = Together(event.time, f"{len(self._done)} ranks", f"progress {progress_text(together)}")
        complete = total is not None and done >= total
        return self.rest(now) if complete or now - self._shown_at >= PROGRESS_LINE_S else None

    def rest(self, now: float) -> Together | None:
        """What was held back, if anything was."""
        held, self._held = self._held, None
        if held:
            self._shown_at = now
        return held
