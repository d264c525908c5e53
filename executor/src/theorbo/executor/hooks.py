"""Which hooks an event calls."""

from __future__ import annotations

from theorbo.schemas import events
from theorbo.schemas.errors import InternalError
from theorbo.schemas.presentation import kind_of
from theorbo.schemas.states import State

STATE_HOOKS = {
    State.COMPLETED: "TASK_DONE",
    State.FAILED: "TASK_FAILED",
    State.CANCELLED: "TASK_CANCELLED",
    State.TIMEDOUT: "TASK_TIMEDOUT",
    State.LOST: "TASK_LOST",
    State.STOPPED: "TASK_STOPPED",
}
"""Hook by the state that is entered; RUNNING depends on where it comes from."""

KIND_HOOKS = {
    "result": "TASK_RESULT",
    "log": "TASK_LOG",
    "progress": "PROGRESS",
    "metric": "METRIC",
    "data": "DATA",
    "output": "OUTPUT",
    "rank_started": "RANK_STARTED",
    "rank_ended": "RANK_ENDED",
    "loss": "LOSS",
}
"""Hook by the kind of event."""

ANY_HOOK = "ANY"
"""Called for every event, before the hooks of its own name."""

HOOK_NAMES = (ANY_HOOK, "TASK_STARTED", *STATE_HOOKS.values(), "TASK_CONTINUED", *KIND_HOOKS.values())


def hooks_of(event: events.EventBase) -> tuple[str, ...]:
    """The names of the hooks that an event calls."""
    if isinstance(event, events.StateChanged):
        if event.state == State.RUNNING:
            own = "TASK_CONTINUED" if event.previous == State.STOPPED else "TASK_STARTED"
        else:
            own = STATE_HOOKS.get(known_state(event.state), "")
    else:
        own = KIND_HOOKS.get(kind_of(event), "")
    return (ANY_HOOK, own) if own else (ANY_HOOK,)


def known_state(text: str) -> State:
    """The state that the broker reports. Raises InternalError."""
    try:
        return State(text)
    except ValueError:
        raise InternalError(f"the broker reports state {text!r}, which is none of {[str(s) for s in State]}") from None
