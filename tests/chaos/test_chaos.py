"""The chaos run's own parts: its plan, its independent count, its verdict, and that it tidies up."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import count, plan, verdict


@pytest.mark.parametrize(("seconds", "brokers", "others"), [(300.0, 30, 5), (60.0, 5, 2), (10.0, 5, 2)])
def test_a_plan_kills_everybody_as_often_as_it_says(seconds, brokers, others):
    for seed in range(50):
        steps = plan.counted(plan.plan(seed, seconds))
        assert steps[plan.KILL_BROKER] >= brokers
        assert steps[plan.MOVE_BROKER] >= 1
        assert steps[plan.START_BROKER] + steps[plan.MOVE_BROKER] == steps[plan.KILL_BROKER]
        assert (steps[plan.KILL_AGENT], steps[plan.KILL_EXECUTOR]) == (others, others)


def test_a_plan_depends_on_its_seed_alone():
    assert plan.plan(7, 60.0) == plan.plan(7, 60.0)
    assert plan.plan(7, 60.0) != plan.plan(8, 60.0)


def test_a_plan_ends_in_time_with_a_broker_and_a_network():
    for seed in range(200):
        steps = plan.plan(seed, 300.0)
        assert steps == sorted(steps, key=lambda step: step.at)
        assert steps[0].at > 0
        assert steps[-1].at < 300.0
        broker = [step.action for step in steps if "broker" in step.action]
        assert broker[0::2] == [plan.KILL_BROKER] * (len(broker) // 2), "never killed twice without a start between"
        network = [step.action for step in steps if step.action in (*plan.FAULTS, plan.PASS)]
        assert network[-1] in (plan.PASS, plan.CUT)
        assert {*network} >= {*plan.FAULTS}


# --- the count ---------------------------------------------------------------------------------------


def event(number, source="rank:0", channel="log", counter=None, **fields):
    text = f"counter {number - 1 if counter is None else counter}"
    place = {"execution": "ab" * 16, "source": source, "channel": channel, "number": number}
    return {**place, "kind": "log", "text": text, **fields}


def counted(tmp_path, *files):
    paths = []
    for index, objects in enumerate(files):
        paths.append(tmp_path / f"{index}.jsonl")
        paths[-1].write_text("".join(each if isinstance(each, str) else json.dumps(each) + "\n" for each in objects))
    command = [sys.executable, "-I", count.__file__, *map(str, paths)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def test_the_count_knows_what_is_different_and_what_is_the_same(tmp_path):
    first = [event(1), event(2), event(3), event(2), {"kind": "snapshot", "source": "", "number": 0}, '{"torn']
    second = [event(3, redelivered=True), event(2), event(5), event(6, counter=0), {"kind": "missed"}]
    found = counted(tmp_path, first, second)
    assert found["lines"] == 11
    assert {name: found[name] for name in ("events", "distinct", "torn", "twice", "again", "unmarked", "marked")} == {
        "events": 8, "distinct": 5, "torn": 1, "twice": 1, "again": 2, "unmarked": 1, "marked": 1,
    }  # fmt: skip
    assert found["streams"] == {"rank:0/log": [1, 6, 5]}
    assert found["counters"] == {"log": 5}
    assert (found["counters_twice"], found["counters_missing"], found["missed"]) == (1, 1, 1)


def test_the_checksum_depends_on_what_was_said_and_not_on_the_order(tmp_path):
    one = counted(tmp_path, [event(1), event(2)])["punctual"]
    assert counted(tmp_path, [event(2), event(1), event(1)])["punctual"] == one
    assert counted(tmp_path, [event(1), event(2, counter=7)])["punctual"] != one


def test_what_is_late_is_apart_for_who_ends_with_the_execution_does_not_get_it(tmp_path):
    with_late = counted(tmp_path, [event(1), event(2, late=True)])
    without = counted(tmp_path, [event(1)])
    assert (with_late["late"], with_late["distinct"], with_late["punctual"]) == (1, 2, without["punctual"])


def test_metrics_and_results_are_counted_as_well(tmp_path):
    metric = {**event(1, channel="metrics"), "kind": "metric", "name": "counter", "value": 8.0}
    result = {**event(1, channel="results"), "kind": "result", "name": "counter 9"}
    other = {**event(2, channel="metrics"), "kind": "metric", "name": "load", "value": 8.0}
    found = counted(tmp_path, [metric, result, other])
    assert found["counters"] == {"metric": 1, "result": 1}
    assert found["counters_missing"] == 8


# --- the verdict --------------------------------------------------------------------------------------


@pytest.fixture
def found(tmp_path):
    events = [event(number) for number in range(1, 101)] + [event(1, "executor", "signals", kind="execution_submitted")]
    again = [{**each, "redelivered": True} for each in events[40:50]]
    journal = counted(tmp_path, events)
    executors = counted(tmp_path, [*events[:50], '{"half'], [*again, *events[50:]])
    reported = {"log": 100, "metric": 0}
    return verdict.Found(reported, 100, journal, copy.deepcopy(journal), executors, 2, {"state": "COMPLETED"})


def test_when_all_is_well_nothing_is_wrong_and_the_table_shows_it(found):
    assert verdict.problems(found) == []
    lines = verdict.table(found)
    assert [line.split("  ")[0] for line in lines] == [
        "reported by the ranks", "journal, exported", "complete observer", "2 Executors",
    ]  # fmt: skip
    assert "again 10, unmarked 0" in lines[-1]
    assert all(" 100 " in line for line in lines)


def test_events_that_differ_under_the_same_numbers_are_told(found):
    punctual = {**found.observer["punctual"], "content": 0}
    (wrong,) = verdict.problems(found._replace(observer={**found.observer, "punctual": punctual}))
    assert wrong == "the observer and the journal have the same numbers, but not the same events"


@pytest.mark.parametrize(
    ("view", "changed", "words"),
    [
        ("observer", {"counters": {"log": 99}}, "the observer: {'log': 99} of the ranks' events"),
        ("journal", {"twice": 1}, "the journal: 1 events twice"),
        ("executors", {"unmarked": 2}, "2 events again that are not marked redelivered"),
        ("executors", {"twice": 2}, "the Executors: 2 events twice"),
        ("journal", {"counters_missing": 3}, "3 reports of ranks missing"),
        ("journal", {"losses": 1}, "1 loss events"),
        ("observer", {"missed": 1}, "1 ranges that could not be shown"),
        ("observer", {"torn": 1}, "no JSON"),
        ("executors", {"torn": 2}, "2 lines of 2 Executors are no JSON"),
        ("observer", {"marked": 1}, "the observer was told of 1 redeliveries"),
        (
            "executors",
            {"punctual": {"streams": {"rank:0/log": 99}, "content": 0}},
            "the Executors and the journal differ: executor/signals None and 1; rank:0/log 99 and 100",
        ),
        ("journal", {"punctual": {"streams": {}, "content": 0}}, "the observer and the journal differ"),
        ("journal", {"streams": {"rank:0/log": [1, 101, 100]}}, "100 events of rank:0/log, numbered 1 to 101"),
    ],
)
def test_each_thing_that_may_be_wrong_is_told(found, view, changed, words):
    wrong = verdict.problems(found._replace(**{view: {**getattr(found, view), **changed}}))
    assert any(words in sentence for sentence in wrong), wrong


def test_too_few_reports_and_a_bad_end_are_told(found):
    assert "have reported 100 events, and not 101" in verdict.problems(found._replace(asked=101))[0]
    (ended,) = verdict.problems(found._replace(outcome={"state": "LOST", "reason": "silence"}))
    assert ended == "the execution ended LOST: silence"


# --- tidying up -----------------------------------------------------------------------------------------


def test_interrupted_it_leaves_neither_processes_nor_files(tmp_path, wait_for):
    """Ctrl-C in the middle of a run."""
    command = [sys.executable, "-m", "tests.chaos", "--seconds", "60", "--events", "6000", "--seed", "1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as chaos:
        said = []
        while not any("ranks run" in line for line in said):
            said.append(chaos.stdout.readline())
            assert said[-1], said
        (scratch,) = tmp_path.iterdir()
        marker = os.fsencode(scratch)
        wait_for(lambda: len(processes_of(marker)) >= 8)  # broker, observer, Executor, launcher, agent, ranks …
        chaos.send_signal(signal.SIGINT)
        rest, _ = chaos.communicate(timeout=60)
    assert (chaos.returncode, rest.splitlines()[-2:]) == (
        1, ["wrong: interrupted", "chaos: 1 things are wrong; seed 1"],
    )  # fmt: skip
    assert processes_of(marker) == []
    assert list(tmp_path.iterdir()) == []


def processes_of(marker):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes())
        except OSError:
            continue
    return found
