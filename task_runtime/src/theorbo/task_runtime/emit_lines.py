"""`theorbo emit --json -`: reports as JSON objects, one a line, for programs that keep a pipe open.

A line that cannot be used is told as a warning, on the bus too, and those behind it count: a pipe that has broken once
would silence the rest of the program.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from theorbo.schemas.errors import UsageError
from theorbo.schemas.limits import ATTACHMENT_BYTES
from theorbo.task_runtime import report


def read_lines(lines: BinaryIO, value_of: Callable[[dict[str, Any]], Any]) -> bool:
    """Report until the input ends; whether all lines could be used. `value_of` makes what `data` and `result` send.

    SIGTERM and SIGINT go to us as well when the program is cancelled: its last words are still to come, so we stay.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    good, number = True, 0
    while True:
        line = lines.readline(ATTACHMENT_BYTES + 1)
        if not line:
            return good
        number += 1
        if len(line) > ATTACHMENT_BYTES:
            while line and not line.endswith(b"\n"):
                line = lines.readline(ATTACHMENT_BYTES + 1)
            problem: str | None = f"it is longer than {ATTACHMENT_BYTES} bytes"
        else:
            problem = _problem(line, value_of) if line.strip() else None
        if problem:
            good = False
            report.log(f"line {number} of theorbo emit --json is not reported: {problem}", "WARNING")


def _problem(line: bytes, value_of: Callable[[dict[str, Any]], Any]) -> str | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return f"no JSON: {line[:80]!r}"
    if not isinstance(fields, dict) or str(fields.get("kind")) not in _ALLOWED:
        return f"an object with a kind of {', '.join(_ALLOWED)} is wanted, not {line[:80]!r}"
    kind = fields.pop("kind")
    wanted, allowed = _ALLOWED[kind]
    unknown, missing = fields.keys() - allowed, wanted - fields.keys()
    if unknown or missing:
        wrong = [f"{name!r} is missing" for name in sorted(missing)] + [
            f"{name!r} is unknown" for name in sorted(unknown)
        ]
        return f"{', '.join(wrong)}; {kind} has {', '.join(sorted(allowed))}"
    try:
        _report(kind, fields, value_of)
    except UsageError as error:
        return str(error)
    return None


_CONTENT = frozenset({"value", "file", "dtype", "shape", "order"})
_ALLOWED: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "log": (frozenset({"text"}), frozenset({"text", "level"})),
    "progress": (frozenset({"done"}), frozenset({"done", "total", "unit", "text"})),
    "metric": (frozenset({"name", "value"}), frozenset({"name", "value", "unit", "step"})),
    "data": (frozenset({"name"}), frozenset({"name"}) | _CONTENT),
    "result": (frozenset(), frozenset({"name", "summary", "path"}) | _CONTENT),
}
"""By kind: the fields that it must have, and those that it may have."""


def _report(kind: str, fields: dict[str, Any], value_of: Callable[[dict[str, Any]], Any]) -> None:
    if kind == "log":
        report.log(fields["text"], fields.get("level", "INFO"))
    elif kind == "progress":
        report.progress(fields["done"], fields.get("total"), fields.get("unit", ""), fields.get("text", ""))
    elif kind == "metric":
        report.metric(fields["name"], fields["value"], fields.get("unit", ""), fields.get("step"))
    elif kind == "data":
        report.data(fields["name"], value_of(fields))
    else:
        value = Path(str(fields["path"])) if "path" in fields else value_of(fields)
        report.result(value, summary=str(fields.get("summary", "")), name=fields.get("name", "result"))
