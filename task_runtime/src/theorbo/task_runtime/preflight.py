"""Looks whether a Task can be run, before anything is started for it.

`python -m theorbo.task_runtime.preflight [--python P] SPEC` reads `{"parameters": {…}}` from stdin, imports the
Task, validates the parameters, and prints one JSON object::

    {"ok": true, "name": "Count", "use_mpi": false, "doc": "…", "parameters": {…}, "shown": {…}}
    {"ok": false, "error": "one sentence", "field": null, "near": []}

Exit status 0 in both cases. With `--python` the same is done by another Python, which needs nothing of ours.
What the Task prints while it is imported goes to stderr.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from theorbo.schemas.errors import ExitStatus, UsageError
from theorbo.task_runtime.loading import LoadError, load_task
from theorbo.task_runtime.parameters import ParameterError, shown_parameters, validated_parameters
from theorbo.task_runtime.report import SPOOL_VARIABLE

# Valid in any Python, however old: it is the first thing that another Python sees of us.
_IN_OTHER_PYTHON = """\
import sys
if sys.version_info < (3, 9):
    import json
    print(json.dumps({"too_old": "%d.%d" % sys.version_info[:2]}))
    sys.exit(0)
from theorbo.task_runtime.preflight import main
sys.exit(main(sys.argv[1:]))
"""


def main(argv: list[str]) -> int:
    """Print what was found out; the exit status."""
    if len(argv) == 3 and argv[0] == "--python":
        answer = look_by(argv[1], argv[2], sys.stdin.read())
        print(json.dumps(answer))
        return ExitStatus.COMPLETED
    if len(argv) != 1:
        print("usage: python -m theorbo.task_runtime.preflight [--python P] SPEC < parameters.json", file=sys.stderr)
        return ExitStatus.USAGE
    os.environ.pop(SPOOL_VARIABLE, None)  # nothing is to be reported to whatever execution we may be in
    request = json.loads(sys.stdin.read() or "{}")
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # also what is printed at exit, and by C code
        json.dump(look(argv[0], request.get("parameters") or {}), answers)
        answers.write("\n")
    return ExitStatus.COMPLETED


def look(spec: str, values: dict[str, Any]) -> dict[str, Any]:
    """What there is to know about a Task, in this Python."""
    try:
        task = load_task(spec)
        model = getattr(task, "Parameters", None)
        parameters = validated_parameters(model, values)
        shown = shown_parameters(model, parameters)
    except (LoadError, ParameterError) as error:
        return _refusal(str(error), getattr(error, "field", None), error.near)
    return {
        "ok": True,
        "name": task.__name__,
        "use_mpi": bool(task.use_mpi),
        "doc": _documentation(task),
        "parameters": parameters,
        "shown": shown,
    }


def look_by(python: str, spec: str, request: str) -> dict[str, Any]:
    """The same, by another Python. `request` is the JSON text for its stdin."""
    from theorbo.task_runtime.inprocess_path import make_inprocess_path, with_inprocess_path

    with tempfile.TemporaryDirectory(prefix="theorbo-preflight-") as directory:
        environment = with_inprocess_path(dict(os.environ), make_inprocess_path(Path(directory)))
        try:
            command = [python, "-c", _IN_OTHER_PYTHON, spec]
            done = subprocess.run(
                command, input=request, env=environment, stdout=subprocess.PIPE, text=True, check=False
            )
        except OSError as error:
            return _refusal(_unusable(python, error))
    return _answer_of(python, done.returncode, done.stdout)


def _answer_of(python: str, code: int, output: str) -> dict[str, Any]:
    try:
        answer = json.loads(output)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        end = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        said = f", and said {output[:80]!r}" if output.strip() else ""
        return _refusal(f"{python} {end} while it loaded the Task{said}; is it a Python?")
    if "too_old" in answer:
        return _refusal(f"{python} is Python {answer['too_old']}; a Task needs Python 3.9 or later")
    return answer


def _unusable(python: str, error: OSError) -> str:
    if Path(python).is_dir():
        return f"{python} is a directory; give the Python in it, as {Path(python) / 'bin' / 'python'}"
    if isinstance(error, FileNotFoundError):
        return f"there is no Python {python}; give the path of a Python interpreter"
    return f"{python} cannot be executed: {error.strerror}; give the path of a Python interpreter"


def _refusal(error: str, field: str | None = None, near: list[str] | None = None) -> dict[str, Any]:
    return {"ok": False, "error": error, "field": field, "near": near or []}


def _documentation(task: type) -> str:
    import inspect

    own = vars(task).get("__doc__")
    return inspect.cleandoc(own) if own else ""


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (UsageError, ValueError) as error:
        print(f"preflight: {error}", file=sys.stderr)
        sys.exit(ExitStatus.USAGE)
