"""examples/shell: a script that reports by `theorbo emit`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "shell" / "report.sh"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture(autouse=True)
def command_on_path(monkeypatch):
    """`theorbo` is found by the script, as in an activated environment or by `uv run`."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def test_on_the_bus_each_file_is_a_step_and_the_end_a_result(run_theorbo, tmp_path):
    (tmp_path / "one file").write_text("")
    (tmp_path / "two").write_text("two")
    done = run_theorbo("run", "--json", "--", str(SCRIPT), str(tmp_path / "one file"), str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(event["done"], event["total"]) for event in events if event["kind"] == "progress"] == [(1, 2), (2, 2)]
    assert f"{EMPTY}  {tmp_path}/one file" in [event["text"] for event in events if event["kind"] == "log"]
    assert [event["summary"] for event in events if event["kind"] == "result"] == ["2 file(s) checked"]


def test_a_file_that_is_not_there_fails_the_script(run_theorbo):
    done = run_theorbo("run", "--json", "--", str(SCRIPT), "/absent")
    assert done.returncode == 1
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert any("/absent" in event["text"] for event in events if event["kind"] == "output")


def test_without_a_bus_it_prints():
    done = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "1 file(s) checked" in done.stderr
