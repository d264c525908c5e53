"""The environment of a Task: a copy of the Executor's, changed by what its author asks for.

The Executor's own `os.environ` is read, never written, so that several Executors of one process may have
environments of their own.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.limits import SHELL_SOURCE_S

UpdatePath = Literal["prepend", "append", "overwrite"]

_OUTER_VARIABLES = {"THEORBO_SPOOL", "THEORBO_EXECUTION", "THEORBO_RANK", "THEORBO_RANKS", "THEORBO_PARAMETERS"}
_OUTER_PREFIXES = ("PMI_", "PMIX_", "OMPI_COMM_WORLD_", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
"""What an execution or an MPI rank inside of which the Executor runs has set for itself: a Task of ours that
inherited it would report into the wrong spool or believe to be that rank."""

_SHELL_VARIABLES = ("_", "SHLVL", "PWD", "OLDPWD")
"""What a shell keeps for its own use; not taken over from a sourced script."""

_SOURCE = 'set -e; . "$1" >&2; exec "$2" -0'


def own_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A copy of the Executor's environment without what would make a Task take itself for another one."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _OUTER_VARIABLES and not name.startswith(_OUTER_PREFIXES)
    }


def updated(environment: Mapping[str, str], changes: Mapping[str, str], update_path: UpdatePath) -> dict[str, str]:
    """`environment` with `changes`. Of PATH, `update_path` says what becomes of the old value; all other
    variables are replaced.

    Raises UsageError for an unknown `update_path` or something that cannot be an environment variable.
    """
    checked_update_path(update_path)
    for name, value in changes.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"environment variable {name!r}: name and value must be text, not {value!r}")
        if not name or "=" in name or "\0" in name + value:
            raise UsageError(f"{name!r} cannot be an environment variable with the value {value!r}")
    result = {**environment, **changes}
    if "PATH" in changes and environment.get("PATH"):
        old, new = environment["PATH"], changes["PATH"]
        result["PATH"] = {"prepend": f"{new}:{old}", "append": f"{old}:{new}", "overwrite": new}[update_path]
    return result


def checked_update_path(update_path: str) -> None:
    """Raises UsageError unless `update_path` is one of `UpdatePath`."""
    if update_path not in get_args(UpdatePath):
        raise UsageError(f"update_path {update_path!r}: expected one of {', '.join(get_args(UpdatePath))}")


def sourced(environment: Mapping[str, str], script: Path) -> dict[str, str]:
    """The environment after bash has sourced `script` in it, stopping at the first command that fails.

    Raises UsageError with the script's own words if it fails or cannot be read, Unavailable if there is no
    bash or it takes longer than `SHELL_SOURCE_S`.
    """
    if not script.is_file():
        raise UsageError(f"shell script {script} is no file; shell_source wants the path of a script")
    env = _program("env", environment)
    command = [_program("bash", environment), "--noprofile", "--norc", "-c", _SOURCE, "bash", str(script.absolute())]
    with tempfile.TemporaryFile() as said:  # of a pipe the end would come only when all that it has started has ended
        try:
            done = subprocess.run(
                [*command, env], env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said,
                timeout=SHELL_SOURCE_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unavailable(f"shell script {script} did not end within {SHELL_SOURCE_S:g} s") from None
        said.seek(0)
        words = said.read().decode(errors="backslashreplace").strip()
    if done.returncode != 0 or not done.stdout:
        how = f"failed with exit code {done.returncode}" if done.returncode else "ended the shell that sourced it"
        raise UsageError(f"shell script {script} {how}" + (f": {words}" if words else ""))
    found = dict(os.fsdecode(line).partition("=")[::2] for line in done.stdout.rstrip(b"\0").split(b"\0"))
    kept = {name: environment[name] for name in _SHELL_VARIABLES if name in environment}
    return {**{name: value for name, value in found.items() if name not in _SHELL_VARIABLES}, **kept}


def _program(name: str, environment: Mapping[str, str]) -> str:
    # Not only the Task's PATH: that may be wrong just because the script is to set it right.
    found = find_program(name, environment) or find_program(name, {"PATH": os.defpath})
    if found is None:
        raise Unavailable(f"there is no {name} on PATH, which shell_source needs")
    return found


def find_program(name: str, environment: Mapping[str, str], directory: str = ".") -> str | None:
    """The program `name`, as the Task's environment would find it, or None. A name with a slash is a path,
    relative to `directory`.
    """
    if "/" in name:
        path = Path(directory, name)
        return str(path.absolute()) if path.is_file() and os.access(path, os.X_OK) else None
    for entry in environment.get("PATH", os.defpath).split(os.pathsep):
        path = Path(directory, entry, name)
        if path.is_file() and os.access(path, os.X_OK):
            return str(path.absolute())
    return None
