"""Points in time as people write them. Standard library only."""

from __future__ import annotations

import re
from datetime import datetime

from theorbo.schemas.errors import UsageError

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def point_in_time(text: str, now: float) -> float:
    """Unix time of what people write: `10m`, `2h`, `1d12h` before `now`, or ISO 8601, local if it has no zone.

    Raises UsageError.
    """
    spans = _SPAN.findall(text)
    if spans and "".join(number + unit for number, unit in spans) == text:
        return max(0.0, now - sum(float(number) * _UNIT_S[unit] for number, unit in spans))
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{text!r} is no time: wanted is one like 2026-11-22T14:30 (local, or with a zone: "
            "2026-11-22T14:30+01:00), or how long ago: 30s, 10m, 2h, 3d"
        ) from None
