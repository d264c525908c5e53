"""Items as JSON objects or as lines, for the commands that show events."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from theorbo.observer.progress import RanksProgress, Together
from theorbo.observer.states import has_ended, present_state
from theorbo.observer.tally import StreamCount, Verification, verification_fields
from theorbo.observer.values import BrokerTrouble, Missed, Observation
from theorbo.schemas.choosing import SHORT_DIGITS
from theorbo.schemas.events import Progress, Result, StateChanged
from theorbo.schemas.names import KIND_CHANNELS, OUTPUT_KIND
from theorbo.schemas.presentation import as_line, as_object, json_line, line_of, style_of, visible, worth_a_line

_ROWS = 100  # of streams that are whole; all of the others are shown


class Objects:
    """One JSON object a line."""

    def view(self, view: Mapping[str, Any]) -> None:
        """An execution's present state."""
        self._print({**_place(view), "kind": "snapshot", "time": time.time(), **view})

    def event(self, item: Observation) -> None:
        """What happened."""
        self._print(as_object(item.header, item.view, item.event))

    def missed(self, item: Missed) -> None:
        """What could not be had."""
        place = {**_place(item.view), "channel": item.channel.text, "position": item.first}
        said = {"last": item.last, "reason": item.reason}
        self._print({**place, "kind": "missed", "time": time.time(), **said})

    def trouble(self, item: BrokerTrouble) -> None:
        """What hinders the broker."""
        self._print({**_place({}), "kind": "broker_trouble", "time": time.time(), "text": item.text})

    def verification(self, item: Verification) -> None:
        """The last one."""
        self._print({**_place({}), **verification_fields(item, time.time())})

    def _print(self, fields: Mapping[str, Any]) -> None:
        sys.stdout.write(json_line(fields) + "\n")


def _place(view: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that every object has, of what is no event."""
    names = {name: view.get(name, "") for name in ("execution", "task", "experiment", "run")}
    return {**names, "source": "", "rank": None, "channel": "", "number": 0, "position": 0}


class Lines:
    """Lines for people; coloured on a terminal."""

    def __init__(self, *, everything: bool, single: bool) -> None:
        """`everything`: also bookkeeping. `single`: only of one execution, which need not be named each time."""
        self._everything = everything
        self._with_task = not single
        self._progress: dict[bytes, RanksProgress] = {}
        self._console = Console(highlight=False, soft_wrap=True) if sys.stdout.isatty() else None

    def view(self, view: Mapping[str, Any]) -> None:
        """An execution's present state."""
        self._print(line_of(time.time(), _who(view), present_state(view)), "bold")

    def event(self, item: Observation) -> None:
        """What happened, if people want to see it. The progress of several ranks is shown together."""
        event, execution = item.event, item.header.execution
        if isinstance(event, Progress) and not self._everything:
            ranks = self._progress.setdefault(execution, RanksProgress())
            self._together(
                item, ranks.take(item.header.source.index if item.header.source else 0, event, time.monotonic())
            )
            return
        if isinstance(event, StateChanged | Result) and (known := self._progress.get(execution)):
            self._together(item, known.rest(time.monotonic()))
            if isinstance(event, StateChanged) and has_ended({"state": event.state}):
                del self._progress[execution]
        if self._everything or worth_a_line(item.event):
            self._print(as_line(item.header, item.view, item.event, with_task=self._with_task), style_of(item.event))

    def _together(self, item: Observation, progress: Together | None) -> None:
        if progress:
            who = f"{_who(item.view)} {progress.who}" if self._with_task else progress.who
            self._print(line_of(progress.time, who, progress.text), style_of(item.event))

    def missed(self, item: Missed) -> None:
        """What could not be had."""
        text = f"{item.last - item.first + 1} events on {item.channel.text} cannot be shown: {item.reason}"
        self._print(line_of(time.time(), _who(item.view), text), "red")

    def trouble(self, _item: BrokerTrouble) -> None:
        """People are told on stderr."""

    def verification(self, item: Verification) -> None:
        """A table, and the verdict as the last line."""
        bad = [stream for stream in item.streams if not stream.whole]
        good = [stream for stream in item.streams if stream.whole]
        for row in _table([*bad, *good[:_ROWS]]):
            self._print(row, "")
        if len(good) > _ROWS:
            rest = good[_ROWS:]
            self._print(f"and {len(rest)} more streams, {sum(stream.events for stream in rest)} events, all whole", "")
        self._print(item.verdict, "red" if item.problems else "bold")

    def _print(self, line: str, style: str) -> None:
        if self._console:
            self._console.print(Text(line, style))
        else:
            sys.stdout.write(line + "\n")


def _table(streams: list[StreamCount]) -> list[str]:
    head = ("STREAM", "FIRST", "LAST", "EVENTS", "GAPS", "TOLD", "DOUBLE", "REPORTED")
    rows = [
        (
            f"{stream.execution[-SHORT_DIGITS:]}/{stream.source}/{stream.channel}",
            *map(str, (stream.first, stream.last, stream.events, stream.gaps, stream.told, stream.duplicates)),
            "-" if stream.reported is None else str(stream.reported),
        )
        for stream in streams
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in (head, *rows)
    ]


def _who(view: Mapping[str, Any]) -> str:
    return f"{visible(str(view.get('task') or '?'))} {str(view.get('execution'))[-SHORT_DIGITS:]}"


def doubt_of(kind: str) -> str:
    """What to say to somebody who asks for a kind that is not known here; empty if it is."""
    known = [*KIND_CHANNELS, OUTPUT_KIND, "invalid"]
    if kind in known:
        return ""
    near = difflib.get_close_matches(kind, known, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"no event of kind {visible(kind)!r} is known here; {hint}"
