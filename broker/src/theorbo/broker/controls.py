"""Controls: requests that agents of an execution have to hear of, also those that say HELLO later. Pure.

What an agent is told when it says HELLO, in the order of the journal:

- every request for an end (cancel, kill): it holds for good, and for whatever a later agent finds;
- of stop and continue the last one, for it says what is wanted now, and of stacks the last one; both as long as this
  very agent has not said that it is done.

Beside it the tokens of REQUESTs are remembered, so that one which is asked again is recognised.
"""

from __future__ import annotations

from typing import NamedTuple

from theorbo.broker.signals import Control
from theorbo.schemas import events
from theorbo.schemas.limits import CONTROLS


class Requested(NamedTuple):
    """A REQUEST that the broker has put into the journal, or is about to."""

    action: str
    position: int
    sequence: int


class Controls:
    """Of one execution."""

    def __init__(self) -> None:
        self._ends: list[Control] = []
        self._last: dict[str, Control] = {}
        """The last one to hold (stop or continue), and of stacks."""
        self._done_by: dict[str, set[int]] = {}
        """Numbers of the agents that have carried these out, or cannot."""
        self._tokens: dict[str, Requested] = {}

    def add(self, control: Control, request: events.ControlRequested) -> None:
        """One is in the journal."""
        if request.token:
            self.remember(request.token, Requested(request.action, control.header.position, control.header.sequence))
        if request.action in ("cancel", "kill"):
            self._ends = [*self._ends, control][-CONTROLS:]
        else:
            place = "stacks" if request.action == "stacks" else "hold"
            self._last[place] = control
            self._done_by[place] = set()

    def done(self, agent: int, position: int) -> None:
        """An agent has carried out the request at a position, or says why it cannot."""
        for place, control in self._last.items():
            if control.header.position == position:
                self._done_by[place].add(agent)

    def for_agent(self, agent: int) -> list[Control]:
        """What an agent that says HELLO has to hear."""
        last = [control for place, control in self._last.items() if agent not in self._done_by[place]]
        return sorted([*self._ends, *last], key=lambda control: control.header.position)

    def remember(self, token: str, requested: Requested) -> None:
        """A REQUEST is on its way to the disk, or there."""
        self._tokens[token] = requested
        while len(self._tokens) > CONTROLS:
            del self._tokens[next(iter(self._tokens))]

    def known(self, token: str) -> Requested | None:
        """What was requested under a token."""
        return self._tokens.get(token)
