"""What `theorbo run` and `theorbo attach` show on a terminal: lines, with a progress bar for each rank below them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from theorbo.executor.display import shown_line
from theorbo.executor.outcome import Outcome
from theorbo.executor.reported import Reported
from theorbo.executor.throttle import Throttle
from theorbo.schemas.events import ExecutionSubmitted, Progress
from theorbo.schemas.limits import PROGRESS_BARS
from theorbo.schemas.presentation import progress_text, style_of, visible, worth_a_line


class _RankBars(Bars):
    """Bars in the order of their ranks, whichever reported first."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(sorted(self.tasks, key=lambda task: task.fields["rank"]))


class TerminalDisplay:
    """Lines above, bars below; the ranks from `PROGRESS_BARS` on share one bar."""

    def __init__(self, command: str, broker: str) -> None:
        self._command = command
        self._broker = broker
        self._console = Console(highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}", markup=False))
        self._bars = _RankBars(*columns, console=self._console, refresh_per_second=4, transient=True)
        self._throttle = Throttle()
        self._known: dict[int, TaskID] = {}
        self._shared: dict[int, Progress] = {}

    def show(self, reported: Reported, _submission: ExecutionSubmitted | None) -> None:
        """A line above the bars, or a change of a bar."""
        if isinstance(reported.event, Progress):
            self._move(reported.rank or 0, reported.event)
        elif worth_a_line(reported.event):
            self._print_all(self._throttle.due(reported, time.monotonic()))

    def notice(self, text: str) -> None:
        """Above the bars as well."""
        self._print(f"theorbo {self._command}: {visible(text)}", "yellow")

    def end(self, outcome: Outcome | None) -> None:
        """The outcome in a few lines; the bars vanish."""
        self._print_all(self._throttle.rest())
        if self._known:
            self._bars.stop()
        for line in outcome.sentences(self._broker) if outcome else ():
            self._print(line, "bold")

    def _print_all(self, due: list[Reported]) -> None:
        for each in due:
            self._print(shown_line(each), style_of(each.event))

    def _move(self, rank: int, event: Progress) -> None:
        if rank < PROGRESS_BARS:
            words = " ".join(part for part in (progress_text(event), visible(event.text)) if part)
            self._set(rank, f"rank {rank}", event.done, event.total, words)
            return
        self._shared[rank] = event
        done = sum(each.done for each in self._shared.values())
        totals = [each.total for each in self._shared.values()]
        total = None if None in totals else sum(each or 0.0 for each in totals)
        together = Progress(time=event.time, done=done, total=total, unit=event.unit)
        self._set(PROGRESS_BARS, f"{len(self._shared)} more", done, total, progress_text(together))

    def _set(self, rank: int, name: str, done: float, total: float | None, words: str) -> None:
        if not self._known:
            self._bars.start()
        if rank not in self._known:
            self._known[rank] = self._bars.add_task(name, total=total, rank=rank, words=words)
        self._bars.update(self._known[rank], description=name, completed=done, total=total, words=words)

    def _print(self, line: str, style: str) -> None:
        with contextlib.suppress(OSError):  # the terminal has gone; the Task goes on
            self._console.print(Text(line, style))
