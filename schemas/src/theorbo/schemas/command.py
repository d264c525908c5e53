"""The command `theorbo`. Each distribution adds its subcommands by an entry point of `theorbo.commands`.

A subcommand is a function of its arguments to an exit status, `main(argv: list[str]) -> int`; it raises
`TheorboError` for what its user can mend, and the sentence is printed here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from theorbo.schemas import __version__
from theorbo.schemas.errors import ExitStatus, TheorboError, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "theorbo.commands"

COMMANDS = {
    "run": ("theorbo-executor", "run a Task and follow it to its end"),
    "attach": ("theorbo-executor", "take up a Task whose Executor has died or let go"),
    "tail": ("theorbo-observer", "follow what happens, live"),
    "ps": ("theorbo-observer", "list executions and their states"),
    "result": ("theorbo-observer", "show or save the results of an execution"),
    "replay": ("theorbo-observer", "show the events of an execution once more"),
    "cancel": ("theorbo-observer", "end an execution, on all its nodes"),
    "stop": ("theorbo-observer", "hold all ranks of an execution"),
    "continue": ("theorbo-observer", "let the ranks of a stopped execution go on"),
    "stacks": ("theorbo-observer", "have all ranks write where they are"),
    "broker": ("theorbo-broker", "run the broker in the middle"),
    "journal": ("theorbo-broker", "check, export, compact or recover a broker's journal"),
    "launch": ("theorbo-task-runtime", "start agents and ranks on this node (called by run)"),
    "node": ("theorbo-task-runtime", "keep the agent of another machine (called by launch)"),
    "agent": ("theorbo-task-runtime[agent]", "deliver a node's spool to the broker (called by launch)"),
    "emit": ("theorbo-task-runtime", "report from a shell script"),
    "doctor": ("theorbo-schemas[link]", "find out why this host does not reach the broker, or cannot run Tasks"),
    "schema": ("theorbo-schemas[models]", "print the JSON Schema of the lines that --json shows"),
}
"""What there is, in which distribution, and what for; shown also for what is not installed here."""


def main(argv: list[str] | None = None) -> int:
    """Find the subcommand and run it."""
    from importlib.metadata import entry_points  # 20 ms, which `python -m` of a subcommand need not pay

    arguments = sys.argv[1:] if argv is None else argv
    installed = {entry.name: entry for entry in entry_points().select(group=GROUP)}
    name = arguments[0] if arguments and arguments[0] in installed else ""
    return guarded(name, lambda: _dispatched(arguments, installed))


def _dispatched(arguments: list[str], installed: Mapping[str, EntryPoint]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help(set(installed)))
        return ExitStatus.COMPLETED if arguments else ExitStatus.USAGE
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(f"theorbo {__version__}")
        return ExitStatus.COMPLETED
    if name not in installed:
        raise UsageError(_unknown(name, set(installed)))
    return int(_loaded(name, installed[name])(rest))


def guarded(name: str, command: Callable[[], int]) -> int:
    """The exit status of a subcommand; the sentence of a TheorboError is printed. For `python -m` too.

    What stdout's encoding cannot show is escaped. All output has been written when this returns: trouble with
    it is told here, for at its own end Python would only complain.
    """
    _open_standard_files()
    with contextlib.suppress(AttributeError):  # a stdout that somebody has replaced
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # stderr has this from Python
    try:
        status = _status_of(name, command)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output has gone: `theorbo tail | head`
        _discard_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _discard_output()
        _say(name, f"cannot write the output: {error.strerror}")
        return ExitStatus.UNAVAILABLE


def _open_standard_files() -> None:
    """What we were started without (`>&-`) is /dev/null: else the next file that is opened would be our stdout."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _status_of(name: str, command: Callable[[], int]) -> int:
    try:
        return command()
    except TheorboError as error:
        _say(name, str(error))
        return error.exit_status
    except SystemExit as end:  # argparse, after --help and after wrong usage
        if not isinstance(end.code, int):
            raise
        return end.code
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has written ^C, and the prompt wants a line of its own
        return 128 + signal.SIGINT


def _say(name: str, text: str) -> None:
    print(f"theorbo {name}".rstrip() + f": {text}", file=sys.stderr)


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _loaded(name: str, entry: EntryPoint) -> Callable[[list[str]], int]:
    try:
        command: Callable[[list[str]], int] = entry.load()
    except ModuleNotFoundError as error:
        distribution = COMMANDS[name][0] if name in COMMANDS else "the distribution that it comes with"
        raise UsageError(
            f"{error.name} is not installed here, which this command needs; "
            f"install {distribution} with all it depends on"
        ) from None
    return command


def _help(installed: set[str]) -> str:
    lines = [
        "usage: theorbo COMMAND [OPTIONS]      (theorbo COMMAND --help tells more)",
        "",
        "A message bus for analysis at scientific facilities.",
        "",
    ]
    for name, (distribution, what) in COMMANDS.items():
        lines.append(f"  {name:<8} {what}" + ("" if name in installed else f"  [pip install {distribution}]"))
    lines += [f"  {name}" for name in sorted(installed - COMMANDS.keys())]
    lines += [
        "",
        "Exit status: 0 completed, 1 failed, 2 wrong usage, 3 cancelled, 4 timed out, 5 lost,",
        "6 broker unreachable or something on this machine is missing, 7 not everybody has answered a request in",
        "time, 8 theorbo doctor has found trouble.",
    ]
    return "\n".join(lines)


def _unknown(name: str, installed: set[str]) -> str:
    if name in COMMANDS:
        return f"the command {name!r} is not installed here; it comes with {COMMANDS[name][0]}"
    import difflib

    near = difflib.get_close_matches(name, installed | COMMANDS.keys(), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "theorbo --help lists all"
    return f"there is no command {name!r}; {hint}"


if __name__ == "__main__":
    sys.exit(main())
