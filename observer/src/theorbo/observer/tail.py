"""`theorbo tail`: what there is, then what happens, one line or one JSON object each."""

from __future__ import annotations

import argparse
import difflib
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from theorbo.observer.choose import SHORT_DIGITS, chosen
from theorbo.observer.client import BrokerAway, BrokerBack, Item, Missed, Observation, Snapshot, Watcher
from theorbo.observer.filters import Filter
from theorbo.observer.states import has_ended, present_state
from theorbo.schemas.errors import ExitStatus
from theorbo.schemas.link import open_link
from theorbo.schemas.names import KIND_CHANNELS, OUTPUT_KIND
from theorbo.schemas.presentation import as_line, as_object, json_line, line_of, style_of, visible, worth_a_line

_EPILOG = """\
The first lines are the present state: one for each execution that is open (with --json: objects of kind
"snapshot", with the fields of theorbo ps --json). Every later line is one event; each comes once, in the
order of its channel, whatever was dropped or restarted in between. What could not be had any more is told
(with --json: kind "missed"). Of an --execution that has ended already its state is shown, and that is all.

examples:
  theorbo tail                                   everything
  theorbo tail --experiment mfx1 --run 12        one run of one experiment
  theorbo tail --kind result --json | jq .       results only, for a script
  theorbo tail --execution 3f2a91bc --until-ended
"""


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    options = _parser().parse_args(argv)
    execution = options.execution
    if execution is not None:
        link = open_link(options.broker)
        try:
            execution = str(chosen(link, execution)["execution"])
        finally:
            link.close()
    for kind in options.kind or ():
        _warn_of_unknown(kind)
    wanted = Filter.of(options.experiment, options.run, options.task, execution, options.kind)
    show = _Json() if options.json else _Lines(everything=bool(options.kind), single=execution is not None)
    with Watcher(options.broker, wanted, until_ended=options.until_ended) as watcher:
        while not watcher.finished:
            for item in watcher.collect():
                if isinstance(item, Snapshot) and execution is not None and any(map(has_ended, item.views)):
                    _show_ended(item.views, show)
                    return ExitStatus.COMPLETED
                _show(item, show)
            sys.stdout.flush()
            if not watcher.finished:
                watcher.wait()
    return ExitStatus.COMPLETED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo tail",
        description="Follow what happens: first the present state, then every event, live.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--experiment", metavar="E", help="only of this experiment")
    parser.add_argument("--run", metavar="R", help="only of this data-acquisition run")
    parser.add_argument("--task", metavar="T", help="only of this Task")
    parser.add_argument("--execution", metavar="ID", help="only of this execution; a few digits of its id will do")
    parser.add_argument("--kind", metavar="K", action="append", help="only events of this kind; may be given again")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--until-ended", action="store_true",
        help="end when the execution has ended (without --execution: all that were seen, at least one)",
    )  # fmt: skip
    parser.add_argument("--broker", metavar="FILE", help="connection file (default: THEORBO_BROKER, else your own)")
    return parser


def _warn_of_unknown(kind: str) -> None:
    known = [*KIND_CHANNELS, OUTPUT_KIND, "invalid"]
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        _say(f"no event of kind {visible(kind)!r} is known here; {hint}")


def _say(text: str) -> None:
    print(f"theorbo tail: {text}", file=sys.stderr, flush=True)


def _show_ended(views: tuple[Mapping[str, Any], ...], show: _Json | _Lines) -> None:
    """Of an execution that was named and has ended nothing will follow."""
    for view in views:
        show.view(view)
        _say(f"it has ended; theorbo result {view['execution']} shows its results")


def _show(item: Item, show: _Json | _Lines) -> None:
    match item:
        case Snapshot(views):
            for view in views:
                show.view(view)
            sys.stdout.flush()
            there_is = f"{len(views)} execution{'s' * (len(views) != 1)}" if views else "nothing is running now"
            _say(f"{there_is}; what follows is live")
        case Observation():
            show.event(item)
        case Missed():
            show.missed(item)
        case BrokerAway(text):
            _say(f"{text}; waiting for it")
        case BrokerBack():
            _say("the broker is back")


class _Json:
    """One object a line."""

    def view(self, view: Mapping[str, Any]) -> None:
        self._print({**_place(view), "kind": "snapshot", "time": time.time(), **view})

    def event(self, item: Observation) -> None:
        self._print(as_object(item.header, item.view, item.event))

    def missed(self, item: Missed) -> None:
        place = {**_place(item.view), "channel": item.channel.text, "position": item.first}
        said = {"last": item.last, "reason": item.reason}
        self._print({**place, "kind": "missed", "time": time.time(), **said})

    def _print(self, fields: Mapping[str, Any]) -> None:
        sys.stdout.write(json_line(fields) + "\n")


def _place(view: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that every object has, of what is no event."""
    names = {name: view.get(name, "") for name in ("execution", "task", "experiment", "run")}
    return {**names, "source": "", "rank": None, "channel": "", "number": 0, "position": 0}


class _Lines:
    """Lines for people; coloured on a terminal."""

    def __init__(self, *, everything: bool, single: bool) -> None:
        self._everything = everything
        self._with_task = not single
        self._console = Console(highlight=False, soft_wrap=True) if sys.stdout.isatty() else None

    def view(self, view: Mapping[str, Any]) -> None:
        self._print(line_of(time.time(), _who(view), present_state(view)), "bold")

    def event(self, item: Observation) -> None:
        if self._everything or worth_a_line(item.event):
            self._print(as_line(item.header, item.view, item.event, with_task=self._with_task), style_of(item.event))

    def missed(self, item: Missed) -> None:
        text = f"{item.last - item.first + 1} events on {item.channel.text} cannot be shown: {item.reason}"
        self._print(line_of(time.time(), _who(item.view), text), "red")

    def _print(self, line: str, style: str) -> None:
        if self._console:
            self._console.print(Text(line, style))
        else:
            sys.stdout.write(line + "\n")


def _who(view: Mapping[str, Any]) -> str:
    return f"{visible(str(view.get('task') or '?'))} {str(view.get('execution'))[-SHORT_DIGITS:]}"
