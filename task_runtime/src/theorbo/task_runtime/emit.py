"""`theorbo emit`: a shell script reports."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from theorbo.schemas.errors import ExitStatus, UsageError
from theorbo.task_runtime import report

_EXAMPLE = """\
in a shell script that is run by `theorbo run -- ./reduce.sh`:

  theorbo emit log "dark frames subtracted"
  for n in 1 2 3; do
      reduce "shot$n.h5" || { theorbo emit log "shot $n is bad" --level WARNING; continue; }
      theorbo emit progress $n --total 3 --unit shots
  done
  theorbo emit metric "hit rate" 0.31
  theorbo emit result --summary "3 shots" --file reduced.h5 --json '{"shots": 3}'

Without a bus the same is printed on stderr. Exit status: 0; 1 if a result could not be reported; 2 wrong usage.
"""


def main(argv: list[str]) -> int:
    """Report one thing; the exit status."""
    arguments = _parser().parse_args(argv)
    arguments.report(arguments)
    return ExitStatus.FAILED if report.unsent() else ExitStatus.COMPLETED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo emit",
        description="Report from a shell script: a line of log, progress, a number, or a result.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(metavar="log|progress|metric|result", required=True)

    log = kinds.add_parser("log", help="a line for people")
    log.add_argument("text")
    levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    log.add_argument("--level", type=str.upper, choices=levels, default="INFO", metavar="LEVEL", help=", ".join(levels))
    log.set_defaults(report=lambda given: report.log(given.text, given.level))

    progress = kinds.add_parser("progress", help="how far this rank is")
    progress.add_argument("done", type=float, help="a number: how much is done")
    progress.add_argument("--total", type=float, metavar="N", help="how much there is to do")
    progress.add_argument("--unit", default="", help="of what: files, shots, tiles ...")
    progress.add_argument("--text", default="", help="what is being done")
    progress.set_defaults(report=lambda given: report.progress(given.done, given.total, given.unit, given.text))

    metric = kinds.add_parser("metric", help="a number worth watching")
    metric.add_argument("name")
    metric.add_argument("value", type=float)
    metric.add_argument("--unit", default="")
    metric.add_argument("--step", type=int, metavar="N", help="which of several values of this name it is")
    metric.set_defaults(report=lambda given: report.metric(given.name, given.value, given.unit, given.step))

    result = kinds.add_parser("result", help="what has been found out")
    result.add_argument("--summary", default="", help="in a sentence")
    result.add_argument("--name", default="result", help="of this result, where there are several")
    result.add_argument(
        "--file", type=Path, action="append", default=[], metavar="PATH", help="a file, by reference; may be repeated"
    )
    result.add_argument("--json", metavar="JSON", help="values, as a JSON text")
    result.set_defaults(report=_result)
    return parser


def _result(given: argparse.Namespace) -> None:
    value = _value(given.json, given.file)
    if value is None and not given.summary:
        raise UsageError("nothing to report; give --summary, --file or --json")
    report.result(value, summary=given.summary, name=given.name)


def _value(text: str | None, files: list[Path]) -> Any:
    for path in files:
        if not path.exists():
            raise UsageError(f"there is no file {path} (looked from {Path.cwd()})")
    try:
        value = None if text is None else json.loads(text)
    except ValueError as error:
        raise UsageError(f"--json {text!r:.80} is no JSON: {error}") from None
    if not files:
        return value
    if value is None and len(files) == 1:
        return files[0]
    items = value if isinstance(value, dict) else {} if value is None else {"value": value}
    return {**items, **{str(path): path for path in files}}


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as error:
        print(f"theorbo emit: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
