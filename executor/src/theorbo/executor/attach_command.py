"""`theorbo attach`: take up an execution whose Executor has died, let go, or is to let go."""

from __future__ import annotations

import argparse

from theorbo.executor.display import choose_display
from theorbo.executor.executor import Executor
from theorbo.executor.showing import shown
from theorbo.executor.tasks_file import find_executor
from theorbo.schemas.errors import UsageError

_EPILOG = """\
examples:
  theorbo attach 0199c2f4
  theorbo attach 0199c2f4 peaks --tasks tasks.py      with the hooks of that Executor
  theorbo attach 0199c2f4 --take-over                 from an Executor that still lives

What the former Executor had not confirmed is shown again, marked (redelivered). Ctrl-C, signals, time limit and
exit status are those of theorbo run. An execution that has ended is shown likewise, with its outcome.
"""


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    options = _parser().parse_intermixed_args(argv)  # NAME may come behind --tasks FILE
    if (options.name is None) != (options.tasks is None):
        raise UsageError("NAME and --tasks belong together: the Executor whose hooks are to be called, and its file")
    executor = find_executor(options.tasks, options.name) if options.tasks else Executor("")
    executor.broker = options.broker or executor.broker
    executor.spool_root = options.spool_root or executor.spool_root
    display = choose_display("attach", as_json=options.json, broker=options.broker)
    return shown(
        executor, display, lambda: executor.attach_task(options.execution, take_over=options.take_over),
        "the execution was taken up; the Task goes on",
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo attach",
        usage="theorbo attach [OPTIONS] EXECUTION [NAME --tasks FILE]",
        description="Supervise an execution that another Executor has begun, and exit with its outcome.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("execution", metavar="EXECUTION", help="its id, or enough digits from its beginning or end")
    add("name", nargs="?", metavar="NAME", help="an Executor in --tasks, whose hooks are called")
    add("--tasks", metavar="FILE_OR_MODULE", help="Python that holds Executor objects")
    add("--take-over", action="store_true", help="also from an Executor that is alive: it lets go")
    add("--broker", metavar="FILE", help="connection file (default: THEORBO_BROKER, else your own broker)")
    add("--spool-root", metavar="DIR", help="where the former Executor had its spool, if it said so")
    add("--json", action="store_true", help="one JSON object a line: events as in tail --json, then the outcome")
    return parser
