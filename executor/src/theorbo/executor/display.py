"""What `theorbo run` shows: JSON objects, plain lines, or lines with progress bars below them on a terminal."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from typing import Protocol

from theorbo.executor.outcome import Outcome
from theorbo.executor.reported import Reported
from theorbo.executor.throttle import Throttle
from theorbo.schemas.events import ExecutionSubmitted
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
    if as_json:
        return JsonDisplay()
    if not _can_have_bars():
        return PlainDisplay()
    from theorbo.executor.terminal import TerminalDisplay  # rich takes 0.1 s to load

    return TerminalDisplay()


def _can_have_bars() -> bool:
    """Whether stdout is a terminal that can move its cursor, and that is ours: bars of a job in the background
    would be painted over what others write.
    """
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return False
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except OSError:  # not the terminal of our session: it has no jobs
        return True


class _Paper:
    """stdout, whose reader may go away (`theorbo run … | head`, a closed terminal): the Task goes on then."""

    def print(self, line: str) -> None:
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                say(f"no more is shown: cannot write the output: {error.strerror}")
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


class PlainDisplay:
    """A line an event."""

    def __init__(self) -> None:
        self._paper = _Paper()
        self._throttle = Throttle()

    def show(self, reported: Reported) -> None:
        """A line, if it is worth one."""
        if worth_a_line(reported.event):
            self._print(self._throttle.due(reported, time.monotonic()))

    def notice(self, text: str) -> None:
        """On stderr."""
        say(text)

    def end(self, outcome: Outcome | None) -> None:
        """The outcome in a few lines."""
        self._print(self._throttle.rest())
        for line in outcome.sentences() if outcome else ():
            self._paper.print(line)

    def _print(self, due: list[Reported]) -> None:
        for each in due:
            self._paper.print(as_line(each.header, {}, each.event))
