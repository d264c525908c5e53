"""The states of an execution: one table, and what follows from it."""

import pytest

from theorbo.schemas.errors import ExitStatus, InternalError
from theorbo.schemas.limits import SILENT_S, SUSPECT_S
from theorbo.schemas.states import EXIT_STATUSES, TRANSITIONS, Contact, State, checked_transition, contact

ALLOWED = """
PENDING  RUNNING
PENDING  FAILED
PENDING  CANCELLED
PENDING  TIMEDOUT
PENDING  LOST
RUNNING  STOPPED
RUNNING  COMPLETED
RUNNING  FAILED
RUNNING  CANCELLED
RUNNING  TIMEDOUT
RUNNING  LOST
STOPPED  RUNNING
STOPPED  FAILED
STOPPED  CANCELLED
STOPPED  TIMEDOUT
STOPPED  LOST
"""
"""Written out a second time on purpose: a change of the table must be meant."""

allowed = {tuple(State(name) for name in line.split()) for line in ALLOWED.strip().splitlines()}
pairs = [(before, after) for before in State for after in State]


@pytest.mark.parametrize(("before", "after"), pairs)
def test_a_state_changes_only_as_the_table_says(before, after):
    if (before, after) in allowed:
        assert checked_transition(before, after) is after
    else:
        with pytest.raises(InternalError, match=f"no transition from {before} to {after}"):
            checked_transition(before, after)


def test_the_table_has_a_row_for_every_state():
    assert set(TRANSITIONS) == set(State)


def test_five_states_are_final_and_each_has_its_own_exit_status():
    final = {state for state in State if state.final}
    assert final == {State.COMPLETED, State.FAILED, State.CANCELLED, State.TIMEDOUT, State.LOST}
    assert set(EXIT_STATUSES) == final
    assert len(set(EXIT_STATUSES.values())) == len(final)
    assert EXIT_STATUSES[State.COMPLETED] == 0


def test_exit_statuses_tell_outcomes_usage_errors_and_an_absent_broker_apart():
    assert len({int(status) for status in ExitStatus}) == len(list(ExitStatus.__members__))


def test_every_state_can_be_reached_from_pending():
    seen, todo = set(), [State.PENDING]
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo += TRANSITIONS[state]
    assert seen == set(State)


@pytest.mark.parametrize(
    ("silent_for_s", "expected"),
    [
        (0.0, Contact.ALIVE),
        (SUSPECT_S - 0.001, Contact.ALIVE),
        (SUSPECT_S, Contact.SUSPECT),
        (SILENT_S - 0.001, Contact.SUSPECT),
        (SILENT_S, Contact.SILENT),
        (1e9, Contact.SILENT),
        (-3.0, Contact.ALIVE),  # a clock that was set back is no silence
    ],
)
def test_contact_follows_from_the_time_since_a_peer_was_heard(silent_for_s, expected):
    assert contact(silent_for_s) is expected
