from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import jsonschema
import pytest

from theorbo.executor.outcome import Outcome
from theorbo.executor.reported import Reported
from theorbo.executor.results import fetched
from theorbo.schemas import events
from theorbo.schemas.errors import ExitStatus, UsageError
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import OUTCOME_LINES
from theorbo.schemas.line_schema import line_schema
from theorbo.schemas.names import Channel, Source, SourceKind
from theorbo.schemas.states import State

EXECUTION = "0" * 31 + "1"


def result(rank: int, summary: str) -> Reported:
    header = Header(channel=Channel.RESULTS, source=Source(SourceKind.RANK, rank), position=rank + 1)
    return Reported(header, events.Result(time=1.0, summary=summary))


def outcome(state: State, reason: str = "", results: tuple[Reported, ...] = ()) -> Outcome:
    return Outcome(EXECUTION, "FindPeaks", "mfx1", "7", state, reason, 1.25, results, Path("connection.json"))


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State.COMPLETED, ExitStatus.COMPLETED),
        (State.FAILED, ExitStatus.FAILED),
        (State.CANCELLED, ExitStatus.CANCELLED),
        (State.TIMEDOUT, ExitStatus.TIMEDOUT),
        (State.LOST, ExitStatus.LOST),
        (State.RUNNING, ExitStatus.COMPLETED),
    ],
)
def test_the_exit_status_tells_the_ends_apart(state, status):
    assert outcome(state).exit_status == status


def test_the_last_line_says_how_and_why_it_ended():
    lines = outcome(State.FAILED, "rank 2: killed by SIGSEGV", (result(0, "half"),)).sentences()
    assert lines[0] == "result: half"
    assert f"theorbo result {EXECUTION}" in lines[1]
    assert lines[-1] == "FindPeaks FAILED: rank 2: killed by SIGSEGV (1.2 s)"


@pytest.mark.parametrize("state", [State.COMPLETED, State.RUNNING])
def test_as_a_line_of_json_it_is_of_the_schema_that_theorbo_prints(state):
    line = outcome(state, results=(result(0, "half"),)).as_object()
    validator = jsonschema.Draft202012Validator(line_schema())
    assert [error.message for error in validator.iter_errors(line)] == []
    assert not validator.is_valid({**line, "exit_status": "none"})


def test_a_task_that_was_let_go_is_told_with_how_to_follow_it():
    assert outcome(State.RUNNING).sentences()[1:] == [
        f"take it up again: theorbo attach {EXECUTION}",
        f"follow it: theorbo tail --execution {EXECUTION}",
    ]


def test_the_commands_that_it_advises_name_the_broker_that_was_named():
    for each in (outcome(State.RUNNING), outcome(State.COMPLETED, results=(result(0, "half"),))):
        advised = [line for line in each.sentences("the broker's.json") if ": theorbo " in line]
        assert advised
        for line in advised:
            words = shlex.split(line)
            assert words[words.index("--broker") + 1] == "the broker's.json"


def test_whoever_was_taken_over_from_says_so_and_is_no_success():
    fenced = dataclasses.replace(outcome(State.RUNNING, "another Executor has taken over"), fenced=True)
    assert fenced.exit_status == ExitStatus.UNAVAILABLE
    assert fenced.sentences()[0].startswith("another Executor has taken over; FindPeaks goes on as execution ")
    assert "--take-over" in fenced.sentences()[1]


def test_only_an_interrupt_that_let_go_is_no_success():
    let_go = outcome(State.RUNNING)
    assert let_go.exit_status == 0
    assert dataclasses.replace(let_go, interrupted=True).exit_status == 130


def test_of_a_reason_of_several_lines_the_first_is_shown():
    lines = outcome(State.FAILED, "ValueError: one\ntwo\nthree").sentences()
    assert lines[-1] == "FindPeaks FAILED: ValueError: one … (1.2 s)"


def test_results_of_many_ranks_are_named_up_to_a_bound():
    lines = outcome(State.COMPLETED, results=tuple(result(n, "x") for n in range(20))).sentences()
    assert lines[0] == "rank 0 result: x"
    assert f"and {20 - OUTCOME_LINES} more results" in lines


def test_what_a_task_says_of_itself_cannot_steer_the_terminal():
    assert all(line.isprintable() for line in outcome(State.FAILED, "\x1b[2J", (result(0, "\x07"),)).sentences())


def test_as_an_object_it_is_plain_json():
    assert outcome(State.COMPLETED, results=(result(0, "x"),)).as_object() == {
        "kind": "outcome", "execution": EXECUTION, "task": "FindPeaks", "experiment": "mfx1", "run": "7",
        "state": "COMPLETED", "reason": "", "final": True, "exit_status": 0, "duration_s": 1.25, "redelivered": 0,
        "results": [{"rank": 0, "name": "result", "summary": "x", "position": 1}],
    }  # fmt: skip


def test_only_attachments_can_be_fetched(broker):
    with pytest.raises(UsageError, match="is no attachment"):
        fetched(str(broker.connection_file), bytes(16), events.Part(name="n", mime="application/json", value=1))
    with pytest.raises(UsageError, match="which is none"):
        fetched(str(broker.connection_file), bytes(16), events.Part(mime="x", sha256="../../etc/passwd", size=1))
