"""`theorbo replay`: the events of one execution once more, from the journal."""

from __future__ import annotations

import argparse
import math
import sys

from theorbo.observer.filters import Filter
from theorbo.observer.replaying import Pace, Replay
from theorbo.observer.showing import Lines, Objects, doubt_of
from theorbo.observer.states import has_ended, state_of
from theorbo.observer.tally import Tally
from theorbo.schemas.choosing import chosen
from theorbo.schemas.errors import ExitStatus, UsageError
from theorbo.schemas.link import open_link

_EPILOG = """\
EXECUTION is an id, or so many digits from its beginning or end that no other is meant; theorbo ps --all
shows them. The order is that of the journal, over all channels. Of an execution that has not ended you get
what there is so far.

With --speed the events come as they came then: 1 is as fast as it was, 10 is ten times as fast; without it as
fast as it goes. What counts is when each event reached the journal. --max-pause shortens long silences.

The exit status is 1 if something is missing or came twice and no loss event tells it. With --verify the last
lines are the proof, a table of all streams, also of those that are not shown, and the verdict (with --json: one
last object of kind "verification").

examples:
  theorbo replay 3f2a91bc                              everything, as fast as it goes
  theorbo replay 3f2a91bc --speed 10 --max-pause 2     ten times as fast, no pause over 2 s
  theorbo replay 3f2a91bc --kind metric --json | jq .
  theorbo replay 3f2a91bc --verify > /dev/null && echo whole
"""


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    options = _parser().parse_args(argv)
    if options.max_pause is not None and options.speed is None:
        raise UsageError("--max-pause shortens the pauses that --speed makes; it needs --speed N")
    pace = None if options.speed is None else Pace(options.speed, options.max_pause)
    for doubt in filter(None, map(doubt_of, options.kind or ())):
        _say(doubt)
    show = Objects() if options.json else Lines(everything=bool(options.kind), single=True)
    link = open_link(options.broker)
    try:
        view = chosen(link, options.execution)
        wanted = Filter.of(execution=str(view["execution"]), kinds=options.kind)
        tally = Tally(wanted.followed, whole=True)
        for item in Replay(link, view, wanted, pace=pace, tally=tally):
            show.event(item)
            if pace:
                sys.stdout.flush()
    finally:
        link.close()
    if not has_ended(view):
        _say(f"the execution is {state_of(view)}; this is what there is so far")
    verification = tally.verification(complete=has_ended(view))
    if options.verify:
        show.verification(verification)
    elif verification.problems:
        _say(f"not all of it could be had: {verification.problems[0]}; --verify tells more, and theorbo journal check")
    return ExitStatus.FAILED if verification.problems else ExitStatus.COMPLETED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo replay",
        description="Show the events of an execution once more, from the broker's journal.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("execution", metavar="EXECUTION", help="id of the execution, or some of its digits")
    parser.add_argument("--speed", metavar="N", type=_positive, help="as it came then, N times as fast")
    parser.add_argument("--max-pause", metavar="S", type=_positive, help="with --speed: no pause longer than S seconds")
    parser.add_argument("--kind", metavar="K", action="append", help="only events of this kind; may be given again")
    parser.add_argument("--verify", action="store_true", help="at the end prove that nothing is missing or double")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--broker", metavar="FILE", help="connection file (default: THEORBO_BROKER, else your own)")
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _say(text: str) -> None:
    print(f"theorbo replay: {text}", file=sys.stderr, flush=True)
