"""What an Executor can run: a Task in a Python of its choice, or any program with its arguments."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from theorbo.executor.environment import find_program
from theorbo.executor.preflight import Preflight, checked_spec, did_you_mean, parameters_text
from theorbo.schemas.errors import UsageError
from theorbo.schemas.limits import PARAMETERS_BYTES

PARAMETERS_VARIABLE = "THEORBO_PARAMETERS"


class Ready(NamedTuple):
    """All that is known of a program once it was looked at."""

    name: str
    command: list[str]
    use_mpi: bool
    parameters: dict[str, Any]
    """For the journal: secrets are masked."""
    variables: dict[str, str]
    """To be added to its environment."""
    python: str | None = None
    """The interpreter that runs it, if it is a Task."""


class Inquiry(Protocol):
    """A look at a program, under way while other things are done."""

    def answer(self) -> Ready:
        """Wait for the answer. Raises UsageError, Unavailable or InternalError if it cannot be run."""

    def abandon(self) -> None:
        """Nobody wants the answer any more."""


class Program(Protocol):
    """Something that can be run."""

    def source_directory(self, work_dir: str) -> Path | None:
        """Where its source lies, if that is a place of its author's."""

    def look(self, environment: Mapping[str, str], work_dir: str, parameters: Mapping[str, Any]) -> Inquiry:
        """Begin to look at it. Raises UsageError at once for what can be seen at once."""


class TaskProgram:
    """A Task: `path/file.py:Class` or `package.module:Class`."""

    def __init__(self, spec: str, python: str | None) -> None:
        """Paths are meant from the Executor's own directory. Raises UsageError if `spec` names no Task."""
        self._spec = checked_spec(spec, Path.cwd())
        self._python = str(Path(python).absolute()) if python and "/" in python else python or sys.executable

    def source_directory(self, work_dir: str) -> Path | None:
        """The directory of the file, or of the module if it lies below the working directory."""
        place = self._spec.rpartition(":")[0]
        if place.startswith("/"):
            return Path(place).parent
        inside = Path(work_dir, *place.split("."))
        return next(
            (path.parent for path in (inside.with_suffix(".py"), inside / "__init__.py") if path.is_file()), None
        )

    def look(self, environment: Mapping[str, str], work_dir: str, parameters: Mapping[str, Any]) -> Inquiry:
        """Ask the Task itself."""
        python = find_program(self._python, environment, work_dir)
        if python is None:
            raise UsageError(f"there is no Python {self._python}; --python wants the path of an interpreter")
        text = parameters_text(parameters)
        if len(text.encode()) > PARAMETERS_BYTES:
            raise UsageError(
                f"the parameters have {len(text.encode())} bytes as JSON, at most {PARAMETERS_BYTES} can be handed "
                "over; put the large ones into a file and name it by a parameter"
            )
        return _TaskInquiry(self._spec, python, Preflight(self._spec, python, environment, work_dir, parameters))


class _TaskInquiry:
    def __init__(self, spec: str, python: str, preflight: Preflight) -> None:
        self._command = [python, "-m", "theorbo.task_runtime.main", spec]
        self._preflight = preflight

    def answer(self) -> Ready:
        facts = self._preflight.answer()
        variables = {PARAMETERS_VARIABLE: parameters_text(facts.parameters)}
        return Ready(facts.name, self._command, facts.use_mpi, facts.shown, variables, self._command[0])

    def abandon(self) -> None:
        self._preflight.abandon()


class BinaryProgram:
    """Any program, as a list: its path or name, and its arguments."""

    def __init__(self, command: Sequence[str]) -> None:
        """Raises UsageError if it is no list of text, or empty."""
        if isinstance(command, str) or not all(isinstance(argument, str) for argument in command):
            raise UsageError(f"command {command!r}: a list of text is wanted, the program first, then its arguments")
        if not command or not command[0]:
            raise UsageError("the command is empty; name a program")
        if any("\0" in argument for argument in command):
            raise UsageError(f"command {list(command)!r}: an argument cannot contain a zero byte")
        self._command = list(command)
        self.name = Path(command[0]).name or command[0]

    def source_directory(self, _work_dir: str) -> Path | None:
        """Unknown."""
        return None

    def look(self, environment: Mapping[str, str], work_dir: str, parameters: Mapping[str, Any]) -> Inquiry:
        """Find the program in its own environment. A name with a slash is meant from the working directory."""
        name = self._command[0]
        found = find_program(name, environment, work_dir)
        if found is None:
            raise UsageError(_no_program(name, environment, work_dir))
        variables = {PARAMETERS_VARIABLE: parameters_text(parameters)} if parameters else {}
        return _Known(Ready(self.name, [found, *self._command[1:]], False, dict(parameters), variables))


class _Known:
    def __init__(self, ready: Ready) -> None:
        self._ready = ready

    def answer(self) -> Ready:
        return self._ready

    def abandon(self) -> None:
        pass


def _no_program(name: str, environment: Mapping[str, str], work_dir: str) -> str:
    if "/" in name:
        path = Path(work_dir, name)
        if path.is_file():
            return f"{name} cannot be executed; chmod +x it, or name its interpreter first"
        if path.is_dir():
            return f"{name} is a directory, and no program"
        return f"there is no program {name}" + (f" in {work_dir}" if not name.startswith("/") else "")
    words = f"there is no program {name!r} on PATH ({environment.get('PATH', '')})"
    return words + (did_you_mean([f"./{name}"]) if Path(work_dir, name).is_file() else "")
