"""An Executor dies, and another one takes up what it has begun: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from theorbo.schemas.limits import HEARTBEAT_S, SUSPECT_S

from .conftest import TASKS

PROGRAM = Path(__file__).parent / "supervising.py"


class Supervising:
    """A `supervising.py` under way."""

    def __init__(self, file: Path, *arguments: str | Path, **environment: str) -> None:
        self.file = file
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(file), *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip

    @property
    def given(self) -> list[dict]:
        """What its hook was given so far."""
        text = self.file.read_text() if self.file.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    @property
    def execution(self) -> str:
        return self.given[0]["id"].partition("/")[0]

    def has(self, text: str) -> bool:
        return any(event["text"] == text for event in self.given)

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> tuple[int, dict, str]:
        """Its exit status, its outcome and what it said to people."""
        out, err = self.process.communicate(timeout=60)
        assert "Traceback" not in err, err
        return self.process.returncode, json.loads(out) if out else {}, err


@pytest.fixture
def elsewhere(tmp_path):
    """Another machine as far as spools go."""
    root = tmp_path / "another host"
    root.mkdir()
    return {"THEORBO_SPOOL_ROOT": str(root)}


@pytest.fixture
def supervise(tmp_path, broker, monkeypatch):
    """Start a program that supervises; each has a file of its own for what its hook is given."""
    monkeypatch.setenv("THEORBO_BROKER", str(broker.connection_file))
    started: list[Supervising] = []

    def start(*arguments: str | Path, **environment: str) -> Supervising:
        started.append(Supervising(tmp_path / f"given-{len(started)}", *arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


class Started:
    """A `theorbo` command under way whose output goes into files."""

    def __init__(self, place: Path, *arguments: str) -> None:
        self._out, self._err = place.with_suffix(".out"), place.with_suffix(".err")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "theorbo.schemas.command", *arguments],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip

    @property
    def shown(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._err.read_text()

    def read(self) -> str:
        """All that it showed, once it has ended."""
        assert "Traceback" not in self.errors, self.errors
        return self.shown

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path, broker, monkeypatch):
    """Start a `theorbo` command."""
    monkeypatch.setenv("THEORBO_BROKER", str(broker.connection_file))
    started: list[Started] = []

    def begin(*arguments: str) -> Started:
        started.append(Started(tmp_path / f"command-{len(started)}", *arguments))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.kill()


@pytest.fixture
def view(run_theorbo, broker):
    """What the broker says of an execution."""

    def found(execution: str) -> dict:
        listed = run_theorbo("ps", "--all", "--json", "--broker", broker.connection_file)
        views = [json.loads(line) for line in listed.stdout.splitlines()]
        return next(view for view in views if view["execution"] == execution)

    return found


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "gate"


@pytest.fixture
def halves(supervise, gate):
    """Start the Task that waits in its middle."""
    return lambda **environment: supervise("run", f"{TASKS}:Halves", gate, **environment)


def check_redelivery(*executors: list[dict]) -> list[str]:
    """Everything was given to somebody, nobody was given anything twice, and of what several were given only the
    first one's is unmarked. Returns the ids of what was given again.
    """
    unmarked = [event["id"] for given in executors for event in given if not event["redelivered"]]
    assert len(unmarked) == len(set(unmarked)), "the same event was given twice without a mark"
    for given in executors:
        ids = [event["id"] for event in given]
        assert len(ids) == len(set(ids)), "one Executor was given an event twice"
    numbers = defaultdict(set)
    for given in executors:
        for event in given:
            stream, _, number = event["id"].rpartition("/")
            numbers[stream].add(int(number))
    for stream, found in numbers.items():
        assert found == set(range(1, len(found) + 1)), f"something of {stream} was not given"
    return [event["id"] for event in executors[-1] if event["redelivered"]]


def check_completed(outcome: dict) -> None:
    assert (outcome["state"], outcome["final"], outcome["exit_status"]) == ("COMPLETED", True, 0)
    assert [(each["name"], each["summary"]) for each in outcome["results"]] == [
        ("first", "first half"),
        ("second", "second half"),
    ]


@pytest.mark.parametrize("host", ["the same", "another"])
def test_killed_in_the_middle_and_attached_again(host, halves, supervise, gate, elsewhere):
    former = halves(DIE_AT="first 40")
    assert former.end()[0] == -signal.SIGKILL
    attached = supervise("attach", former.execution, **({} if host == "the same" else elsewhere))
    gate.touch()
    status, outcome, _ = attached.end()
    assert status == 0
    check_completed(outcome)
    again = check_redelivery(former.given, attached.given)
    assert former.given[-1]["id"] in again  # it was given, and cannot have been confirmed
    assert outcome["redelivered"] == len(again)
    ((rank, (where, pid)),) = outcome["rank_map"].items()
    assert (rank, where) == ("0", socket.gethostname())
    assert pid > 0


def test_attached_after_the_end_all_is_as_if_nothing_had_happened(halves, supervise, gate, view, run_theorbo, wait_for):
    former = halves(DIE_AT="second 40")
    gate.touch()
    former.end()
    execution = former.execution
    wait_for(lambda: view(execution)["state"] == "COMPLETED")
    heads = view(execution)["heads"]
    attached = supervise("attach", execution[:20])
    status, outcome, _ = attached.end()
    assert status == 0
    check_completed(outcome)
    assert former.given[-1]["id"] in check_redelivery(former.given, attached.given)
    once_more = supervise("attach", execution)
    status, outcome, _ = once_more.end()
    check_completed(outcome)
    assert (status, once_more.given, outcome["redelivered"]) == (0, [], 0)
    shown = run_theorbo("attach", execution)
    assert shown.returncode == 0, shown.stderr
    assert "first: first half" in shown.stdout.splitlines()
    assert "Halves COMPLETED" in shown.stdout.splitlines()[-1]
    assert view(execution)["heads"] == heads, "attaching to what has ended reports nothing"


def test_an_executor_that_lives_keeps_its_execution_unless_it_is_taken_over(halves, supervise, gate, wait_for):
    former = halves()
    wait_for(lambda: former.has("first done"))
    refused = supervise("attach", former.execution)
    status, _, words = refused.end()
    assert status != 0
    assert f"pid {former.process.pid} on this machine" in words
    assert "--take-over" in words
    attached = supervise("attach", former.execution, "--take-over")
    status, outcome, _ = former.end()
    assert (status, outcome["final"], outcome["fenced"]) == (6, False, True)
    assert outcome["reason"] == "another Executor has taken over"
    gate.touch()
    status, outcome, words = attached.end()
    assert status == 0, words
    check_completed(outcome)
    check_redelivery(former.given, attached.given)


def test_an_executor_that_lives_elsewhere_is_known_by_its_heartbeat(halves, supervise, gate, wait_for, elsewhere):
    former = halves()
    wait_for(lambda: former.has("first done"))
    status, _, words = supervise("attach", former.execution, **elsewhere).end()
    assert status != 0
    assert "that is alive; --take-over makes it let go" in words
    gate.touch()
    status, outcome, _ = former.end()
    assert status == 0
    check_completed(outcome)


def test_one_that_was_stopped_finds_itself_fenced_when_it_goes_on(halves, supervise, gate, wait_for, elsewhere):
    former = halves()
    wait_for(lambda: former.has("first done"))
    former.process.send_signal(signal.SIGSTOP)
    status, _, words = supervise("attach", former.execution, "--take-over").end()
    assert status != 0
    assert f"pid {former.process.pid} on this machine holds the Executor's spool" in words
    assert f"kill -CONT {former.process.pid}" in words
    attached = supervise("attach", former.execution, "--take-over", **elsewhere)
    wait_for(lambda: any(event["kind"] == "executor_attached" for event in attached.given))
    former.process.send_signal(signal.SIGCONT)
    status, outcome, _ = former.end()
    assert (status, outcome["fenced"]) == (6, True)
    gate.touch()
    status, outcome, _ = attached.end()
    assert status == 0
    check_completed(outcome)
    check_redelivery(former.given, attached.given)


@pytest.mark.parametrize("host", ["the same", "others"])
def test_of_two_that_attach_at_once_one_wins(host, halves, supervise, gate, tmp_path, wait_for):
    former = halves(DIE_AT="first 40")
    former.end()
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        root.mkdir()
    two = [
        supervise("attach", former.execution, **({"THEORBO_SPOOL_ROOT": str(root)} if host == "others" else {}))
        for root in roots
    ]
    wait_for(lambda: any(each.process.poll() is not None for each in two))
    gate.touch()
    ends = sorted((each.end() for each in two), key=lambda end: end[0])
    assert ends[0][0] == 0
    check_completed(ends[0][1])
    assert ends[1][0] != 0
    assert "Executor" in ends[1][2].splitlines()[-1]


def test_a_broker_that_is_killed_in_between_confuses_nobody(halves, supervise, broker, gate, wait_for):
    former = halves(DIE_AT="first 40")
    former.end()
    broker.kill()
    broker.restart()
    attached = supervise("attach", former.execution)
    wait_for(lambda: attached.has("first done"))
    broker.kill()
    gate.touch()
    broker.restart()
    status, outcome, _ = attached.end()
    assert status == 0
    check_completed(outcome)
    check_redelivery(former.given, attached.given)


def test_the_json_lines_of_run_and_attach_hold_everything_and_mark_what_comes_twice(
    start, run_theorbo, broker, gate, wait_for
):
    former = start("run", f"{TASKS}:Halves", "--json", "-p", f"gate={gate}")
    wait_for(lambda: '"first done"' in former.shown)
    former.kill()
    gate.touch()
    lines = [line for line in former.shown.split("\n") if line.endswith("}")]
    first = [json.loads(line) for line in lines]
    execution = first[0]["execution"]
    again = run_theorbo("attach", execution, "--json", "--broker", broker.connection_file)
    assert again.returncode == 0, again.stderr
    *second, outcome = [json.loads(line) for line in again.stdout.splitlines()]
    check_completed(outcome)
    assert {(each["task"], each["redelivered"]) for each in second if "redelivered" in each} <= {("Halves", True)}
    assert outcome["redelivered"] == len(check_redelivery(as_given(first), as_given(second)))


def as_given(objects: list[dict]) -> list[dict]:
    return [
        {
            "id": "{execution}/{source}/{channel}/{number}".format_map(each),
            "redelivered": each.get("redelivered", False),
        }
        for each in objects
    ]


@pytest.mark.parametrize("how", ["SIGHUP", "--detach"])
def test_what_was_let_go_says_how_to_take_it_up_and_can_be_cancelled_then(how, start, gate, wait_for):
    options = ["--detach"] if how == "--detach" else []
    former = start("run", f"{TASKS}:Halves", "--grace", "7", "-p", f"gate={gate}", *options)
    if how == "SIGHUP":
        wait_for(lambda: "first done" in former.shown)
        former.process.send_signal(signal.SIGHUP)
    assert former.process.wait(20) == 0
    (advice,) = [line for line in former.read().splitlines() if line.startswith("take it up again: theorbo ")]
    attached = start(*advice.removeprefix("take it up again: theorbo ").split())
    wait_for(lambda: "has attached" in attached.shown)
    attached.process.send_signal(signal.SIGINT)
    assert attached.process.wait(20) == 3
    assert "CANCELLED: by " in attached.read()
    assert "SIGKILL in 7 s" in attached.errors


def test_the_time_limit_goes_on_from_the_launch(start, wait_for, gate):
    former = start("run", f"{TASKS}:Halves", "--json", "--time-limit", "4", "-p", f"gate={gate}")
    wait_for(lambda: '"first done"' in former.shown)
    former.kill()
    execution = json.loads(former.shown.splitlines()[0])["execution"]
    attached = start("attach", execution, "--json")
    assert attached.process.wait(20) == 4
    *_, outcome = [json.loads(line) for line in attached.read().splitlines()]
    assert outcome["reason"] == "time limit of 4 s reached"
    assert outcome["duration_s"] < 8


def test_a_launcher_that_dies_without_a_word_is_noticed_by_whoever_attached(start, wait_for, gate):
    former = start("run", f"{TASKS}:Halves", "--json", "-p", f"gate={gate}")
    wait_for(lambda: '"first done"' in former.shown)
    former.kill()
    (launched,) = [each for each in map(json.loads, whole(former.shown)) if each["kind"] == "launcher_started"]
    attached = start("attach", launched["execution"], "--json")
    wait_for(lambda: '"executor_attached"' in attached.shown)
    os.kill(launched["pid"], signal.SIGKILL)
    gate.touch()
    assert attached.process.wait(20) == 0
    kinds = [each["kind"] for each in map(json.loads, whole(attached.read()))]
    assert "launcher_gone" in kinds


def test_with_a_full_disk_a_cancellation_takes_effect_all_the_same(halves):
    supervised = halves(FULL_AT="first done")
    status, outcome, words = supervised.end()
    assert (status, outcome["state"]) == (3, "CANCELLED")
    assert outcome["reason"].endswith(": seen enough")
    assert "File too large; what the Executor reports is delivered all the same" in words


def test_a_hook_that_takes_long_does_not_make_the_executor_suspect(halves, view, gate, wait_for):
    supervised = halves(BUSY_AT="first 40")
    wait_for(lambda: supervised.has("first 40"))
    patience = time.monotonic() + SUSPECT_S + 2 * HEARTBEAT_S
    wait_for(lambda: time.monotonic() > patience)
    assert view(supervised.execution)["contact"]["executor"] == "alive"
    gate.touch()
    status, outcome, words = supervised.end()
    assert (status, words) == (0, "")
    check_completed(outcome)


def whole(text: str) -> list[str]:
    """The lines that are complete: the last one may have been torn by a SIGKILL."""
    return [line for line in text.splitlines() if line.endswith("}")]
