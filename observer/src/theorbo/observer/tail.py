"""`theorbo tail`: what there is, then what happens, one line or one JSON object each."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from types import FrameType

from theorbo.observer.filters import Filter
from theorbo.observer.showing import Lines, Objects, doubt_of
from theorbo.observer.states import has_ended
from theorbo.observer.tally import Tally
from theorbo.observer.values import BrokerAway, BrokerBack, BrokerTrouble, Item, Missed, Observation, Policy, Snapshot
from theorbo.observer.watcher import Watcher
from theorbo.schemas.choosing import View, chosen
from theorbo.schemas.errors import ExitStatus
from theorbo.schemas.link import open_link
from theorbo.schemas.points_in_time import point_in_time
from theorbo.schemas.presentation import visible

_EPILOG = """\
The first lines are the present state: one for each execution that is open (with --json: objects of kind
"snapshot", with the fields of theorbo ps --json). Every later line is one event; each comes once, in the
order of its channel, whatever was dropped or restarted in between. What could not be had any more is told
(with --json: kind "missed"), and so is what hinders the broker, as a full disk (kind "broker_trouble", with an
empty text when it is over). Of an --execution that has ended already its state is shown, and that is all;
theorbo replay shows its events.

With --since the events of the past come first, from the broker's journal, then the present state, then what
happens. TIME is like 2026-11-22T14:30 (local, or with a zone: 2026-11-22T14:30+01:00), a duration like 30s,
10m, 2h or 3d.

With --latest nothing is read from the journal once it is live: log, metrics and output that this reader is too slow
for are left out and told, and what is shown stays close to now, by a few seconds.

With --verify everything that arrives is counted, also what is not shown. At the end (--until-ended, Ctrl-C or
SIGTERM) there is a table (with --json: one last object of kind "verification"): of each stream the first and
last number, events, gaps, and how many of these are told by a loss event, duplicates, and what the stream
itself reported. The exit status is then the verdict: 0, or 1 if something is missing or came twice and no
loss event tells it (with --latest: and it was not told as missed either).

examples:
  theorbo tail                                   everything
  theorbo tail --experiment mfx1 --run 12        one run of one experiment
  theorbo tail --kind result --json | jq .       results only, for a script
  theorbo tail --since 2h --kind task_failed     what has failed lately, and what will
  theorbo tail --execution 3f2a91bc --until-ended --verify
"""


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    options = _parser().parse_args(argv)
    since = None if options.since is None else point_in_time(options.since, time.time())
    view = _chosen(options.broker, options.execution) if options.execution is not None else None
    for doubt in filter(None, map(doubt_of, options.kind or ())):
        _say(doubt)
    execution = None if view is None else str(view["execution"])
    wanted = Filter.of(options.experiment, options.run, options.task, execution, options.kind)
    show = Objects() if options.json else Lines(everything=bool(options.kind), single=execution is not None)
    tally = Tally(wanted.followed, skips=options.latest) if options.verify else None
    over = view is not None and has_ended(view)
    policy: Policy = "latest" if options.latest else "complete"
    end = _End() if tally else None
    with Watcher(
        options.broker, wanted, until_ended=options.until_ended or over, policy=policy, since=since, tally=tally
    ) as watcher:
        while not watcher.finished and not (end and end.wanted):
            for item in watcher.collect():
                _show(item, show, live=not over)
            sys.stdout.flush()
            if not watcher.finished and not (end and end.wanted):
                watcher.wait()
    if over and execution:
        if since is not None:
            _say(f"it has ended; theorbo result {execution} shows its results")
        else:
            replay = f"theorbo replay {execution}" + (" --verify" if tally else "")
            _say(f"it has ended; {replay} shows its events, theorbo result {execution} its results")
    if tally is None:
        return ExitStatus.COMPLETED
    verification = tally.verification(complete=watcher.finished)
    show.verification(verification)
    return ExitStatus.FAILED if verification.problems else ExitStatus.COMPLETED


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
    parser.add_argument("--since", metavar="TIME", help="first what happened since then: a time, or 10m, 2h, 3d")
    parser.add_argument("--latest", action="store_true", help="leave out what comes too fast, and tell how much")
    parser.add_argument("--verify", action="store_true", help="at the end prove that nothing is missing or double")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--until-ended", action="store_true",
        help="end when the execution has ended (without --execution: all that were seen, at least one)",
    )  # fmt: skip
    parser.add_argument("--broker", metavar="FILE", help="connection file (default: THEORBO_BROKER, else your own)")
    return parser


class _End:
    """Whether somebody wants it to end. The second time it ends at once, as without --verify."""

    def __init__(self) -> None:
        self.wanted = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self.wanted = True  # the watcher waits for a second at most
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _chosen(broker: str | None, execution: str) -> View:
    link = open_link(broker)
    try:
        return chosen(link, execution)
    finally:
        link.close()


def _say(text: str) -> None:
    print(f"theorbo tail: {text}", file=sys.stderr, flush=True)


def _show(item: Item, show: Objects | Lines, *, live: bool) -> None:
    match item:
        case Snapshot(views):
            for view in views:
                show.view(view)
            sys.stdout.flush()
            if live:
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
        case BrokerTrouble(text):
            show.trouble(item)
            _say(f"the broker waits: {visible(text)}; nothing is lost" if text else "the broker goes on")
