"""`theorbo replay`, and `replay` from a program, before a real broker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import jsonschema
import pytest

from theorbo.observer import replay
from theorbo.observer.replaying import Pace
from theorbo.schemas.line_schema import line_schema


@pytest.fixture
def ended(producer):
    one = producer(experiment="mfx1")
    for number in range(300):
        one.log(str(number))
        one.put(kind="metric", name="rate", value=float(number))
    one.end(exit_code=3)
    return one


def test_everything_comes_once_in_the_journals_order_and_is_verified(ended, broker, run_theorbo):
    done = run_theorbo("replay", ended.id[-8:], "--json", "--verify", "--broker", broker.connection_file)
    *objects, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    validator = jsonschema.Draft202012Validator(line_schema())
    assert all(map(validator.is_valid, [*objects, last]))
    assert [item["text"] for item in objects if item["kind"] == "log"] == list(map(str, range(300)))
    assert [item["sequence"] for item in objects] == sorted(item["sequence"] for item in objects)
    assert (objects[0]["kind"], objects[-1]["kind"]) == ("execution_submitted", "state_changed")
    assert (last["kind"], last["ok"], last["events"]) == ("verification", True, len(objects))
    reported = {(item["source"], item["channel"]): item for item in last["streams"]}
    assert reported["rank:0", "log"].items() >= {"first": 1, "last": 300, "reported": 300}.items()


def test_lines_of_one_kind_are_for_people(ended, broker, run_theorbo):
    done = run_theorbo("replay", ended.id, "--kind", "rank_ended", "--broker", broker.connection_file)
    (line,) = done.stdout.splitlines()
    assert line.endswith("rank 0 ended with exit code 3")


def test_a_program_gets_the_same(ended, broker):
    items = list(replay(ended.id, str(broker.connection_file), kinds=["metric"]))
    assert [item.event.value for item in items] == list(map(float, range(300)))
    assert {item.view["experiment"] for item in items} == {"mfx1"}


def test_one_that_has_not_ended_gives_what_there_is(broker, producer, run_theorbo):
    one = producer()
    one.log("so far")
    one.flush()
    done = run_theorbo("replay", one.id, "--verify", "--broker", broker.connection_file)
    assert done.returncode == 0
    assert "so far" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("verified: 2 events of 2 streams")
    assert "is PENDING; this is what there is so far" in done.stderr


def test_a_broker_that_is_killed_in_between_leaves_no_trace(ended, broker):
    items = replay(ended.id, str(broker.connection_file), channels=["log"])
    texts = [next(items).event.text]
    broker.kill()
    broker.start()
    texts += [item.event.text for item in items]
    assert texts == list(map(str, range(300)))


def test_with_speed_the_events_keep_their_distances(broker, producer, run_theorbo, wait_for):
    one = producer()
    one.log("first")
    one.flush()
    wait_for(lambda: time.time() > one.journaled_at + 1.0)
    one.log("second")
    one.flush()
    spans = []
    for speed in ("1", "1000"):
        process = subprocess.Popen(
            [
                sys.executable, "-m", "theorbo.schemas.command", "replay", one.id, "--kind", "log",
                "--speed", speed, "--broker", str(broker.connection_file),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        process.stdout.readline()
        began = time.monotonic()
        process.stdout.readline()
        spans.append(time.monotonic() - began)
        process.communicate(timeout=20)
        assert process.returncode == 0
    assert spans[0] > 0.9
    assert spans[1] < 0.9


def test_ctrl_c_ends_it_quietly(broker, producer, wait_for):
    one = producer()
    one.log("first")
    one.flush()
    wait_for(lambda: time.time() > one.journaled_at + 1.0)
    one.log("second")
    one.flush()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "theorbo.schemas.command", "replay", one.id, "--kind", "log",
            "--speed", "0.01", "--broker", str(broker.connection_file),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["abcd1234"], "there is no execution 'abcd1234'"),
        (["abcd1234", "--speed", "0"], "'0' is no number above 0"),
        (["abcd1234", "--max-pause", "2"], "it needs --speed N"),
    ],
)
def test_what_cannot_be_meant_is_refused(broker, run_theorbo, options, words):
    done = run_theorbo("replay", *options, "--broker", broker.connection_file)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


class TestPace:
    def test_each_event_is_due_at_its_distance_divided_by_the_speed(self):
        pace = Pace(10.0)
        assert pace.pause_s(100.0, 5.0) == 0.0
        assert pace.pause_s(120.0, 5.5) == pytest.approx(1.5)
        assert pace.pause_s(120.0, 7.0) == 0.0
        assert pace.pause_s(130.0, 9.0) == 0.0  # late already

    def test_a_cap_shortens_pauses_and_all_that_follows_comes_earlier(self):
        pace = Pace(1.0, longest_s=2.0)
        pace.pause_s(0.0, 0.0)
        assert pace.pause_s(1000.0, 0.0) == 2.0
        assert pace.pause_s(1001.0, 2.0) == 1.0

    def test_a_clock_that_was_set_back_means_no_wait(self):
        pace = Pace(1.0)
        pace.pause_s(1000.0, 0.0)
        assert pace.pause_s(10.0, 0.0) == 0.0
        assert pace.pause_s(11.0, 0.0) == 1.0
