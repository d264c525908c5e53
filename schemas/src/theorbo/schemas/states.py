"""The states of an execution, and the one table of their changes. Python 3.11.

The state is computed in one place, the broker, from the signals in the journal (`outcome.Evidence`).
Everybody else reads `state_changed` events. A final state comes after everything that was reported has
been delivered, or its loss recorded: whoever sees COMPLETED has the result.

Contact is a separate value: silence never changes a state, except that an execution all of whose peers
stay silent until a stated deadline is LOST.
"""

from __future__ import annotations

import enum

from theorbo.schemas.errors import ExitStatus, InternalError
from theorbo.schemas.limits import SILENT_S, SUSPECT_S


class State(enum.StrEnum):
    """Where an execution stands."""

    PENDING = "PENDING"
    """Submitted; not all ranks have started."""
    RUNNING = "RUNNING"
    """All ranks have started."""
    STOPPED = "STOPPED"
    """All ranks are held by a stop request."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMEDOUT = "TIMEDOUT"
    LOST = "LOST"

    @property
    def final(self) -> bool:
        """Whether nothing can change it any more."""
        return not TRANSITIONS[self]


_ENDS = frozenset({State.FAILED, State.CANCELLED, State.TIMEDOUT, State.LOST})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.PENDING: _ENDS | {State.RUNNING},
    State.RUNNING: _ENDS | {State.STOPPED, State.COMPLETED},
    State.STOPPED: _ENDS | {State.RUNNING},
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.TIMEDOUT: frozenset(),
    State.LOST: frozenset(),
}

EXIT_STATUSES: dict[State, ExitStatus] = {
    State.COMPLETED: ExitStatus.COMPLETED,
    State.FAILED: ExitStatus.FAILED,
    State.CANCELLED: ExitStatus.CANCELLED,
    State.TIMEDOUT: ExitStatus.TIMEDOUT,
    State.LOST: ExitStatus.LOST,
}


def checked_transition(before: State, after: State) -> State:
    """`after`, if the table allows it. Raises InternalError."""
    if after not in TRANSITIONS[before]:
        raise InternalError(f"no transition from {before} to {after}; allowed: {sorted(TRANSITIONS[before])}")
    return after


class Contact(enum.StrEnum):
    """What is known of a peer from its heartbeats."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    SILENT = "silent"


CONTACT_AFTER_S: tuple[tuple[float, Contact], ...] = (
    (SILENT_S, Contact.SILENT),
    (SUSPECT_S, Contact.SUSPECT),
    (0.0, Contact.ALIVE),
)


def contact(silent_for_s: float) -> Contact:
    """The contact with a peer that was last heard of `silent_for_s` seconds ago."""
    return next(value for after_s, value in CONTACT_AFTER_S if silent_for_s >= after_s or after_s == 0.0)
