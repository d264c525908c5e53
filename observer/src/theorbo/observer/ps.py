"""`theorbo ps`: the executions and their states."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from theorbo.observer.choose import SHORT_DIGITS, View, list_views
from theorbo.observer.states import contact_of, duration_s, hosts_of, ranks_of, span, state_of
from theorbo.schemas.errors import ExitStatus
from theorbo.schemas.limits import LISTING_ROWS
from theorbo.schemas.link import open_link
from theorbo.schemas.presentation import json_line, visible

_EPILOG = """\
EXECUTION is the end of the id, enough for theorbo tail --execution and theorbo result. RANKS are
ended/started/all. With --json: one object a line, with the fields of a view in docs/protocol.md, the full
id, and duration_s.

examples:
  theorbo ps                       what is going on
  theorbo ps --all --experiment mfx1
  theorbo ps --all --json | jq -r 'select(.state == "FAILED") | .reason'
"""

_COLUMNS: tuple[tuple[str, Callable[[View, float], str]], ...] = (
    ("EXECUTION", lambda view, _: str(view.get("execution"))[-SHORT_DIGITS:]),
    ("TASK", lambda view, _: str(view.get("task") or "")),
    ("EXPERIMENT", lambda view, _: str(view.get("experiment") or "")),
    ("RUN", lambda view, _: str(view.get("run") or "")),
    ("STATE", lambda view, _: state_of(view)),
    ("RANKS", lambda view, _: ranks_of(view)),
    ("CONTACT", lambda view, _: contact_of(view)),
    ("HOSTS", lambda view, _: hosts_of(view)),
    ("AGE", lambda view, now: span(None if view.get("submitted") is None else max(0.0, now - view["submitted"]))),
    ("DURATION", lambda view, now: span(duration_s(view, now))),
    ("REASON", lambda view, _: str(view.get("reason") or "")),
)

_STYLES = {"RUNNING": "green", "COMPLETED": "", "PENDING": "yellow", "STOPPED": "yellow"}


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    options = _parser().parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # what LANG=C cannot show
    wish = {name: getattr(options, name) for name in ("experiment", "run", "task")}
    link = open_link(options.broker, "observer")
    try:
        views = list_views(
            link, all=options.all, limit=LISTING_ROWS, **{name: value for name, value in wish.items() if value}
        )
    finally:
        link.close()
    now = time.time()
    if options.json:
        for view in views:
            print(json_line({**view, "duration_s": duration_s(view, now)}))
    elif sys.stdout.isatty():
        Console().print(_table(views, now))
    else:
        print("\n".join(_aligned(views, now)))
    if len(views) >= LISTING_ROWS:
        print(f"theorbo ps: these are the newest {LISTING_ROWS}; there may be more", file=sys.stderr)
    if not views and not options.all and not options.json:
        print("theorbo ps: nothing is running now; --all lists what has ended, too", file=sys.stderr)
    return ExitStatus.COMPLETED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo ps",
        description="List executions and their states, the newest first.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--all", action="store_true", help="also those that have ended")
    parser.add_argument("--experiment", metavar="E", help="only of this experiment")
    parser.add_argument("--run", metavar="R", help="only of this data-acquisition run")
    parser.add_argument("--task", metavar="T", help="only of this Task")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--broker", metavar="FILE", help="connection file (default: THEORBO_BROKER, else your own)")
    return parser


def _rows(views: list[View], now: float) -> list[list[str]]:
    return [[visible(cell(view, now)).replace("\t", " ") for _, cell in _COLUMNS] for view in views]


def _table(views: list[View], now: float) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, _ in _COLUMNS:
        table.add_column(name, overflow="fold", no_wrap=name == "EXECUTION")
    for view, row in zip(views, _rows(views, now), strict=True):
        style = _STYLES.get(str(view.get("state")), "red")
        table.add_row(
            *(Text(cell, style if name == "STATE" else "") for (name, _), cell in zip(_COLUMNS, row, strict=True))
        )
    return table


def _aligned(views: list[View], now: float) -> list[str]:
    rows = [[name for name, _ in _COLUMNS], *([cell or "-" for cell in row] for row in _rows(views, now))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
