"""`theorbo emit`: shell scripts, and programs in any language, report."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

from theorbo.schemas.errors import ExitStatus, UsageError
from theorbo.schemas.limits import ATTACHMENT_BYTES
from theorbo.task_runtime import report

_EXAMPLE = """\
in a shell script that is run by `theorbo run -- ./reduce.sh`:

  theorbo emit log "dark frames subtracted"
  for n in 1 2 3; do
      theorbo emit cancelled && exit 3
      reduce "shot$n.h5" || { theorbo emit log "shot $n is bad" --level WARNING; continue; }
      theorbo emit progress $n --total 3 --unit shots
  done
  theorbo emit metric "hit rate" 0.31
  theorbo emit data spectrum spectrum.npy
  theorbo emit data image frame.raw --dtype float32 --shape 512,512
  theorbo emit result --summary "3 shots" --file reduced.h5 --json '{"shots": 3}'

in a program that keeps a pipe open, one JSON object a line:

  theorbo emit --json -
  {"kind": "progress", "done": 3, "total": 10, "unit": "cycles"}

Without a bus the same is printed on stderr. Exit status: 0; 1 if a result could not be reported, or a line not be used,
or nobody has cancelled; 2 wrong usage. docs/emit.md has C, Fortran, Julia, R, MATLAB and Perl.
"""


def main(argv: list[str]) -> int:
    """Report one thing, or many; the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.lines is not None and arguments.report is not None:
        parser.error("either one thing to report, or --json FILE")
    if arguments.lines is not None:
        return _lines(arguments.lines)
    if arguments.report is None:
        parser.error("what is to be reported? One of log, progress, metric, data, result, or --json FILE")
    good = arguments.report(arguments) is not False
    return ExitStatus.COMPLETED if good and not report.unsent() else ExitStatus.FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="theorbo emit",
        description="Report from a shell script or any other program: log, progress, a number, data, a result.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", dest="lines", metavar="FILE", help="report the JSON objects in it, one a line; - is stdin"
    )
    parser.set_defaults(report=None)
    kinds = parser.add_subparsers(metavar="log|progress|metric|data|result|cancelled")

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

    data = kinds.add_parser("data", help="something worth showing while the program runs: an array, a figure")
    data.add_argument("name")
    data.add_argument("file", help="its content is sent; what it is follows from its name (.npy, .png ...); - is stdin")
    _add_array(data)
    data.set_defaults(report=lambda given: report.data(given.name, _content(dict(vars(given)))))

    result = kinds.add_parser("result", help="what has been found out")
    result.add_argument("--summary", default="", help="in a sentence")
    result.add_argument("--name", default="result", help="of this result, where there are several")
    result.add_argument(
        "--file", type=Path, action="append", default=[], metavar="PATH", help="a file, by reference; may be repeated"
    )
    result.add_argument("--data", metavar="FILE", help="a file whose content is sent, as by emit data")
    result.add_argument("--json", metavar="JSON", help="values, as a JSON text")
    _add_array(result)
    result.set_defaults(report=_result)

    cancelled = kinds.add_parser("cancelled", help="exit status 0 if an end was asked for, else 1; reports nothing")
    cancelled.set_defaults(report=lambda _: report_cancelled())
    return parser


def _add_array(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", metavar="TYPE", help="the file has bare numbers of this type: float32, int16 ...")
    parser.add_argument("--shape", type=_shape, metavar="N,N", help="of these numbers; one row if not given")
    parser.add_argument("--order", choices=("C", "F"), default="C", help="F: laid out as in Fortran, R, MATLAB, Julia")


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(map(int, text.split(",")))
    if min(shape) < 0:
        raise ValueError(text)
    return shape


def report_cancelled() -> bool:
    """Whether somebody has asked for an end."""
    from theorbo.task_runtime.cancellation import cancelled

    return cancelled()


def _lines(name: str) -> int:
    from theorbo.task_runtime.emit_lines import read_lines

    with _opened(name) as lines:
        good = read_lines(lines, _value_of_line)
    return ExitStatus.COMPLETED if good and not report.unsent() else ExitStatus.FAILED


def _value_of_line(fields: dict[str, Any]) -> Any:
    if fields.get("file") == "-":
        raise UsageError("'file' is '-', and stdin is where the lines come from; name a file")
    return fields["value"] if "value" in fields else _content(fields)


def _opened(name: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if name == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except (OSError, ValueError) as error:  # ValueError: no name of a file can have that in it
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read {name} (looked from {Path.cwd()}): {why}") from None


def _content(given: dict[str, Any]) -> Any:
    """What the file that is named holds, as a value that can be sent; None if none is named."""
    from theorbo.task_runtime import raw_array
    from theorbo.task_runtime.payload import ARRAY, BYTES, JSON, Content

    name, dtype, shape = given.get("file"), given.get("dtype"), given.get("shape")
    if name is None:
        return None
    if shape is not None and dtype is None:
        raise UsageError(f"a shape of {name} is given, and no type of its numbers: say --dtype {raw_array.TYPES}")
    with _opened(str(name)) as file:
        try:
            content = file.read(ATTACHMENT_BYTES + 1)
        except OSError as error:
            raise UsageError(f"cannot read {name}: {error.strerror}") from None
    if len(content) > ATTACHMENT_BYTES:
        raise UsageError(f"{name} has more than {ATTACHMENT_BYTES} bytes; report it by reference: emit result --file")
    if dtype is not None:
        return Content(ARRAY, raw_array.npy(content, str(dtype), shape, column_major=given.get("order") == "F"))
    if str(name).endswith(".npy"):
        raw_array.check_npy(content, str(name))
        return Content(ARRAY, content)
    import mimetypes

    mime = mimetypes.guess_type(str(name))[0] or BYTES
    return _json_value(content, str(name)) if mime == JSON else Content(mime, content)


def _json_value(text: str | bytes, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{what} is no JSON: {error}") from None


def _result(given: argparse.Namespace) -> None:
    value = _value(given.json, given.file, _content({**vars(given), "file": given.data}))
    if value is None and not given.summary:
        raise UsageError("nothing to report; give --summary, --file, --data or --json")
    report.result(value, summary=given.summary, name=given.name)


def _value(text: str | None, files: list[Path], content: Any) -> Any:
    for path in files:
        if not path.exists():
            raise UsageError(f"there is no file {path} (looked from {Path.cwd()})")
    value = None if text is None else _json_value(text, f"--json {text!r:.80}")
    items: dict[str, Any] = {str(path): path for path in files}
    if content is not None:
        items["data"] = content
    if not items:
        return value
    if value is None and len(items) == 1:
        return next(iter(items.values()))
    named = value if isinstance(value, dict) else {} if value is None else {"value": value}
    return {**named, **items}


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as error:
        print(f"theorbo emit: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
