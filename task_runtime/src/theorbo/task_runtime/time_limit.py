"""The time limit of an execution as its agents keep it, for the Executor may be gone. Pure."""

from __future__ import annotations

from typing import Any

from theorbo.schemas.limits import GRACE_S, TIME_LIMIT_SLACK_S


class TimeLimit:
    """Counts from the start of the node's first agent, which is just before the ranks are started, by Unix time; also
    while ranks are stopped.
    """

    def __init__(self, time_limit_s: float, grace_s: float = GRACE_S) -> None:
        self._time_limit_s = time_limit_s
        self.grace_s = grace_s
        """Between SIGTERM and SIGKILL, when it is over."""
        self._began_at: float | None = None

    def begin(self, at: float) -> None:
        """An agent has started then; the first one counts."""
        self._began_at = at if self._began_at is None else self._began_at

    def is_over(self, now: float) -> bool:
        """Whether whoever should have asked for an end had time enough to do so."""
        return self._began_at is not None and now >= self._began_at + self._time_limit_s + TIME_LIMIT_SLACK_S

    def request(self, by: str) -> dict[str, Any]:
        """The fields of the request that is made then."""
        return {
            "kind": "control_requested", "action": "cancel", "cause": "time_limit", "by": by,
            "reason": f"time limit of {self._time_limit_s:g} s reached", "grace_s": self.grace_s,
        }  # fmt: skip
