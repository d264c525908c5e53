"""The view of an execution in words."""

from __future__ import annotations

import pytest

from theorbo.observer.states import contact_of, duration_s, hosts_of, present_state, ranks_of, span, state_of

VIEW = {
    "task": "galaxies", "experiment": "mfx1", "run": "12", "state": "RUNNING", "reason": "", "delivering": False,
    "submitted": 100.0, "started": 101.0, "ended": None, "ranks": 4, "ranks_started": 4, "ranks_ended": 1,
    "hosts": ["n1"], "contact": {"executor": "alive", "agent:0": "alive"},
}  # fmt: skip


def test_an_execution_that_has_ended_and_still_delivers_says_so():
    assert state_of({**VIEW, "delivering": True}) == "RUNNING (ended, delivering)"
    assert state_of(VIEW) == "RUNNING"


def test_of_all_contacts_the_worst_is_named():
    assert contact_of(VIEW) == "alive"
    assert contact_of({"contact": {"executor": "suspect", "agent:0": "alive", "agent:1": "silent"}}) == "agent:1 silent"
    assert contact_of({"contact": {}}) == ""


def test_many_hosts_are_counted():
    assert hosts_of({"hosts": ["a", "b", "c", "d", "e"]}) == "a,b,c and 2 more"


def test_it_lasts_until_now_or_until_it_has_ended():
    assert duration_s(VIEW, 111.0) == 10.0
    assert duration_s({**VIEW, "ended": 105.0}, 111.0) == 4.0
    assert duration_s({**VIEW, "started": None}, 111.0) == 11.0
    assert duration_s({}, 111.0) is None


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (None, ""),
        (0.44, "0.4 s"),
        (59.9, "59 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (5 * 86400 + 3 * 3600, "5 d 3 h"),
    ],
)
def test_spans_have_two_digits_that_matter(duration, text):
    assert span(duration) == text


def test_the_present_state_is_one_sentence():
    assert ranks_of(VIEW) == "1/4/4"
    assert present_state(VIEW) == "RUNNING, 4 of 4 ranks started, experiment mfx1, run 12"
    failed = {**VIEW, "state": "FAILED", "reason": "exit code 3", "contact": {}}
    assert present_state(failed).startswith("FAILED: exit code 3, ")


def test_a_view_of_another_version_is_no_trouble():
    assert present_state({"state": "DREAMING"}) == "DREAMING, 0 of 0 ranks started"


def test_a_time_that_is_none_has_no_span():
    assert span(duration_s({"started": float("-inf")}, 0.0)) == ""
