"""`theorbo cancel`, `stop`, `continue` and `stacks`: ask, and show who has done it."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time

from theorbo.observer.receipts import ENDING
from theorbo.observer.requesting import Action, Request, RequestOutcome
from theorbo.observer.showing import Objects
from theorbo.observer.values import Observation
from theorbo.schemas import events
from theorbo.schemas.choosing import View, chosen, list_views
from theorbo.schemas.errors import ExitStatus, TheorboError, Unanswered
from theorbo.schemas.limits import GRACE_S, REFUSAL_CHARACTERS
from theorbo.schemas.link import Link, open_link
from theorbo.schemas.presentation import json_line, line_of, origin, sentence, visible

_WHAT = {
    "cancel": "End all ranks of an execution: SIGTERM, and SIGKILL after the grace. A job that waits leaves the queue.",
    "stop": "Hold all ranks of an execution (SIGSTOP), on all nodes; theorbo continue lets them go on.",
    "continue": "Let the ranks of a stopped execution go on (SIGCONT), on all nodes.",
    "stacks": "Have all ranks of an execution write where they are: the stacks of all threads, on their stderr.",
}

_MORE = {
    "cancel": f"""\
Without --grace the ranks have as long between SIGTERM and SIGKILL as they were submitted with, else {GRACE_S:g} s. A
Task that says cooperative = True sees it by self.cancelled(). The command ends when the execution has ended, and
says how: a Task that was done before it heard of it is COMPLETED.""",
    "stop": """\
The state is STOPPED when all ranks of all nodes are held. They keep their memory and their nodes, and the clock of
a time limit goes on.""",
    "continue": """\
The state is RUNNING again when all ranks go on.""",
    "stacks": """\
Python ranks of a Task write the stacks of all their threads, whatever they are doing; the lines follow the
receipts, and are in the journal as lines of stderr. Of programs that do not know the signal the receipt tells
state and place in the kernel. Nothing is ended or held.""",
}

_EPILOG = """\
EXECUTION is an id, or so many digits from its beginning or end that no other is meant; theorbo ps shows them.
{more}

Each line is a receipt: an agent (one a node; the Executor, where the job still waits) has accepted the request, and
until when it will be done; has carried it out; or refuses, and why. The request is in the journal: --reason and
who asked are part of the record. Ctrl-C ends the waiting, not the request.
With --json: the events as of theorbo tail --json, and a last object of kind "request_outcome".

Exit status: 0 done, 1 refused by somebody, 2 no such execution, or it has ended, 6 the broker cannot be
reached, 7 not everybody has answered by the deadline (the request stands).

examples:
  theorbo {action} 3f2a91bc
  theorbo {action} 3f2a91bc --reason "{reason}"
  theorbo {action} 3f2a91bc --json | jq -r 'select(.kind == "control_done") | .source'
"""

_REASONS = {
    "cancel": "wrong calibration",
    "stop": "the file server is being moved",
    "continue": "the file server is back",
    "stacks": "no progress since noon",
}


def cancel(argv: list[str]) -> int:
    """Run `theorbo cancel`. Raises TheorboError for what its user can mend, as the others here do."""
    return _main("cancel", argv)


def stop(argv: list[str]) -> int:
    """Run `theorbo stop`."""
    return _main("stop", argv)


def resume(argv: list[str]) -> int:
    """Run `theorbo continue`."""
    return _main("continue", argv)


def stacks(argv: list[str]) -> int:
    """Run `theorbo stacks`."""
    return _main("stacks", argv)


def _main(command: Action, argv: list[str]) -> int:
    options = _parser(command).parse_args(argv)
    action: Action = "kill" if command == "cancel" and options.kill else command
    grace_s = getattr(options, "grace", None)
    link = open_link(options.broker)
    try:
        view = chosen(link, options.execution)
        asked = Request(link, view, action, reason=options.reason, grace_s=grace_s)
        show = _Objects(view) if options.json else _Lines(asked)
        if options.no_wait:
            if options.json:
                show.outcome(asked.outcome())
            _say(
                command,
                f"requested of execution {view['execution']}; theorbo ps and theorbo tail show what comes of it",
            )
            return ExitStatus.COMPLETED
        try:
            for item in asked.followed():
                show.event(item)
                sys.stdout.flush()
        except KeyboardInterrupt:
            _say(
                command,
                f"not waiting any more; the request stands, theorbo tail --execution {view['execution']} shows on",
            )
            return 128 + signal.SIGINT
        outcome = asked.outcome()
        show.outcome(outcome)
        sys.stdout.flush()
        if trouble := _trouble(link, outcome):
            raise trouble
        return ExitStatus.FAILED if outcome.refusals else ExitStatus.COMPLETED
    finally:
        link.close()


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"theorbo {command}",
        description=_WHAT[command],
        epilog=_EPILOG.format(more=_MORE[command], action=command, reason=_REASONS[command]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("execution", metavar="EXECUTION", help="id of the execution, or some of its digits")
    parser.add_argument(
        "--reason", metavar="TEXT", type=_reason, default="", help="why; everybody sees it, and the journal keeps it"
    )
    if command == "cancel":
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--grace", metavar="S", type=_seconds, help="seconds between SIGTERM and SIGKILL")
        how.add_argument("--kill", action="store_true", help="SIGKILL at once")
    parser.add_argument("--no-wait", action="store_true", help="end as soon as the request is in the journal")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--broker", metavar="FILE", help="connection file (default: THEORBO_BROKER, else your own)")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value >= 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def _reason(text: str) -> str:
    if len(text) > REFUSAL_CHARACTERS:
        raise argparse.ArgumentTypeError(
            f"{len(text)} characters are too many; {REFUSAL_CHARACTERS} are enough for a reason"
        )
    return text


class _Objects:
    """One JSON object a line."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._objects = Objects()

    def event(self, item: Observation) -> None:
        self._objects.event(item)

    def outcome(self, outcome: RequestOutcome) -> None:
        names = {name: self._view.get(name, "") for name in ("execution", "task", "experiment", "run")}
        said = outcome._asdict()
        for name in ("answers", "missing"):
            said[name] = [answer._asdict() for answer in said[name]]
        print(json_line({**names, "kind": "request_outcome", "time": time.time(), **said}))


class _Lines:
    """Lines for people."""

    def __init__(self, asked: Request) -> None:
        self._asked = asked
        self._rank = ""

    def event(self, item: Observation) -> None:
        source = origin(item.header, item.view)
        if isinstance(item.event, events.Output):  # a line of a stack
            if source != self._rank:
                print(f"{source}:")
            self._rank = source
            print(f"    {visible(item.event.text)}")
            return
        self._rank = ""
        host = self._asked.host(item.header)
        print(
            line_of(
                item.event.time, f"{source} on {visible(host)}" if host else source, sentence(item.header, item.event)
            )
        )

    def outcome(self, outcome: RequestOutcome) -> None:
        """In one sentence, if there is something that the lines before do not say."""
        for answer in outcome.refusals:
            print(f"{outcome.action} refused by {_named(answer.source, answer.host)}: {visible(answer.refused)}")
        if outcome.complete and not outcome.refusals:
            done = len([answer for answer in outcome.answers if answer.done])
            by = f"carried out by {done} agent{'s' * (done != 1)}, " if done else ""
            reason = f": {visible(outcome.reason)}" if outcome.reason else ""
            print(f"{outcome.action}: {by}execution {outcome.execution} is {outcome.state}{reason}")


def _trouble(link: Link, outcome: RequestOutcome) -> TheorboError | None:
    """Why the wait has ended too early, if it has."""
    if outcome.complete:
        return None
    if not outcome.missing and outcome.answers and outcome.action in ENDING:
        return Unanswered(
            f"all have carried it out, but the execution has not ended: it is {outcome.state}, and waits for what is "
            f"still to be delivered; theorbo ps {outcome.execution} tells more"
        )
    if not outcome.missing:
        return Unanswered(
            f"nothing of the execution runs that could answer, it is {outcome.state}; the request stands, and whoever "
            "starts is told"
        )
    contact = _contact(link, outcome.execution)
    names = [
        _named(answer.source, answer.host)
        + (f" ({contact[answer.source]})" if contact.get(answer.source, "alive") != "alive" else "")
        + (" has accepted it, but not said that it is done" if answer.accepted else "")
        for answer in outcome.missing[:_NAMED]
    ]
    more = f", and {len(outcome.missing) - _NAMED} more" if len(outcome.missing) > _NAMED else ""
    return Unanswered(
        f"no answer by the deadline from {', '.join(names)}{more}; the request stands: who is away is told when it is "
        f"back. theorbo tail --execution {outcome.execution} shows what comes"
    )


_NAMED = 8


def _named(source: str, host: str) -> str:
    name = source.replace(":", " ")
    return f"{name} on {visible(host)}" if host else name


def _contact(link: Link, execution: str) -> dict[str, str]:
    """What the broker knows of the peers; nothing, if it is the broker that does not answer."""
    try:
        views = list_views(link, bytes.fromhex(execution), all=True, limit=1)
    except TheorboError:
        return {"": "silent"}
    found = views[0].get("contact") if views else None
    return {str(peer): str(value) for peer, value in found.items()} if isinstance(found, dict) else {}


def _say(command: str, text: str) -> None:
    print(f"theorbo {command}: {text}", file=sys.stderr, flush=True)
