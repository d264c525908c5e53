"""What `theorbo run` shows: JSON objects, plain lines, or lines with progress bars below them on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Protocol

from theorbo.executor.outcome import Outcome
from theorbo.executor.reported import Reported
from theorbo.schemas.events import EventBase, ExecutionSubmitted, Progress
from theorbo.schemas.limits import PROGRESS_LINE_S
from theorbo.schemas.presentation import (
    as_line,
    as_object,
    json_line,
    visible,
    worth_a_line,
)


class Display(Protocol):
    """Something that shows one execution to somebody."""

    def show(self, reported: Reported) -> None:
        """Show the next event."""

    def notice(self, text: str) -> None:
        """Say what the Executor itself has to say."""

    def end(self, outcome: Outcome | None) -> None:
        """Show how it has ended, if that is known; nothing comes after this."""


def choose_display(*, as_json: bool) -> Display:
    """The display that fits what stdout is."""
    with contextlib.suppress(AttributeError):  # a stdout that somebody has replaced
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # what LANG=C cannot show
    if as_json:
        return JsonDisplay()
    if not sys.stdout.isatty():
        return PlainDisplay()
    from theorbo.executor.terminal import TerminalDisplay  # rich takes 0.1 s to load

    return TerminalDisplay()


class _Paper:
    """stdout, whose reader may go away (`theorbo run … | head`, a closed terminal): the Task goes on then."""

    def print(self, line: str) -> None:
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """A notice on stderr."""
    with contextlib.suppress(OSError):
        print(f"theorbo run: {visible(text)}", file=sys.stderr, flush=True)


class JsonDisplay:
    """The objects of `theorbo tail --json`, and at the end one of kind `outcome`."""

    def __init__(self) -> None:
        self._paper = _Paper()
        self._view: dict[str, str] = {}

    def show(self, reported: Reported) -> None:
        """One object."""
        if isinstance(reported.event, ExecutionSubmitted):
            event = reported.event
            self._view = {"task": event.task, "experiment": event.experiment, "run": event.run}
        self._paper.print(json_line(as_object(reported.header, self._view, reported.event)))

    def notice(self, text: str) -> None:
        """On stderr."""
        say(text)

    def end(self, outcome: Outcome | None) -> None:
        """The outcome as an object."""
        if outcome:
            self._paper.print(json_line(outcome.as_object()))


class Throttle:
    """Lets the progress of each rank pass once in a while, and always when it is complete."""

    def __init__(self) -> None:
        self._passed_at: dict[int | None, float] = {}

    def passes(self, rank: int | None, event: EventBase, now: float) -> bool:
        """Whether to show the event of `rank` at `now` (seconds)."""
        if not isinstance(event, Progress):
            return True
        complete = event.total is not None and event.done >= event.total
        if not complete and now - self._passed_at.get(rank, -PROGRESS_LINE_S) < PROGRESS_LINE_S:
            return False
        self._passed_at[rank] = now
        return True


class PlainDisplay:
    """A line an event."""

    def __init__(self) -> None:
        self._paper = _Paper()
        self._throttle = Throttle()

    def show(self, reported: Reported) -> None:
        """A line, if it is worth one."""
        event = reported.event
        if worth_a_line(event) and self._throttle.passes(reported.rank, event, time.monotonic()):
            self._paper.print(as_line(reported.header, {}, event))

    def notice(self, text: str) -> None:
        """On stderr."""
        say(text)

    def end(self, outcome: Outcome | None) -> None:
        """The outcome in a few lines."""
        for line in outcome.sentences() if outcome else ():
            self._paper.print(line)
