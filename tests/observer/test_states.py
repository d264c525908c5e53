"""The view of an execution in words."""

from __future__ import annotations

import time

import pytest

from theorbo.observer.details import details
from theorbo.observer.states import (
    clock,
    contact_of,
    duration_s,
    hosts_of,
    job_of,
    note_of,
    present_state,
    ranks_of,
    silence_of,
    span,
    state_of,
)

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


def node(number, **more):
    return {"node": number, "host": f"node{number + 1}", "contact": "alive", "heard": 7.0, "lost": "", **more}


def contacts(*values):
    return {f"agent:{number}": value for number, value in enumerate(values)}


HEARD = time.time() - 60


def test_a_node_that_is_not_heard_is_named_by_its_host_and_since_when():
    view = {"contact": contacts("alive", "silent"), "nodes": [node(0), node(1, contact="silent", heard=HEARD)]}
    assert contact_of(view) == f"node2 silent since {clock(HEARD)}"
    unknown = {"contact": contacts("alive", "suspect"), "nodes": [node(0), node(1, contact="suspect", heard=None)]}
    assert contact_of(unknown) == "node2 suspect"
    both = {"contact": contacts(*["silent"] * 5), "nodes": [node(number, heard=HEARD) for number in range(5)]}
    assert contact_of(both) == f"node1,node2,node3 and 2 more silent since {clock(HEARD)}"


def test_a_node_that_is_lost_is_worse_than_one_that_is_silent():
    view = {"contact": contacts("silent", "silent"), "nodes": [node(0), node(1, lost="ssh has ended")]}
    assert contact_of(view) == "node2 lost"


def test_hosts_come_in_the_order_of_their_nodes():
    assert hosts_of({"hosts": ["a", "z"], "nodes": [node(0, host="z"), node(1, host="a")]}) == "z,a"


def test_the_scheduler_speaks_for_itself():
    job = {"scheduler": "slurm", "job": "4711", "state": "PENDING", "reason": "Resources"}
    assert job_of({"job": job}) == "slurm 4711 PENDING (Resources)"
    assert job_of({"job": {**job, "state": "RUNNING", "reason": "None"}}) == "slurm 4711 RUNNING"
    assert job_of({"job": None}) == job_of({}) == ""


def test_stopped_ranks_are_counted():
    view = {**VIEW, "ranks_ended": 0}
    assert state_of({**view, "state": "STOPPED", "stopped": 4}) == "STOPPED 4 of 4 ranks"
    assert state_of({**view, "stopped": 1}) == "RUNNING, 1 of 4 ranks stopped"


def test_silent_ranks_are_named_by_number():
    view = {
        "ranks": 512,
        "reason": "",
        "silent_ranks": [{"rank": 37, "since": HEARD}, {"rank": 38, "since": HEARD + 9}],
    }
    assert silence_of(view) == f"ranks 37-38 of 512 silent since {clock(HEARD)}"
    assert note_of({**view, "reason": "by ada\nmore"}) == f"by ada …; {silence_of(view)}"
    assert silence_of({"ranks": 1}) == ""


def test_a_time_of_another_day_has_its_date():
    assert len(clock(time.time())) == 8
    assert clock(86400.0).startswith("1970-01-0")
    assert clock(float("nan")) == "?"


def test_in_detail_there_is_a_line_for_each_thing_and_node():
    view = {
        **VIEW, "execution": "ab" * 16, "user": "ada", "host": "login", "executor_host": "login",
        "contact": {"executor": "alive", **contacts("alive", "silent")},
        "nodes": [node(0, ranks_started=2, ranks_ended=1), node(1, contact="silent", heard=HEARD, lost="\x1b[31m")],
    }  # fmt: skip
    lines = dict(line.split("  ", 1) for line in details(view, 111.0))
    assert lines["execution"].strip() == "ab" * 16
    assert lines["executor"].strip() == "login: alive"
    assert lines["node 0"].strip() == "node1, alive, 2 ranks started, 1 ended"
    assert lines["node 1"].strip() == f"node2, silent since {clock(HEARD)}, lost: \\x1b[31m"
    assert "ended" not in lines
