"""Asking, in the Task's own Python and before anything is started, whether the Task can be run.

The Executor never imports a Task: it may need another Python, and what it does at import is its own affair.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.limits import PREFLIGHT_S


class InvalidParameter(UsageError):
    """A parameter that the Task's own model refuses; `field` names it, as `name` or `name.inner`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class TaskFacts(NamedTuple):
    """What the Task says of itself."""

    name: str
    use_mpi: bool
    parameters: dict[str, Any]
    """As the Task's model has them: checked, with defaults."""
    shown: dict[str, Any]
    """The same for everybody's eyes: secrets are masked."""


def checked_spec(text: str, directory: Path) -> str:
    """`path/file.py:Class` with an absolute path, or `package.module:Class` as it is.

    Raises UsageError for anything else, and for a file that does not exist.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name.isidentifier():
        classes = _classes(Path(directory, text.rstrip(":")))
        hint = f"; it has: {', '.join(classes)}" if classes else ""
        if not classes and text and shutil.which(str(Path(directory, text)) if "/" in text else text):
            hint = f"; a program comes after --, as in: theorbo run -- {text}"
        raise UsageError(f"{text!r} names no Task; expected path/file.py:Class or package.module:Class{hint}")
    if not (place.endswith(".py") or "/" in place):
        return text
    path = Path(directory, place).absolute()
    if path.is_file():
        return f"{path}:{name}"
    there = [entry.name for entry in path.parent.glob("*.py")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there)
    raise UsageError(f"there is no file {place}" + did_you_mean(near))


def _classes(path: Path) -> list[str]:
    """What may be Tasks in a Python file: the classes whose bases look like it, else all. The file is only read."""
    try:
        body = ast.parse(path.read_bytes()).body if path.suffix == ".py" else []
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    tasks = {"Task"}
    for node in classes.values():
        if tasks & {ast.unparse(base).rpartition(".")[2] for base in node.bases}:
            tasks.add(node.name)
    return [name for name in classes if name in tasks] or list(classes)


def did_you_mean(near: list[str]) -> str:
    """`; did you mean A or B?`, or nothing."""
    return f"; did you mean {' or '.join(near)}?" if near else ""


class Preflight:
    """The question, under way in a process of its own."""

    def __init__(
        self, spec: str, python: str, environment: Mapping[str, str], work_dir: str, parameters: Mapping[str, Any]
    ) -> None:
        """Start it. Raises UsageError if the parameters are no JSON."""
        self._spec = spec
        other = ["--python", python] if python != sys.executable else []
        with tempfile.TemporaryFile() as question:  # a pipe would have to be written to while reading
            question.write(parameters_text(parameters, key="parameters").encode())
            question.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "theorbo.task_runtime.preflight", *other, spec],
                stdin=question, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=dict(environment), cwd=work_dir, start_new_session=True,
            )  # fmt: skip

    def answer(self) -> TaskFacts:
        """Wait for the answer.

        Raises UsageError with near matches if there is no such Task, InvalidParameter if it does not take these
        parameters, Unavailable if it takes too long.
        """
        with self._process as process:
            try:
                out, noise = process.communicate(timeout=PREFLIGHT_S)
            except subprocess.TimeoutExpired:
                self._kill()
                raise Unavailable(f"{self._spec}: importing it took longer than {PREFLIGHT_S:g} s") from None
        words = noise.decode(errors="backslashreplace").strip()
        if process.returncode != 0 or not out:  # it may end its process, or crash in C code
            code = process.returncode
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            last = f": {words.splitlines()[-1]}" if words else ""
            raise UsageError(f"{self._spec}: Python {how} while it was imported{last}")
        facts = json.loads(out)
        if facts["ok"]:
            parameters, shown = dict(facts["parameters"]), dict(facts["shown"])
            return TaskFacts(str(facts["name"]), bool(facts["use_mpi"]), parameters, shown)
        sentence = str(facts["error"])  # has the near matches in it
        raise InvalidParameter(str(facts["field"]), sentence) if facts.get("field") else UsageError(sentence)

    def abandon(self) -> None:
        """End the process; nobody wants the answer any more."""
        self._kill()
        with self._process:
            pass

    def _kill(self) -> None:
        """With all that it has started: another Python, and whatever a Task starts while it is imported."""
        if self._process.returncode is None:  # else the number may be somebody else's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def parameters_text(parameters: Mapping[str, Any], key: str | None = None) -> str:
    """The parameters as JSON text. Raises UsageError, naming the one that is no JSON."""
    for name, value in parameters.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"parameter {name!r} cannot be handed over as JSON: {error}") from None
    return json.dumps({key: dict(parameters)} if key else dict(parameters))
