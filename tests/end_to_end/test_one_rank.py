"""Whole runs of one rank: command, broker, launcher, agent, wrapper and Task, all real."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from tests.end_to_end.conftest import TASKS


@pytest.mark.parametrize("count", [20, 20_000])
def test_every_line_of_a_burst_arrives_in_order(run, count):
    run = run("Lines", "-p", f"count={count}")
    assert run.texts("log", source="rank:0") == [f"line {n}" for n in range(count)]
    assert (run.status, run.outcome["state"]) == (0, "COMPLETED")


def test_numbers_and_positions_have_no_gap(run):
    run = run("Lines", "-p", "count=500")
    lines = run.kind("log", source="rank:0")
    assert [line["number"] for line in lines] == list(range(1, 501))
    assert [line["position"] for line in lines] == list(range(1, 501))


def test_conservation_closes_the_execution_just_before_its_final_state(run):
    run = run("Lines")
    last = [event["kind"] for event in run.events if event["channel"] == "signals"][-2:]
    assert last == ["conservation", "state_changed"]
    assert run.kind("conservation")[0]["streams"]["rank:0/log"] == [20, 20]


def test_a_payload_with_any_bytes_arrives_as_it_was(run, run_theorbo, tmp_path):
    run = run("AnyBytes")
    saved = run_theorbo("result", run.outcome["execution"], "--save", str(tmp_path / "out"))
    assert saved.returncode == 0, saved.stderr
    blobs = [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".bin"]
    assert [path.read_bytes() for path in blobs] == [bytes(range(256)) * 1000]
    parts = run.kind("result")[0]["parts"]
    assert [part["value"] for part in parts if part["name"] == "text"] == ["\x00\x1e\n;;;é\U0001f52d"]


def test_output_beside_reports_confuses_nobody(run):
    run = run("Noisy")
    assert run.texts("log", source="rank:0") == [f"line {n}" for n in range(50)]
    assert run.texts("output", channel="stdout") == [f"output {n}" for n in range(50)]
    stderr = run.texts("output", channel="stderr")
    assert stderr[:50] == [f"error text {n}" for n in range(50)]
    assert stderr[50].startswith("\\xff\\xfe no utf-8")
    assert stderr[51] == "no line end"
    assert run.status == 0


def test_last_words_before_a_segfault_are_delivered_and_the_signal_is_named(run):
    run = run("LastWords")
    assert "last words" in run.texts("log")
    assert (run.status, run.outcome["state"]) == (1, "FAILED")
    assert "SIGSEGV" in run.outcome["reason"]


def test_an_exit_code_is_the_reason(run):
    run = run("Exit3")
    assert (run.status, run.outcome["state"]) == (1, "FAILED")
    assert "exit code 3" in run.outcome["reason"]


def test_an_uncaught_exception_is_the_reason_with_its_traceback(run):
    run = run("Raises")
    assert (run.status, run.outcome["state"]) == (1, "FAILED")
    assert run.outcome["reason"] == "ValueError: no beam in shot 17"
    assert "in _run" in run.kind("task_failed")[0]["traceback"]


@pytest.mark.parametrize("stubborn", ["false", "true"])
def test_a_time_limit_ends_the_task(run, stubborn):
    run = run("Sleeps", "-p", f"stubborn={stubborn}", "--time-limit", "1", "--grace", "1")
    assert (run.status, run.outcome["state"]) == (4, "TIMEDOUT")
    assert "1 s" in run.outcome["reason"]


def test_a_binary_that_does_not_exist_is_named_and_nothing_is_started(run_theorbo):
    completed = run_theorbo("run", "--", "no-such-binary", "--flag")
    assert completed.returncode == 2
    assert "no-such-binary" in completed.stderr
    assert run_theorbo("ps", "--all", "--json").stdout == ""


def test_an_unsendable_part_fails_the_task_and_the_rest_is_kept(run):
    run = run("Unsendable")
    assert (run.status, run.outcome["state"]) == (1, "FAILED")
    assert "lock" in run.outcome["reason"]
    parts = {part["name"]: part for part in run.kind("result")[0]["parts"]}
    assert parts["good"]["value"] == [1, 2, 3]
    assert "lock" in parts["bad"]["problem"]


def test_every_way_to_report_arrives(run):
    run = run("Everything")
    assert "from logging" in run.texts("log", level="WARNING")
    assert any("from warnings" in text for text in run.texts("log", level="WARNING"))
    assert run.kind("progress")[0]["total"] == 2
    assert run.kind("metric")[0]["name"] == "rate"
    assert run.kind("result")[0]["summary"] == "done"


def test_what_a_task_does_is_told_in_its_order(run):
    run = run("InOrder")
    kinds = [event["kind"] for event in run.events if event["source"] == "rank:0"]
    assert kinds == ["rank_started", *["progress"] * 100, "metric", "log", "result", "rank_ended"]


def test_what_led_to_a_failure_is_told_before_it(run):
    run = run("FailsAfterOutput")
    told = [event.get("text") or event["kind"] for event in run.events if event["source"] == "rank:0"]
    assert told[0] == "rank_started"
    assert sorted(told[1:4]) == ["in the log", "on stderr", "on stdout"]
    assert told[4:] == ["task_failed", "rank_ended"]


def test_threads_forks_and_multiprocessing_all_arrive_untorn(run):
    run = run("Family")
    assert run.status == 0, run.outcome
    texts = run.texts("log", source="rank:0")
    names = [f"thread-{n}" for n in range(4)] + ["fork", "fork-0", "fork-1", "spawn-0", "spawn-1"]
    assert sorted(texts) == sorted(f"{name} {n}" for name in names for n in range(200))
    for name in names:
        assert [text for text in texts if text.startswith(f"{name} ")] == [f"{name} {n}" for n in range(200)]
    assert not run.kind("loss")


def test_a_task_runs_in_an_environment_with_pydantic_1_and_nothing_of_ours(run_theorbo, frozen, tmp_path):
    task = tmp_path / "old.py"
    task.write_text(
        "import pydantic\n"
        "from theorbo.task_runtime import Task, log, result\n"
        "class Old(Task):\n"
        "    class Parameters(pydantic.BaseModel):\n"
        "        threshold: float = 0.5\n"
        "    def _run(self):\n"
        "        assert pydantic.VERSION.startswith('1.')\n"
        "        log(f'threshold {self.parameters.threshold}')\n"
        "        result({'threshold': self.parameters.threshold}, summary='old but fine')\n"
    )
    completed = run_theorbo("run", f"{task}:Old", "--python", str(frozen), "-p", "threshold=0.25")
    assert completed.returncode == 0, completed.stderr
    assert "threshold 0.25" in completed.stdout
    wrong = run_theorbo("run", f"{task}:Old", "--python", str(frozen), "-p", "threshold=high")
    assert wrong.returncode == 2
    assert "threshold" in wrong.stderr


def test_a_result_is_the_same_after_the_run(run, run_theorbo, tmp_path):
    task = tmp_path / "arrays.py"
    task.write_text(
        "from theorbo.task_runtime import Task, result\n"
        "class Arrays(Task):\n"
        "    def _run(self):\n"
        "        import numpy\n"
        "        result({'image': numpy.arange(6_000_000, dtype='f4').reshape(2000, 3000)[:, ::2]}, summary='big')\n"
    )
    completed = run_theorbo("run", f"{task}:Arrays")
    assert completed.returncode == 0, completed.stderr
    (view,) = map(json.loads, run_theorbo("ps", "--all", "--json").stdout.splitlines())
    listing = run_theorbo("result", view["execution"], "--save", str(tmp_path / "out"))
    assert listing.returncode == 0, listing.stderr
    (saved,) = (tmp_path / "out").rglob("*.npy")
    image = np.load(saved, allow_pickle=False)
    expected = np.arange(6_000_000, dtype="f4").reshape(2000, 3000)[:, ::2]
    assert hashlib.sha256(image.tobytes()).digest() == hashlib.sha256(expected.tobytes()).digest()


def test_an_unknown_task_is_answered_with_near_matches(run_theorbo):
    completed = run_theorbo("run", f"{TASKS}:Emty")
    assert completed.returncode == 2
    assert "Empty" in completed.stderr


def test_a_script_finds_the_command_to_report_with(run_theorbo, tmp_path, monkeypatch):
    script = tmp_path / "report.sh"
    script.write_text("#!/bin/sh\ntheorbo emit log 'from a script'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    completed = run_theorbo("run", "--", str(script))
    assert "from a script" in completed.stdout, completed
