"""The sink without a bus: prints reports on stderr, for people. stdout stays the program's own."""

from __future__ import annotations

import sys
import time
from typing import Any

from theorbo.schemas.records import Attachment
from theorbo.task_runtime.wrapper import rank_number

PROGRESS_S = 0.2
"""At most one line of progress in this time: a loop may report each of a million turns."""

_SHOWN_CHARACTERS = 120


class Console:
    """Prints `HH:MM:SS INFO text` and its like; under mpiexec `HH:MM:SS rank 2 INFO text`."""

    on_bus = False

    def __init__(self) -> None:
        self._progress_at = float("-inf")
        rank = rank_number()
        self._who = "" if rank is None else f"rank {rank} "

    def send(self, fields: dict[str, Any]) -> bool:
        """Print a report; False if there is no stderr to print it on."""
        if fields["kind"] == "progress" and not self._is_worth_a_line(fields):
            return True
        line = f"{time.strftime('%H:%M:%S', time.localtime(fields['time']))} {self._who}{sentence(fields)}\n"
        try:
            sys.stderr.write(line)
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # closed, full, or None
            return False
        return True

    def store(self, payload: bytes) -> Attachment:
        """Keep nothing: a line says how large it is."""
        return Attachment("", len(payload))

    def _is_worth_a_line(self, fields: dict[str, Any]) -> bool:
        now = time.monotonic()
        if now - self._progress_at < PROGRESS_S and fields["done"] != fields.get("total"):
            return False
        self._progress_at = now
        return True


def sentence(fields: dict[str, Any]) -> str:
    """What a report says, for people."""
    return _SENTENCES[fields["kind"]](fields)


def _log(fields: dict[str, Any]) -> str:
    return f"{fields['level']} {fields['text']}"


def _progress(fields: dict[str, Any]) -> str:
    done, total, unit = fields["done"], fields.get("total"), fields.get("unit", "")
    how_far = f"{done:.12g}/{total:.12g}" if total is not None else f"{done:.12g}"
    share = f"({100 * done / total:.0f} %)" if total and total > 0 else ""
    return " ".join(word for word in ("progress", how_far, unit, share, fields.get("text", "")) if word)


def _metric(fields: dict[str, Any]) -> str:
    step = f"at step {fields['step']}" if "step" in fields else ""
    words = ("metric", fields["name"], "=", f"{fields['value']:.12g}", fields.get("unit", ""), step)
    return " ".join(word for word in words if word)


def _payload(fields: dict[str, Any]) -> str:
    what = "data " if fields["kind"] == "data" else ""
    parts = ", ".join(_part(part) for part in fields["parts"])
    said = "; ".join(text for text in (fields.get("summary"), parts) if text)
    return f"{what}{fields['name']}: {said or 'nothing'}"


def _part(part: dict[str, Any]) -> str:
    name = f"{part['name']} " if part.get("name") else ""
    if "problem" in part:
        return f"{name}(not sent: {part['problem']})"
    if "path" in part:
        return f"{name}{part['path']}"
    if "sha256" in part:
        return f"{name}({part['mime']}, {part['size']} bytes)"
    text = part["text"] if "text" in part else repr(part.get("value"))
    return f"{name}{'= ' if name else ''}{text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '…'}"


def _failed(fields: dict[str, Any]) -> str:
    traceback = fields.get("traceback", "").rstrip()
    return f"FAILED {fields['error']}" + (f"\n{traceback}" if traceback else "")


_SENTENCES = {
    "log": _log,
    "progress": _progress,
    "metric": _metric,
    "data": _payload,
    "result": _payload,
    "task_failed": _failed,
}
