"""A shell script reports by `theorbo emit`."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from tests.task_runtime.inprocess import run_without_bus

EMIT = ("-m", "theorbo.task_runtime.emit")


def test_a_shell_script_can_report_everything(rank, tmp_path):
    (tmp_path / "reduced.h5").write_bytes(b"abc")
    script = f"""
        set -e
        emit() {{ {sys.executable} -m theorbo.task_runtime.emit "$@"; }}
        emit log "dark frames; subtracted"
        emit log "shot 2 is bad" --level warning
        emit progress 3 --total 10 --unit files --text reading
        emit metric rate 12.5 --unit Hz --step 4
        emit metric drift -0.5
        emit metric noise nan
        emit result --summary "3 shots" --file {tmp_path}/reduced.h5 --json '{{"shots": 3}}'
        emit result --json '[1, 2]' --name pair
    """
    subprocess.run(["sh", "-c", script], env=rank.environment, check=True, timeout=60)
    assert [(event.level, event.text) for event in rank.events("log")] == [
        ("INFO", "dark frames; subtracted"),
        ("WARNING", "shot 2 is bad"),
    ]
    progress = rank.only("progress")
    assert (progress.done, progress.total, progress.unit, progress.text) == (3, 10, "files", "reading")
    rate, drift, noise = rank.events("metric")
    assert (rate.name, rate.value, rate.unit, rate.step) == ("rate", 12.5, "Hz", 4)
    assert drift.value == -0.5
    assert math.isnan(noise.value)
    result, pair = rank.events("result")
    assert result.summary == "3 shots"
    assert [(part.name, part.value, part.path) for part in result.parts] == [
        ("shots", 3, None),
        (f"{tmp_path}/reduced.h5", None, f"{tmp_path}/reduced.h5"),
    ]
    assert (pair.name, pair.parts[0].value) == ("pair", [1, 2])


def test_without_a_bus_it_prints_as_the_functions_do():
    done = run_without_bus(*EMIT, "log", "text", "--level", "ERROR")
    assert (done.stdout, done.stderr.split(" ", 1)[1]) == ("", "ERROR text\n")
    assert run_without_bus(*EMIT, "progress", "3", "--total", "4").stderr.endswith("progress 3/4 (75 %)\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["lug", "text"], "invalid choice: 'lug'"),
        (["log"], "text"),
        (["log", "text", "--level", "LOUD"], "'LOUD'"),
        (["progress", "half"], "'half'"),
        (["metric", "rate", "fast"], "'fast'"),
        (["metric", "rate", "1", "--step", "1.5"], "'1.5'"),
        (["result"], "give --summary, --file or --json"),
        (["result", "--json", "{"], "'{' is no JSON"),
        (["result", "--file", "/no/file"], "there is no file /no/file"),
    ],
)
def test_bad_input_is_a_usage_error_that_names_it_and_reports_nothing(rank, arguments, words):
    done = rank.python(*EMIT, *arguments, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert rank.events() == []


def test_help_teaches_by_an_example():
    assert "theorbo emit progress $n --total 3" in run_without_bus(*EMIT, "--help").stdout
    assert "--level" in run_without_bus(*EMIT, "log", "--help").stdout


def test_a_result_that_cannot_be_reported_is_a_failure_and_a_log_line_is_not(rank):
    rank.press(b"2")
    assert rank.python(*EMIT, "log", "text").returncode == 0
    assert rank.python(*EMIT, "result", "--summary", "text", check=False).returncode == 1
