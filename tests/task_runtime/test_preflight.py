"""Whether a Task can be run is known, in one sentence, before anything is started."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.task_runtime.inprocess import MAIN, run, run_without_bus

PREFLIGHT = ("-m", "theorbo.task_runtime.preflight")
TASKS = """
import sys
from theorbo.task_runtime import Task

print("noise")
sys.__stdout__.write("more noise")

class CountPeaks(Task):
    '''Counts peaks.

    In all frames.
    '''
    use_mpi = True
    class Parameters:
        def __init__(self, threshold: float, frames: int = 10): self.threshold, self.frames = threshold, frames

class Other(Task):
    pass

def function(): pass
class NoTask: pass
"""


@pytest.fixture
def look(tmp_path):
    """Preflight of a SPEC in a directory with the file tasks.py: the answer."""

    def look(spec: str, parameters: dict | None = None, *options: str) -> dict:
        done = run_without_bus(*PREFLIGHT, *options, spec, stdin=json.dumps({"parameters": parameters or {}}))
        (line,) = done.stdout.splitlines()
        return json.loads(line)

    (tmp_path / "tasks.py").write_text(TASKS)
    return look


@pytest.fixture
def refused(look):
    """The same, of a Task that cannot be run: the sentence, the field, the near names."""

    def refused(spec: str, parameters: dict | None = None, *options: str) -> tuple[str, str | None, list[str]]:
        answer = look(spec, parameters, *options)
        assert answer["ok"] is False
        assert "\n" not in answer["error"]
        return answer["error"], answer["field"], answer["near"]

    return refused


def test_a_task_that_can_be_run_is_described_whatever_it_prints(look, tmp_path):
    assert look(f"{tmp_path}/tasks.py:CountPeaks", {"threshold": 2.5}) == {
        "ok": True,
        "name": "CountPeaks",
        "use_mpi": True,
        "doc": "Counts peaks.\n\nIn all frames.",
        "parameters": {"threshold": 2.5, "frames": 10},
        "shown": {"threshold": 2.5, "frames": 10},
    }


def test_a_task_of_a_module_is_found(look, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert look("tasks:Other")["name"] == "Other"


def test_an_unknown_task_has_near_matches(refused, tmp_path):
    error, _, near = refused(f"{tmp_path}/tasks.py:CountPeeks")
    assert "'CountPeeks'; did you mean CountPeaks?" in error
    assert near == ["CountPeaks"]
    error, _, near = refused(f"{tmp_path}/tasks.py:Xyz")
    assert "it has CountPeaks, Other" in error
    assert near == ["CountPeaks", "Other"]


@pytest.mark.parametrize("name", ["function", "NoTask", "Task"])
def test_what_is_no_task_is_named(refused, tmp_path, name):
    assert f"{name} in {tmp_path}/tasks.py is no Task" in refused(f"{tmp_path}/tasks.py:{name}")[0]


def test_a_missing_file_has_near_matches(refused, tmp_path):
    error, _, near = refused(f"{tmp_path}/task.py:Other")
    assert f"there is no file {tmp_path}/task.py; did you mean {tmp_path}/tasks.py?" in error
    assert near == [f"{tmp_path}/tasks.py"]
    assert "is a directory" in refused(f"{tmp_path}/:Other")[0]


def test_a_missing_module_has_near_matches(refused):
    error, _, near = refused("jsom:Other")
    assert "has no module 'jsom'" in error
    assert "json" in near
    assert "'json.decodr'; did you mean json.decoder or json.encoder?" in refused("json.decodr:Other")[0]
    assert "'nowhere.tasks': 'nowhere' is missing" in refused("nowhere.tasks:Other")[0]


@pytest.mark.parametrize("spec", ["tasks.py", "Other", ":Other", "tasks.py:", ""])
def test_a_spec_that_names_no_class_is_refused(refused, spec):
    assert f"{spec!r} names no Task; path/file.py:Class or module:Class is wanted" in refused(spec)[0]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("\n\nimport no_such_library", ["line 3: ModuleNotFoundError", "'no_such_library'", sys.executable]),
        ("x = 1\ndef f(:\n  pass", ["line 2: SyntaxError"]),
        ("def f(): return 1 / 0\n\n\nf()", ["line 1: ZeroDivisionError: division by zero"]),
        ("import sys\nsys.exit(3)", ["line 2: SystemExit: 3"]),
        ("import json\njson.loads('{')", ["line 2: json.decoder.JSONDecodeError"]),
    ],
)
def test_an_error_in_the_file_is_named_with_its_line(refused, tmp_path, code, words):
    (tmp_path / "broken.py").write_text(code)
    error = refused(f"{tmp_path}/broken.py:Other")[0]
    for word in ["broken.py cannot be imported", *words]:
        assert word in error


def test_a_file_with_the_name_of_a_loaded_module_is_refused(refused, tmp_path):
    (tmp_path / "json.py").write_text(TASKS)
    assert "json.py has the name of Python's module 'json'; rename the file" in refused(f"{tmp_path}/json.py:Other")[0]


def test_wrong_parameters_are_named(refused, tmp_path):
    error, field, near = refused(f"{tmp_path}/tasks.py:CountPeaks", {"treshold": 2.5})
    assert error == "the Task has no parameter 'treshold' (value 2.5); did you mean threshold?"
    assert (field, near) == ("treshold", ["threshold"])
    assert refused(f"{tmp_path}/tasks.py:CountPeaks")[:2] == ("parameter 'threshold' is missing", "threshold")


def test_defaults_that_json_cannot_carry_are_left_out(look, tmp_path):
    (tmp_path / "typed.py").write_text(
        textwrap.dedent("""
            import dataclasses, pathlib, pydantic, sys, threading
            from theorbo.task_runtime import Task
            class Plain(Task):
                @dataclasses.dataclass
                class Parameters:
                    n: int = 1
                    place: pathlib.Path = pathlib.Path("out")
            class Odd(Task):
                @dataclasses.dataclass
                class Parameters:
                    n: int = 1
                    lock: threading.Thread = dataclasses.field(default_factory=threading.Thread, compare=False)
            class Model(Task):
                class Parameters(pydantic.BaseModel):
                    n: int = 1
                    place: pathlib.Path = pathlib.Path("out")
        """)
    )
    assert look(f"{tmp_path}/typed.py:Plain")["parameters"] == {"n": 1, "place": "out"}
    assert look(f"{tmp_path}/typed.py:Odd")["parameters"] == {"n": 1}
    assert look(f"{tmp_path}/typed.py:Model", {"n": "2"})["parameters"] == {"n": 2, "place": "out"}


DATACLASS = """
from dataclasses import dataclass, field
from typing import List, Literal
from theorbo.task_runtime import Task, result

@dataclass
class Limits:
    low: float = 0.0

class Typed(Task):
    @dataclass
    class Parameters:
        n: int
        mode: Literal["fast", "good"] = "fast"
        shots: List[int] = field(default_factory=list)
        limits: Limits = field(default_factory=Limits)
    def _run(self):
        p = self.parameters
        self.result = [type(p).__name__, p.n, p.mode, p.shots, type(p.limits).__name__, p.limits.low]
"""


@pytest.mark.parametrize("by", ["pydantic 2", "pydantic 1"])
def test_the_types_of_a_dataclass_are_checked(look, refused, frozen, tmp_path, by):
    (tmp_path / "typed.py").write_text(DATACLASS)
    spec, options = f"{tmp_path}/typed.py:Typed", () if by == "pydantic 2" else ("--python", str(frozen))
    answer = look(spec, {"n": "3", "shots": ["4"], "limits": {"low": 1}}, *options)
    expected = {"n": 3, "mode": "fast", "shots": [4], "limits": {"low": 1.0}}
    assert (answer["parameters"], answer["shown"]) == (expected, expected)
    for given, field in (
        ({"n": "abc"}, "n"),
        ({"n": 1, "mode": "slow"}, "mode"),
        ({"n": 1, "shots": [1, "x"]}, "shots.1"),
        ({"n": 1, "limits": {"low": "x"}}, "limits.low"),
    ):
        error, at, _ = refused(spec, given, *options)
        assert at == field
        assert error.startswith(f"parameter {field!r} = ")
    assert refused(spec, {}, *options)[0] == "parameter 'n' is missing"
    error, _, near = refused(spec, {"n": 1, "mod": "fast"}, *options)
    assert ("did you mean mode?" in error, near) == (True, ["mode"])


@pytest.mark.parametrize("by", ["pydantic 2", "pydantic 1"])
def test_the_task_gets_what_the_preflight_has_checked(look, rank, inprocess, frozen, by):
    (rank.directory / "typed.py").write_text(DATACLASS)
    spec = f"{rank.directory}/typed.py:Typed"
    python = sys.executable if by == "pydantic 2" else str(frozen)
    options = () if by == "pydantic 2" else ("--python", python)
    given = look(spec, {"n": "3", "shots": ["4"], "limits": {"low": 1}}, *options)["parameters"]
    environment = inprocess({**rank.environment, "THEORBO_PARAMETERS": json.dumps(given)})
    done = run(python, *MAIN, spec, environment=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert rank.only("result").parts[0].value == ["Parameters", 3, "fast", [4], "Limits", 1.0]


def test_without_pydantic_the_types_of_a_dataclass_are_not_checked(look, refused, tmp_path):
    (tmp_path / "typed.py").write_text("import sys; sys.modules['pydantic'] = None\n" + DATACLASS)
    spec = f"{tmp_path}/typed.py:Typed"
    assert look(spec, {"n": "abc"})["parameters"]["n"] == "abc"
    assert refused(spec)[0] == "parameter 'n' is missing"


def test_a_dataclass_with_a_type_that_pydantic_does_not_know_is_not_checked(look, tmp_path):
    (tmp_path / "odd.py").write_text(
        textwrap.dedent("""
            import dataclasses, threading
            from typing import Optional
            from theorbo.task_runtime import Task
            class Odd(Task):
                @dataclasses.dataclass
                class Parameters:
                    n: int
                    thread: Optional[threading.Thread] = None
            class Own(Task):
                @dataclasses.dataclass
                class Parameters:
                    n: int
                    def __init__(self, n, twice=False): self.n = 2 * n if twice else n
        """)
    )
    assert look(f"{tmp_path}/odd.py:Odd", {"n": "abc"})["parameters"] == {"n": "abc", "thread": None}
    answer = look(f"{tmp_path}/odd.py:Own", {"n": 2, "twice": True})
    assert (answer["ok"], answer["parameters"]) == (True, {"n": 4})


def test_a_secret_in_a_dataclass_is_masked_for_others(look, tmp_path):
    (tmp_path / "secret.py").write_text(
        "import dataclasses, pydantic\nfrom theorbo.task_runtime import Task\n"
        "class Secret(Task):\n    @dataclasses.dataclass\n    class Parameters:\n        token: pydantic.SecretStr\n"
    )
    answer = look(f"{tmp_path}/secret.py:Secret", {"token": "abc"})
    assert answer["parameters"] == {"token": "abc"}
    assert answer["shown"] == {"token": "**********"}


def test_a_checked_dataclass_whose_values_are_plain_costs_no_import_of_pydantic(tmp_path):
    code = (
        "import sys, dataclasses; from theorbo.task_runtime.parameters import build_parameters\n"
        "P = dataclasses.make_dataclass('P', [('n', int), ('x', 'float'), ('s', str)])\n"
        "print(build_parameters(P, {'n': 1, 'x': 2.0, 's': ''}), 'pydantic' in sys.modules)\n"
        "print(build_parameters(P, {'n': 1, 'x': 2, 's': ''}), 'pydantic' in sys.modules)"
    )
    done = run_without_bus("-c", code)
    assert done.stdout.splitlines() == ["P(n=1, x=2.0, s='') False", "P(n=1, x=2.0, s='') True"]


def test_a_text_that_was_read_as_a_number_has_a_hint(refused, tmp_path):
    (tmp_path / "text.py").write_text(
        "import pydantic\nfrom theorbo.task_runtime import Task\n"
        "class Text(Task):\n    class Parameters(pydantic.BaseModel):\n        run: str\n"
    )
    error, field, _ = refused(f"{tmp_path}/text.py:Text", {"run": 12})
    assert field == "run"
    assert error.endswith("""valid string (it was read as JSON; on a command line -p 'run="12"' is text)""")
    assert "JSON" not in refused(f"{tmp_path}/text.py:Text", {"run": {}})[0]


def test_the_answers_parameters_can_be_given_to_the_task_again(look, refused, tmp_path):
    (tmp_path / "again.py").write_text(
        textwrap.dedent("""
            import pydantic
            from theorbo.task_runtime import Task
            class Derived(Task):
                class Parameters:
                    def __init__(self, n=1): self.n, self.square = n, n * n
            class Alias(Task):
                class Parameters(pydantic.BaseModel):
                    inner: dict[str, int] = {}
                    n: int = pydantic.Field(default=1, alias="N")
                    @pydantic.computed_field
                    def square(self) -> int: return self.n ** 2
            class Secret(Task):
                class Parameters(pydantic.BaseModel):
                    n: int = 1
                    token: pydantic.SecretStr
        """)
    )
    tasks = {"Derived": {"n": 3}, "Alias": {"N": 3}, "Secret": {"n": 3, "token": "x"}}
    for name, given in tasks.items():
        spec = f"{tmp_path}/again.py:{name}"
        once = look(spec, given)["parameters"]
        assert "*" not in str(once)
        assert "square" not in once
        assert 3 in once.values()
        assert look(spec, once)["parameters"] == once
    error, field, _ = refused(f"{tmp_path}/again.py:Alias", {"inner": {"a": "x"}})
    assert (field, error.startswith("parameter 'inner.a' = 'x': ")) == ("inner.a", True)


def test_another_python_needs_nothing_of_ours(look, refused, frozen, tmp_path):
    (tmp_path / "old.py").write_text(
        "import pydantic\n"
        "from theorbo.task_runtime import Task\n"
        "print('noise')\n"
        "assert pydantic.VERSION.startswith('1.')\n"
        "class Old(Task):\n"
        "    class Parameters(pydantic.BaseModel):\n"
        "        threshold: float = 0.5\n"
    )
    spec, by = f"{tmp_path}/old.py:Old", ("--python", str(frozen))
    assert look(spec, {"threshold": "0.25"}, *by)["parameters"] == {"threshold": 0.25}
    error, field, _ = refused(spec, {"threshold": "high"}, *by)
    assert error.startswith("parameter 'threshold' = 'high': ")
    assert field == "threshold"
    assert refused(spec, {"treshold": 1}, *by)[2] == ["threshold"]
    assert str(frozen) in refused("no_such_module:Old", {}, *by)[0]


def test_a_python_that_cannot_be_used_is_named(refused, tmp_path):
    spec = f"{tmp_path}/tasks.py:Other"
    no_program = tmp_path / "tasks.py"
    stranger = _script(tmp_path / "stranger", "echo hello")
    ancient = _script(tmp_path / "ancient", 'echo "{\\"too_old\\": \\"3.6\\"}"')
    dying = _script(tmp_path / "dying", "kill -SEGV $$")
    assert "there is no Python /no/python" in refused(spec, {}, "--python", "/no/python")[0]
    assert "cannot be executed: Permission denied" in refused(spec, {}, "--python", str(no_program))[0]
    assert (
        f"is a directory; give the Python in it, as {tmp_path}/bin/python"
        in refused(spec, {}, "--python", str(tmp_path))[0]
    )
    assert "is it a Python?" in refused(spec, {}, "--python", str(stranger))[0]
    assert "is Python 3.6; a Task needs Python 3.9 or later" in refused(spec, {}, "--python", str(ancient))[0]
    assert "was killed by signal 11" in refused(spec, {}, "--python", str(dying))[0]


def test_a_file_that_ends_the_process_while_it_is_imported_is_a_refusal_in_another_python(refused, tmp_path):
    (tmp_path / "abrupt.py").write_text("import os\nos._exit(7)")
    assert "ended with exit code 7" in refused(f"{tmp_path}/abrupt.py:Other", {}, "--python", sys.executable)[0]


def test_wrong_usage_is_told_apart(tmp_path):
    assert run_without_bus(*PREFLIGHT, check=False).returncode == 2
    assert run_without_bus(*PREFLIGHT, "a:B", check=False, stdin="no json").returncode == 2


def _script(path: Path, command: str) -> Path:
    path.write_text(f"#!/bin/sh\n{command}\n")
    subprocess.run(["chmod", "+x", str(path)], check=True)
    return path
