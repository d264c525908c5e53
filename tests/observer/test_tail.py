"""`theorbo tail` as a process, before a real broker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from datetime import UTC, datetime

import jsonschema
import pytest

from theorbo.schemas.line_schema import line_schema
from theorbo.schemas.names import Channel


def logs(objects) -> list[str]:
    return [item["text"] for item in objects if item["kind"] == "log"]


def test_the_present_state_comes_first_and_then_every_event_once(producer, tail):
    one = producer(experiment="mfx1", run="12")
    one.log("before")
    one.flush()
    late = tail("--json")
    snapshot = late.object()
    assert (snapshot["kind"], snapshot["execution"], snapshot["state"]) == ("snapshot", one.id, "PENDING")
    assert snapshot["heads"]["log"] == 1
    one.log("after")
    one.put(kind="output", channel=Channel.STDERR, text="on stderr")
    one.flush()
    event, output = late.object(), late.object()
    assert event.items() >= {
        "execution": one.id, "task": "galaxies", "experiment": "mfx1", "run": "12", "source": "rank:0", "rank": 0,
        "channel": "log", "number": 2, "position": 2, "kind": "log", "level": "INFO", "text": "after",
    }.items()  # fmt: skip
    assert isinstance(event["time"], float)
    assert (output["channel"], output["text"]) == ("stderr", "on stderr")


def test_20000_lines_in_a_burst_arrive_as_20000_in_order(producer, tail):
    one = producer()
    watching = tail("--json", "--kind", "log")
    watching.object()
    one.log(*map(str, range(20_000)))
    one.flush()
    assert logs(watching.until(lambda item: item["text"] == "19999")) == list(map(str, range(20_000)))


def test_plain_lines_say_who_and_what_and_cannot_move_the_cursor(producer, tail):
    one = producer()
    watching = tail()
    assert f"galaxies {one.id[-8:]} PENDING" in watching.line()
    one.log("red \x1b[31m alert\r\nrank 1 INFO not me")
    one.put(kind="log", level="ERROR", text="bad")
    one.flush()
    lines = [watching.line() for _ in range(3)]
    assert re.fullmatch(rf"\d\d:\d\d:\d\d galaxies {one.id[-8:]} rank 0 INFO red \\x1b\[31m alert", lines[0])
    assert lines[1] == "    rank 1 INFO not me"
    assert lines[2].endswith("ERROR bad")


def test_bookkeeping_is_left_out_of_plain_lines_unless_it_is_asked_for(producer, tail):
    one = producer()
    plain, asked = tail("--until-ended"), tail("--kind", "rank_ended", "--until-ended")
    one.end()
    assert not any("conservation" in line for line in plain.rest())
    assert sum("ended with exit code 0" in line for line in asked.rest()) == 1


def test_it_ends_with_the_execution_when_that_is_wanted(producer, tail):
    one, other = producer(), producer()
    watching = tail("--json", "--execution", one.id[-8:], "--until-ended")
    other.log("not this")
    other.flush()
    one.log("last words")
    one.end(exit_code=3)
    assert watching.process.wait(20) == 0
    lines = watching.rest()
    assert "last words" in "".join(lines)
    assert "not this" not in "".join(lines)
    assert any('"state":"FAILED"' in line for line in lines)


@pytest.mark.parametrize(
    ("options", "verify"), [([], ""), (["--until-ended"], ""), (["--json"], ""), (["--verify"], " --verify")]
)
def test_of_an_execution_that_has_ended_already_the_state_is_shown_and_that_is_all(
    options, verify, broker, producer, run_theorbo
):
    one = producer()
    one.end(exit_code=3)
    done = run_theorbo("tail", "--execution", one.id[-8:], "--broker", broker.connection_file, *options)
    line, *proof = done.stdout.splitlines()
    assert "FAILED" in line
    assert "exit code 3" in line
    assert bool(proof) == bool(verify)
    where = f"theorbo replay {one.id}{verify} shows its events, theorbo result {one.id} its results"
    assert (done.returncode, done.stderr) == (0, f"theorbo tail: it has ended; {where}\n")


def test_a_broker_that_is_killed_and_started_again_leaves_no_trace_in_the_stream(broker, producer, tail):
    one = producer()
    watching = tail("--json", "--kind", "log")
    watching.object()
    one.log(*map(str, range(100)))
    one.flush()
    for turn in range(1, 4):
        broker.kill()
        one.log(*map(str, range(100 * turn, 100 * turn + 100)))
        broker.restart()
        one.flush()
    assert logs(watching.until(lambda item: item["text"] == "399")) == list(map(str, range(400)))


def test_a_broker_that_is_away_is_told_once_and_awaited(broker, producer, tail):
    one = producer()
    watching = tail("--json", "--kind", "log")
    watching.object()
    broker.stop()
    watching.wait_said("waiting for it")
    one.log("meanwhile")
    broker.start()
    one.flush()
    watching.wait_said("is back")
    assert watching.object()["text"] == "meanwhile"
    assert "waiting" not in watching.said()


def test_a_tail_that_was_stopped_goes_on_without_a_gap(producer, tail):
    one = producer()
    watching = tail("--json", "--kind", "log")
    watching.object()
    watching.process.send_signal(signal.SIGSTOP)
    for number in range(2200):
        one.log(f"{number} {'x' * 5000}")
        one.pump()
    one.flush()
    watching.process.send_signal(signal.SIGCONT)
    texts = logs(watching.until(lambda item: item["text"].startswith("2199 ")))
    assert [int(text.split()[0]) for text in texts] == list(range(2200))


def test_ctrl_c_ends_it_quietly(tail):
    watching = tail()
    assert watching.end() == 130
    assert watching.said() == ""


def test_a_reader_of_its_output_may_go_away(broker, producer, run_theorbo):
    one = producer()
    one.end()
    reader, writer = os.pipe()
    os.close(reader)
    options = ("tail", "--execution", one.id, "--until-ended", "--broker", broker.connection_file)
    done = run_theorbo(*options, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--execution", "zz"], "'zz' is no execution: 4 to 32 hexadecimal digits"),
        (["--execution", "abcd1234"], "there is no execution 'abcd1234'; this broker knows of none yet"),
        (["--broker", "/nowhere/connection.json"], "no connection file /nowhere/connection.json"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(broker, run_theorbo, options, words):
    known = [] if "--broker" in options else ["--broker", broker.connection_file]
    done = run_theorbo("tail", *options, *known)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_kind_that_is_mistyped_is_watched_for_with_a_hint(tail):
    watching = tail("--kind", "metrics")
    assert watching.end() == 130


# --- the past --------------------------------------------------------------------------------------


def test_the_past_comes_first_then_the_present_state_and_each_event_once(producer, tail):
    one, other = producer(experiment="mfx1"), producer(experiment="cxi2")
    one.log(*map(str, range(100)))
    other.log("not this")
    one.flush()
    other.flush()
    watching = tail("--json", "--since", "1h", "--experiment", "mfx1")
    one.log(*map(str, range(100, 200)))
    one.flush()
    seen = watching.until(lambda item: item.get("text") == "199")
    assert logs(seen) == list(map(str, range(200)))
    assert {item["execution"] for item in seen} == {one.id}
    kinds = [item["kind"] for item in seen]
    assert kinds.index("execution_submitted") < kinds.index("snapshot")
    assert kinds.count("snapshot") == 1


def test_the_past_begins_when_it_was_asked_to(producer, tail, wait_for):
    one = producer()
    one.log("old")
    one.flush()
    wait_for(lambda: time.time() > one.journaled_at + 0.05)
    between = datetime.fromtimestamp(time.time(), UTC).isoformat()
    one.log("new")
    one.flush()
    watching = tail("--json", "--kind", "log", "--since", between)
    assert logs([watching.object()]) == ["new"]


def test_of_an_execution_that_has_ended_its_past_is_shown_and_that_is_all(broker, producer, run_theorbo):
    one = producer()
    one.log("last words")
    one.end()
    options = ("--execution", one.id, "--since", "1h", "--json", "--verify", "--broker", broker.connection_file)
    done = run_theorbo("tail", *options)
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert logs(objects) == ["last words"]
    assert (objects[0]["kind"], objects[-2]["kind"], objects[-1]["kind"]) == (
        "execution_submitted", "snapshot", "verification",
    )  # fmt: skip
    assert (done.returncode, objects[-1]["ok"]) == (0, True), objects[-1]
    assert done.stderr.endswith(f"it has ended; theorbo result {one.id} shows its results\n")


# --- the proof -------------------------------------------------------------------------------------


def test_verify_ends_with_a_table_of_streams_and_the_verdict(producer, tail):
    one = producer()
    one.log("before")
    one.flush()
    watching = tail("--verify", "--until-ended", "--execution", one.id)
    one.log(*map(str, range(500)))
    one.end()
    lines = watching.rest()
    assert watching.end() == 0, lines[-3:]
    table = [line.split() for line in lines[lines.index(next(line for line in lines if line.startswith("STREAM"))) :]]
    rows = {row[0].split("/", 1)[1]: row[1:] for row in table[1:-1]}
    assert table[0] == ["STREAM", "FIRST", "LAST", "EVENTS", "GAPS", "TOLD", "DOUBLE", "REPORTED"]
    assert rows["rank:0/log"] == ["2", "501", "500", "0", "0", "0", "501"]
    assert rows["rank:0/signals"] == ["1", "2", "2", "0", "0", "0", "2"]
    assert lines[-1].startswith("verified: ")
    assert lines[-1].endswith("gaps 0, duplicates 0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_verify_tells_the_verdict_also_when_it_is_ended(producer, tail, number):
    one = producer()
    watching = tail("--verify", "--json", "--kind", "log")
    watching.object()
    one.log("a", "b")
    one.flush()
    watching.until(lambda item: item["text"] == "b")
    watching.process.send_signal(number)
    (last,) = watching.rest()
    assert watching.process.returncode == 0
    said = json.loads(last)
    assert (said["kind"], said["ok"], said["problems"]) == ("verification", True, [])
    streams = {(item["source"], item["channel"]): item for item in said["streams"]}
    assert streams["rank:0", "log"].items() >= {"first": 1, "last": 2, "events": 2, "gaps": 0, "duplicates": 0}.items()


def test_a_broker_with_another_journal_leads_to_another_snapshot(broker, producer, tail):
    one = producer()
    watching = tail("--json", "--verify")
    watching.object()
    one.log("in the first journal")
    one.flush()
    watching.until(lambda item: item["kind"] == "log")
    broker.stop()
    for file in broker.state.glob("journal*"):
        file.unlink()
    broker.start()
    watching.wait_said("nothing is running now; what follows is live")
    two = producer()
    two.log("in the second")
    two.flush()
    seen = watching.until(lambda item: item["kind"] == "log")
    assert (seen[0]["kind"], seen[0]["execution"], seen[-1]["text"]) == (
        "execution_submitted", two.id, "in the second",
    )  # fmt: skip
    watching.process.send_signal(signal.SIGINT)
    last = json.loads(watching.rest()[-1])
    assert (watching.process.returncode, last["problems"]) == (0, [])


def test_a_reader_of_the_latest_that_was_stopped_is_told_how_much_it_has_missed(producer, tail):
    one = producer()
    watching = tail("--json", "--latest", "--verify", "--until-ended", "--execution", one.id)
    watching.object()
    watching.process.send_signal(signal.SIGSTOP)
    for number in range(4000):
        one.log(f"{number} {'x' * 5000}")
        one.pump()
    one.flush()
    watching.process.send_signal(signal.SIGCONT)
    one.end()
    objects = [json.loads(line) for line in watching.rest()]
    seen = len([item for item in objects if item["kind"] == "log"])
    missed = [item for item in objects if item["kind"] == "missed" and item["channel"] == "log"]
    assert missed
    assert seen + sum(item["last"] - item["position"] + 1 for item in missed) == 4000
    assert (watching.process.returncode, objects[-1]["ok"]) == (0, True), objects[-1]["verdict"]
    assert "skipped as wished" in objects[-1]["verdict"]
    validator = jsonschema.Draft202012Validator(line_schema())
    assert all(map(validator.is_valid, [*missed, objects[-1]]))
    assert not any(map(validator.is_valid, [{**missed[0], "last": None}, {**objects[-1], "ok": None}]))


def test_a_time_that_is_none_is_refused(broker, run_theorbo):
    done = run_theorbo("tail", "--since", "yesterday", "--broker", broker.connection_file)
    assert done.returncode == 2
    assert "'yesterday' is no time" in done.stderr
