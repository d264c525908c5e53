from __future__ import annotations

import sys

import pytest

from theorbo.executor import BinaryExecutor
from theorbo.executor.tasks_file import find_executor
from theorbo.schemas.errors import UsageError

GOOD = """\
from theorbo.executor import BinaryExecutor, Executor
peaks = Executor("peaks.py:FindPeaks", name="find peaks")
index = BinaryExecutor(command=["indexamajig"])
number = 3
"""


@pytest.fixture(autouse=True)
def _clean_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("theorbo_tasks", None)


@pytest.fixture
def write(tmp_path):
    def write_text(text: str) -> str:
        path = tmp_path / "tasks.py"
        path.write_text(text)
        return str(path)

    return write_text


def test_an_executor_is_found_by_its_variable_or_by_its_own_name(write):
    place = write(GOOD)
    assert isinstance(find_executor(place, "index"), BinaryExecutor)
    assert find_executor(place, "peaks").task == "peaks.py:FindPeaks"
    assert find_executor(place, "find peaks").name == "find peaks"


def test_an_unknown_name_is_answered_with_near_matches(write):
    with pytest.raises(UsageError, match=r"no Executor 'peeks'; did you mean peaks"):
        find_executor(write(GOOD), "peeks")


def test_a_name_that_is_near_to_none_is_answered_with_all(write):
    with pytest.raises(UsageError, match="it has find peaks, index, peaks"):
        find_executor(write(GOOD), "zzz")


def test_a_file_without_executors_says_so(write):
    with pytest.raises(UsageError, match="holds no Executor at all"):
        find_executor(write("x = 1\n"), "x")


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UsageError, match=r"no file nowhere\.py"):
        find_executor("nowhere.py", "x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\nimport no_such_module\n", r"tasks.py:2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = (\n", r"tasks.py:1: SyntaxError"),
        ("import json\n\njson.loads('{')\n", r"tasks.py:3: JSONDecodeError"),
        (
            "from theorbo.executor import BinaryExecutor\nBinaryExecutor(command=[])\n",
            r"tasks.py:2: the command is empty",
        ),
        (
            "from theorbo.executor import Executor\nls = Executor(['ls', '-l'])\n",
            r"tasks.py:2: .*a SPEC is wanted.*BinaryExecutor",
        ),
    ],
)
def test_an_error_in_the_file_is_told_with_its_line(write, text, words):
    with pytest.raises(UsageError, match=words):
        find_executor(write(text), "x")


def test_a_module_is_found_in_the_working_directory(write, tmp_path, monkeypatch):
    write(GOOD)
    (tmp_path / "tasks.py").rename(tmp_path / "my_tasks_module.py")
    monkeypatch.chdir(tmp_path)
    assert find_executor("my_tasks_module", "index")
    with pytest.raises(UsageError, match="no_such_tasks cannot be imported: ModuleNotFoundError"):
        find_executor("no_such_tasks", "x")
