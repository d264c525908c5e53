"""Small texts for people and scripts: what is shown cannot steer a terminal. Standard library only."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from theorbo.schemas.records import LF, RS, encode_record

_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f"  # C0 without the tab, DEL, C1
    "\u2028\u2029\u202a-\u202e\u2066-\u2069"  # line separators and changes of writing direction
    "\ud800-\udfff]"  # lone surrogates cannot be printed at all
)
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def json_line(fields: Mapping[str, Any]) -> str:
    """One line of JSON, without its end. Non-finite numbers become strings, as in records."""
    text = encode_record(dict(fields)).strip(RS + LF).decode()
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def visible(text: str) -> str:
    r"""`text` with control characters, line ends and lone surrogates as escapes (`\x1b`)."""
    return _UNSAFE.sub(_escape, text)


def first_line(text: str) -> str:
    """The first line of `text`, with `…` behind it if there is more."""
    first, *rest = text.strip().splitlines() or [""]
    return f"{first} …" if rest else first


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def clock(time_s: float) -> str:
    """`HH:MM:SS`, in local time."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(time_s))
    except (ValueError, OverflowError, OSError):  # a record may say anything
        return "--:--:--"


def numbered(word: str, numbers: Iterable[int]) -> str:
    """`rank 3`, `ranks 0-3, 7`: numbers in order, those in sequence as a range."""
    ordered = sorted(set(numbers))
    runs: list[tuple[int, int]] = []
    for number in ordered:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs[:_RUNS])
    return f"{word}{'s' * (len(ordered) != 1)} {shown or '(none)'}" + (", …" if len(runs) > _RUNS else "")


_RUNS = 8  # of numbers in sequence that a line names


def size_text(size_bytes: float) -> str:
    """`512 B`, `3.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"
