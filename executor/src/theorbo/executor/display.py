"""What `theorbo run` and `theorbo attach` show: JSON objects, plain lines, or lines with bars below on a terminal."""

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

    def show(self, reported: Reported, submission: ExecutionSubmitted | None) -> None:
        """Show the next event of what was submitted."""

    def notice(self, text: str) -> None:
        """Say what the Executor itself has to say."""

    def end(self, outcome: Outcome | None) -> None:
        """Show how it has ended, if that is known; nothing comes after this."""


def choose_display(command: str, *, as_json: bool, broker: str | None = None) -> Display:
    """The display that fits what stdout is; `command` (`run`, `attach`) is named in notices, `broker` (of --broker) in
    the commands that the end advises.
    """
    if as_json:
        return JsonDisplay(command)
    if not _can_have_bars():
        return PlainDisplay(command, broker or "")
    from theorbo.executor.terminal import TerminalDisplay  # rich takes 0.1 s to load

    return TerminalDisplay(command, broker or "")


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

    def __init__(self, command: str) -> None:
        self._command = command

    def print(self, line: str) -> None:
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self.say(f"no more is shown: cannot write the output: {error.strerror}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def say(self, text: str) -> None:
        """A notice on stderr."""
        with contextlib.suppress(OSError):
            print(f"theorbo {self._command}: {visible(text)}", file=sys.stderr, flush=True)


def shown_line(reported: Reported) -> str:
    """The event for people; what a former Executor may have shown already is marked in its first line."""
    line = as_line(reported.header, {}, reported.event)
    if not reported.redelivered:
        return line
    first, *rest = line.split("\n")
    return "\n".join([f"{first} (redelivered)", *rest])


class JsonDisplay:
    """The objects of `theorbo tail --json`, and at the end one of kind `outcome`."""

    def __init__(self, command: str) -> None:
        self._paper = _Paper(command)

    def show(self, reported: Reported, submission: ExecutionSubmitted | None) -> None:
        """One object."""
        view = {name: getattr(submission, name) for name in ("task", "experiment", "run")} if submission else {}
        shown = as_object(reported.header, view, reported.event)
        self._paper.print(json_line({**shown, "redelivered": True} if reported.redelivered else shown))

    def notice(self, text: str) -> None:
        """On stderr."""
        self._paper.say(text)

    def end(self, outcome: Outcome | None) -> None:
        """The outcome as an object."""
        if outcome:
            self._paper.print(json_line(outcome.as_object()))


class PlainDisplay:
    """A line an event."""

    def __init__(self, command: str, broker: str) -> None:
        self._paper = _Paper(command)
        self._broker = broker
        self._throttle = Throttle()

    def show(self, reported: Reported, _submission: ExecutionSubmitted | None) -> None:
        """A line, if it is worth one."""
        if worth_a_line(reported.event):
            self._print(self._throttle.due(reported, time.monotonic()))

    def notice(self, text: str) -> None:
        """On stderr."""
        self._paper.say(text)

    def end(self, outcome: Outcome | None) -> None:
        """The outcome in a few lines."""
        self._print(self._throttle.rest())
        for line in outcome.sentences(self._broker) if outcome else ():
            self._paper.print(line)

    def _print(self, due: list[Reported]) -> None:
        for each in due:
            self._paper.print(shown_line(each))
