from __future__ import annotations

import json
import time

import pytest

from theorbo.schemas import events
from theorbo.schemas.frames import Flag, Header
from theorbo.schemas.names import Channel, Source, SourceKind
from theorbo.schemas.presentation import (
    as_line,
    as_object,
    first_line,
    json_line,
    numbered,
    part_text,
    single_events,
    style_of,
    visible,
    worth_a_line,
)
from theorbo.schemas.records import encode_record

HEADER = Header(
    execution=bytes(15) + b"\x01", channel=Channel.LOG, source=Source(SourceKind.RANK, 2), first=4, position=9
)
VIEW = {"task": "FindPeaks", "experiment": "mfx1", "run": "007"}


def line(event: events.EventBase, **options) -> str:
    return as_line(HEADER, VIEW, event, **options)


def test_each_event_of_a_batch_has_a_number_and_a_position_of_its_own():
    body = b"".join(encode_record({"kind": "log", "time": n, "text": f"line {n}"}) for n in range(3))
    found = list(single_events(HEADER._replace(count=3), body))
    assert [(h.first, h.position, h.count, e.text) for h, e in found] == [
        (4, 9, 1, "line 0"), (5, 10, 1, "line 1"), (6, 11, 1, "line 2"),
    ]  # fmt: skip


def test_an_object_has_its_place_and_the_events_own_fields():
    assert as_object(HEADER, VIEW, events.Log(time=1.5, pid=7, text="hello")) == {
        "execution": "0" * 30 + "01", "task": "FindPeaks", "experiment": "mfx1", "run": "007", "source": "rank:2",
        "rank": 2, "channel": "log", "number": 4, "position": 9, "kind": "log", "time": 1.5, "pid": 7,
        "level": "INFO", "text": "hello", "logger": "", "attachments": [],
    }  # fmt: skip


def test_an_object_tells_its_place_in_the_journal_once_it_has_one():
    journaled = HEADER._replace(sequence=77, time=1234.5)
    shown = as_object(journaled, VIEW, events.Log(time=1.5, text="hello"))
    assert (shown["sequence"], shown["journaled"], shown["time"]) == (77, 1234.5, 1.5)


@pytest.mark.parametrize("field", ["sequence", "journaled", "late", "redelivered"])
def test_an_unknown_kind_cannot_say_what_only_the_broker_knows(field):
    event = events.decode_event(f'{{"kind":"novel","time":1,"{field}":"forged"}}'.encode())
    assert field not in as_object(HEADER, VIEW, event)


def test_fields_of_an_unknown_kind_are_shown_but_cannot_pretend_to_another_place():
    event = events.decode_event(b'{"kind":"novel","time":1,"execution":"forged","rank":0,"colour":"red"}')
    shown = as_object(HEADER, VIEW, event)
    assert (shown["kind"], shown["colour"], shown["rank"]) == ("novel", "red", 2)
    assert shown["execution"] == HEADER.execution.hex()


@pytest.mark.parametrize("time_s", [1e300, -1e18])
def test_an_impossible_time_ends_nobody_who_watches(time_s):
    assert line(events.Log(time=time_s, text="hello")).endswith(" rank 2 INFO hello")


def test_what_came_after_the_final_state_is_marked():
    late = HEADER._replace(flags=Flag.LATE)
    assert as_object(late, VIEW, events.Log(time=1.0, text=""))["late"] is True


def test_json_is_one_line_of_pure_json_whatever_is_in_it():
    text = json_line({"kind": "x", "value": float("nan"), "text": "a\nb\x1b[31m\x9b\u2028\u202e\ud800é"})
    assert text.isprintable()
    assert json.loads(text)["value"] == "NaN"
    assert json.loads(text)["text"].startswith("a\nb\x1b[31m\x9b\u2028\u202e")


def test_a_line_has_time_origin_and_text():
    clock = time.strftime("%H:%M:%S", time.localtime(0))
    assert line(events.Log(time=0.0, text="hello")) == f"{clock} rank 2 INFO hello"
    assert line(events.Log(time=0.0, text="hello"), with_task=True) == f"{clock} FindPeaks 00000001 rank 2 INFO hello"


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "\x9b31m", "a\rb", "\u202etxt.exe", "\x00", "\ud800"])
def test_what_a_task_writes_cannot_steer_the_terminal(text):
    shown = line(events.Log(time=0.0, text=text))
    assert shown.isprintable() or shown.replace("\n", "").isprintable()
    shown.encode()


def test_a_text_of_several_lines_cannot_pose_as_a_line_of_ours():
    shown = line(events.Log(time=0.0, text="first\n12:00:00 rank 0 INFO forged")).splitlines()
    assert shown[1] == "    12:00:00 rank 0 INFO forged"


@pytest.mark.parametrize(("text", "line"), [("one", "one"), ("one\ntwo", "one …"), ("", ""), ("\none\n", "one")])
def test_of_several_lines_the_first_one_says_that_there_are_more(text, line):
    assert first_line(text) == line


def test_visible_text_stays_as_it_is():
    assert visible("tab\tand é 🔭") == "tab\tand é 🔭"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (events.Progress(time=0.0, done=3, total=4, unit="tiles", text="north"), "progress 3/4 tiles (75 %) north"),
        (events.Progress(time=0.0, done=3), "progress 3"),
        (events.Progress(time=0.0, done=199, total=200), "progress 199/200 (99 %)"),
        (events.Progress(time=0.0, done=0.29, total=1), "progress 0.29/1 (29 %)"),
        (events.Progress(time=0.0, done=1 - 1e-12, total=1), "progress 1/1 (99 %)"),
        (events.Progress(time=0.0, done=0.3, total=0.3), "progress 0.3/0.3 (100 %)"),
        (events.Progress(time=0.0, done=float("nan"), total=2), "progress nan/2"),
        (
            events.ControlDone(time=0.0, action="cancel", detail="all ranks have ended"),
            "cancel carried out: all ranks have ended",
        ),
        (events.Metric(time=0.0, name="rate", value=1.5, unit="Hz", step=2), "metric rate = 1.5 Hz at step 2"),
        (events.Result(time=0.0, summary="42 peaks"), "result: 42 peaks"),
        (events.Result(time=0.0, parts=[events.Part(mime="application/json", value=3)]), "result: 3"),
        (events.RankEnded(time=0.0, signal="SIGSEGV"), "killed by SIGSEGV"),
        (events.RankEnded(time=0.0, exit_code=3), "ended with exit code 3"),
        (events.StateChanged(time=0.0, state="FAILED", previous="RUNNING", reason="why"), "FAILED: why"),
        (events.Loss(time=0.0, stream="rank:2/log", count=3, detail="torn"), "lost on rank:2/log: 3 events, torn"),
        (events.ControlRequested(time=0.0, action="cancel", by="ada", reason="r"), "cancel requested by ada: r"),
        (events.AgentStarted(time=0.0, host="n1"), "agent_started: host n1"),
        (events.ControlDone(time=0.0, action="stop", refused="it has none"), "stop refused: it has none"),
        (events.ControlAccepted(time=0.0, action="stop"), "stop accepted"),
        (
            events.JobSubmitted(time=0.0, scheduler="slurm", job="4711", details={"partition": "milano", "nodes": "2"}),
            "slurm has taken it as job 4711 (partition milano, nodes 2)",
        ),
        (events.JobChanged(time=0.0, job="4711", state="PENDING", reason="Resources"), "job 4711 PENDING (Resources)"),
        (events.JobChanged(time=0.0, job="7", state="RUNNING", nodes="n[1-2]"), "job 7 RUNNING on n[1-2]"),
        (events.NodeLost(time=0.0, node=1, host="n2", reason="ssh ended"), "node 1 (n2) is lost: ssh ended"),
        (events.NodeLost(time=0.0, node=1, host="", reason="no route"), "node 1 is lost: no route"),
        (
            events.AgentGivenUp(time=0.0, node=1, host="n2", reason="silent"),
            "node 1 (n2) is not waited for any more: silent",
        ),
        (
            events.ContactChanged(time=30.0, peer="agent:1", contact="alive", previous="silent", heard=10.0),
            "agent 1 is heard again, after 20 s",
        ),
        (events.RanksStopped(time=0.0, ranks=[0, 1, 2, 7]), "stopped: ranks 0-2, 7"),
        (events.RanksContinued(time=0.0, ranks=[3]), "running again: rank 3"),
        (
            events.Usage(
                time=0.0,
                host="n1",
                cpu=1.95,
                memory_bytes=3 << 30,
                node_cpu=2.2,
                node_memory_bytes=5 << 30,
                ranks={0: (1.0, 1, 0.0), 1: (0.9, 1, 0.0)},
            ),
            "n1: 2 ranks use 1.9 cores, 3.0 GiB; the node 2.2 cores, 5.0 GiB",
        ),
        (
            events.RankEnded(time=0.0, signal="SIGKILL", out_of_memory=True, memory_limit_bytes=512 << 20),
            "killed by SIGKILL, out of memory within the limit of 512.0 MiB",
        ),
        (
            events.LauncherGone(time=0.0, reason="its job is over", scheduler_state="TIMEOUT"),
            "launcher is gone: its job is over (the scheduler says TIMEOUT)",
        ),
    ],
)
def test_every_kind_reads_as_a_sentence(event, text):
    assert line(event).endswith(f" rank 2 {text}")


def test_numbers_in_sequence_are_shown_as_ranges():
    assert numbered("rank", range(512)) == "ranks 0-511"
    assert numbered("rank", range(0, 40, 2)) == "ranks 0, 2, 4, 6, 8, 10, 12, 14, …"
    assert numbered("rank", []) == "ranks (none)"


def test_a_line_of_output_says_which_stream_it_came_on():
    shown = as_line(HEADER._replace(channel=Channel.STDERR), VIEW, events.Output(time=0.0, text="oops"))
    assert shown.endswith("rank 2 stderr: oops")


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (events.Part(name="n", mime="application/json", value=[1, 2]), "n = [1,2]"),
        (events.Part(name="image", mime="image/png", sha256="ab", size=12), "image (image/png, 12 bytes)"),
        (events.Part(name="lock", mime="", problem="a lock"), "lock (not sent: a lock)"),
        (events.Part(name="f", mime="", path="/data/x.h5"), "f /data/x.h5"),
    ],
)
def test_a_part_is_told_in_a_few_words(part, text):
    assert part_text(part) == text


def test_bookkeeping_is_not_worth_a_line_and_a_bad_end_is():
    assert not worth_a_line(events.AgentStarted(time=0.0, host="n"))
    assert not worth_a_line(events.RankEnded(time=0.0, exit_code=0))
    assert worth_a_line(events.RankEnded(time=0.0, exit_code=1))
    assert worth_a_line(events.Log(time=0.0, text=""))


def test_what_went_wrong_is_red():
    assert style_of(events.Log(time=0.0, level="ERROR", text="")) == "red"
    assert style_of(events.Log(time=0.0, text="")) == ""
    assert style_of(events.TaskFailed(time=0.0, error="")) == "red"
