"""Fewer lines for people: of what comes often, one line a while, and always the last."""

from __future__ import annotations

import math

from theorbo.executor.reported import Reported
from theorbo.schemas.events import Metric, Progress, StateChanged
from theorbo.schemas.limits import PROGRESS_LINE_S
from theorbo.schemas.states import State

_FINAL = {state for state in State if state.final}

_Key = tuple[int | None, str, str]


class Throttle:
    """Progress of a rank, and each metric of a rank, at most once in `PROGRESS_LINE_S`.

    What came too soon is held back; something newer takes its place, or it is given a little later, with
    whatever event comes then. Before the final state everything that is held back is given. `now` is any clock
    in seconds.
    """

    def __init__(self) -> None:
        self._given_at: dict[_Key, float] = {}
        self._held: dict[_Key, Reported] = {}
        self._look_at = 0.0

    def due(self, reported: Reported, now: float) -> list[Reported]:
        """What to show now that `reported` has come."""
        event = reported.event
        if isinstance(event, StateChanged) and event.state in _FINAL:
            return [*self.rest(), reported]
        key = _key_of(reported)
        if key is None:
            return [*self._released(now), reported]
        complete = isinstance(event, Progress) and event.total is not None and event.done >= event.total
        if not complete and now - self._given_at.get(key, -math.inf) < PROGRESS_LINE_S:
            self._held[key] = reported
            return self._released(now)
        self._held.pop(key, None)
        self._given_at[key] = now
        return [*self._released(now), reported]

    def rest(self) -> list[Reported]:
        """What is held back, each the last of its kind."""
        held = list(self._held.values())
        self._held.clear()
        return held

    def _released(self, now: float) -> list[Reported]:
        """What was held back long enough. Looks only now and then, and forgets what is too old to matter."""
        if now < self._look_at:
            return []
        self._look_at = now + PROGRESS_LINE_S
        self._given_at = {key: at for key, at in self._given_at.items() if now - at < PROGRESS_LINE_S}
        ripe = [key for key in self._held if key not in self._given_at]
        self._given_at.update(dict.fromkeys(ripe, now))
        return [self._held.pop(key) for key in ripe]


def _key_of(reported: Reported) -> _Key | None:
    """What is throttled together, if it is throttled at all."""
    match reported.event:
        case Progress():
            return reported.rank, "progress", ""
        case Metric(name=name):
            return reported.rank, "metric", name
    return None
