"""`theorbo ps`: the executions and their states."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from theorbo.observer.details import details
from theorbo.observer.states import contact_of, duration_s, hosts_of, job_of, note_of, ranks_of, span, state_of
from theorbo.schemas.choosing import SHORT_DIGITS, View, chosen, list_views
from theorbo.schemas.errors import ExitStatus
from theorbo.schemas.limits import LISTING_ROWS
from theorbo.schemas.link import open_link
from theorbo.schemas.presentation import json_line, visible

_EPILOG = """\
EXECUTION is the end of the id, enough for theorbo tail --execution and theorbo result. RANKS are
ended/started/all. JOB is the batch scheduler's word. CONTACT names who was not heard lately, and since when; REASON
also ranks of which nothing has come for long (they may compute). A narrow terminal shows fewer columns, and the
beginning of long ones; a pipe gets all of it. With --json: one object a line, with the fields of a view in
docs/protocol.md, the full id, and duration_s.

examples:
  theorbo ps                       what is going on
  theorbo ps 3f2a91bc              one execution, with all its nodes
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
    ("JOB", lambda view, _: job_of(view)),
    ("CONTACT", lambda view, _: contact_of(view)),
    ("HOSTS", lambda view, _: hosts_of(view)),
    ("AGE", lambda view, now: span(None if view.get("submitted") is None else max(0.0, now - view["submitted"]))),
    ("DURATION", lambda view, now: span(duration_s(view, now))),
    ("REASON", lambda view, _: note_of(view)),
)

_LEAST_USEFUL_FIRST = ("HOSTS", "JOB", "CONTACT", "AGE", "DURATION", "RUN", "EXPERIMENT", "REASON", "TASK")
"""Columns that a terminal which is too narrow goes without."""

_CUT = {"TASK": 12, "REASON": 20}
"""Columns that are cut to the width of the terminal, and what is left of them at least."""

_GAP = 2  # between columns

_STYLES = {"RUNNING": "green", "COMPLETED": "", "PENDING": "yellow", "STOPPED": "yellow"}


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    options = _parser().parse_args(argv)
    wish = {name: getattr(options, name) for name in ("experiment", "run", "task")}
    link = open_link(options.broker)
    try:
        if options.execution:
            views = [chosen(link, options.execution)]
        else:
            named = {name: value for name, value in wish.items() if value}
            views = list_views(link, all=options.all, limit=LISTING_ROWS, **named)
        problem = link.problem
    finally:
        link.close()
    now = time.time()
    if options.json:
        for view in views:
            print(json_line({**view, "duration_s": duration_s(view, now)}))
    elif options.execution:
        print("\n".join(details(views[0], now)))
    elif sys.stdout.isatty():
        console = Console()
        table, least = _table(views, now, console.width)
        console.width = max(console.width, least)
        console.print(table)
    else:
        print("\n".join(_aligned(views, now)))
    if problem:
        print(f"theorbo ps: the broker waits: {visible(problem)}; nothing is lost", file=sys.stderr)
    if len(views) >= LISTING_ROWS:
        print(f"theorbo ps: these are the newest {LISTING_ROWS}; there may be more", file=sys.stderr)
    if not views and not options.all and not options.json:
        of_it = " of what was asked for" if options.experiment or options.run or options.task else ""
        print(f"theorbo ps: nothing{of_it} is running now; --all lists what has ended, too", file=sys.stderr)
    return ExitStatus.COMPLETED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo ps",
        description="List executions and their states, the newest first.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "execution", metavar="EXECUTION", nargs="?", help="only this one, in detail: some of its digits"
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


def _table(views: list[View], now: float, width: int) -> tuple[Table, int]:
    """The table for a terminal of this width, and the width that it has at least."""
    names = [name for name, _ in _COLUMNS]
    rows = [dict(zip(names, row, strict=True)) for row in _rows(views, now)]
    wanted = {name: max(map(cell_len, [name, *(row[name] for row in rows)])) for name in names}
    empty_first = sorted(_LEAST_USEFUL_FIRST, key=lambda name: any(row[name] for row in rows))
    widths = fitted(wanted, width, empty_first)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for name, room in widths.items():
        table.add_column(name, overflow="ellipsis", no_wrap=True, width=room)
    for view, row in zip(views, rows, strict=True):
        style = _STYLES.get(str(view.get("state")), "red")
        table.add_row(*(Text(row[name], style if name == "STATE" else "") for name in widths))
    return table, _whole(widths)


def fitted(wanted: dict[str, int], width: int, dispensable: Sequence[str]) -> dict[str, int]:
    """The columns that a terminal of this width has room for, and how wide each is.

    `wanted` has the width of each column's longest cell. No column is cut but those of `_CUT`; the first ones
    of `dispensable` are left out first.
    """
    least = {name: min(room, _CUT.get(name, room)) for name, room in wanted.items()}
    for name in dispensable:
        if _whole(least) <= width:
            break
        least.pop(name, None)
    for name, share in (("TASK", 2), ("REASON", 1), ("TASK", 1)):
        if name in least:
            least[name] = min(wanted[name], least[name] + max(0, width - _whole(least)) // share)
    return least


def _whole(widths: dict[str, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _aligned(views: list[View], now: float) -> list[str]:
    rows = [[name for name, _ in _COLUMNS], *([cell or "-" for cell in row] for row in _rows(views, now))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
