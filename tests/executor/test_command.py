"""What `theorbo run` refuses, in one line, before anything is submitted."""

from __future__ import annotations

import pytest

from theorbo.executor.command import _given_parameters, _split

TASK = """\
from pydantic import BaseModel
from theorbo.task_runtime import Task

class FindPeaks(Task):
    class Parameters(BaseModel):
        threshold: float = 5.0
    def _run(self):
        pass
"""


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "peaks.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def refused(run_theorbo, broker):
    """Runs the command, which must say one line and submit nothing; returns the line."""

    def run(*arguments, status: int = 2) -> str:
        completed = run_theorbo("run", "--broker", broker.connection_file, *arguments)
        assert completed.returncode == status, completed
        assert completed.stdout == ""
        (line,) = completed.stderr.strip().splitlines()
        listed = run_theorbo("ps", "--all", "--json", "--broker", broker.connection_file)
        assert (listed.returncode, listed.stdout) == (0, "")
        return line

    return run


def test_an_unknown_task_is_answered_with_near_matches(refused, task):
    assert "did you mean FindPeaks?" in refused(f"{task}:FindPeeks")


def test_a_task_that_cannot_be_imported_is_told_with_its_line(refused, tmp_path):
    (tmp_path / "broken.py").write_text("\nimport no_such_module\n")
    line = refused(f"{tmp_path}/broken.py:Any")
    assert "line 2" in line
    assert "no_such_module" in line


def test_a_missing_configuration_is_named(refused, task):
    assert "nowhere.yaml" in refused(f"{task}:FindPeaks", "-c", "nowhere.yaml")


def test_a_wrong_value_in_the_configuration_is_told_with_its_place(refused, task, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("experiment: mfx1\n---\nFindPeaks:\n  threshold: high\n")
    line = refused(f"{task}:FindPeaks", "-c", config)
    assert f"{config}:4:14: " in line
    assert "threshold" in line


def test_an_unknown_parameter_is_told_with_its_place(refused, task, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("FindPeaks:\n  treshold: 3\n")
    line = refused(f"{task}:FindPeaks", "-c", config)
    assert f"{config}:2:13: " in line
    assert "threshold" in line


def test_a_wrong_parameter_of_the_command_line_is_told_as_such(refused, task):
    assert "-p threshold: " in refused(f"{task}:FindPeaks", "-p", "threshold=high")


def test_a_section_for_another_task_is_answered_with_near_matches(refused, task, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("FindPeeks: {}\n")
    assert "'FindPeaks'; did you mean FindPeeks?" in refused(f"{task}:FindPeaks", "-c", config)


def test_a_name_without_a_tasks_file_is_told_what_is_wanted(refused):
    assert "path/file.py:Class" in refused("FindPeaks")


def test_an_unknown_name_in_a_tasks_file_is_answered_with_near_matches(refused, tmp_path):
    (tmp_path / "tasks.py").write_text(
        "from theorbo.executor import BinaryExecutor\npeaks = BinaryExecutor(command=['true'])\n"
    )
    assert "did you mean peaks?" in refused("peeks", "--tasks", tmp_path / "tasks.py")


def test_a_file_without_a_task_is_answered_with_those_that_it_has(refused, task):
    assert refused(str(task)).endswith("path/file.py:Class or package.module:Class; it has: FindPeaks")


def test_a_program_that_does_not_exist_is_named(refused):
    assert "no-such-binary" in refused("--", "no-such-binary", "--flag")


def test_a_python_that_does_not_exist_is_named(refused, task):
    assert "/no/such/python" in refused(f"{task}:FindPeaks", "--python", "/no/such/python")


def test_a_spool_root_that_is_not_there_is_named(refused, task):
    assert "/no/such/root" in refused(f"{task}:FindPeaks", "--spool-root", "/no/such/root", status=6)


def test_slurm_where_there_is_none_is_named_before_anything_is_submitted(refused, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    words = refused("--launcher", "slurm", "--", "/bin/true", status=6)
    assert words.endswith(
        "there is no sbatch on PATH; --launcher slurm works where jobs are submitted, on a login node"
    )


def test_a_broker_that_does_not_answer_is_told_with_what_was_tried(run_theorbo, broker, task, monkeypatch):
    broker.kill()
    completed = run_theorbo("run", f"{task}:FindPeaks", "--broker", broker.connection_file)
    assert completed.returncode == 6
    assert "tried tcp://127.0.0.1" in completed.stderr
    assert str(broker.connection_file) in completed.stderr


@pytest.mark.parametrize("options", [["--ranks", "many"], ["--no-such-option"], []])
def test_wrong_usage_exits_with_2(run_theorbo, options):
    assert run_theorbo("run", *options).returncode == 2


def test_a_parameter_is_json_or_else_text():
    assert _given_parameters(["a=1", "b=[1, 2]", "c=007", "d=text", "e=NaN", "f=", "g=a=b", 'h="1"']) == {
        "a": 1, "b": [1, 2], "c": "007", "d": "text", "e": "NaN", "f": "", "g": "a=b", "h": "1",
    }  # fmt: skip


def test_what_stands_behind_two_dashes_belongs_to_the_program():
    assert _split(["--ranks", "2", "--", "prog", "--", "-c"]) == (["--ranks", "2"], ["prog", "--", "-c"])
    assert _split(["task"]) == (["task"], None)
