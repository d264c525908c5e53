"""What goes into the journal with every execution: where, by whom, in what, and from which sources.

Never a secret: variables are chosen by name, and none whose name looks like one is taken.
"""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from theorbo.schemas import __version__
from theorbo.schemas.limits import PROBE_S, PROVENANCE_COMMAND_BYTES, PROVENANCE_VALUE_BYTES

_VARIABLES = re.compile(
    "PATH|LD_LIBRARY_PATH|LD_PRELOAD|PYTHONPATH|PYTHONHOME|VIRTUAL_ENV|CONDA_.*|SLURM_.*|OMP_NUM_THREADS|"
    "CUDA_VISIBLE_DEVICES|HOSTNAME|LANG|LC_ALL|TZ|SIT_.*|LOADEDMODULES|MODULEPATH"
)
_SECRETS = re.compile("KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE|JWT", re.IGNORECASE)


def selected(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that tell what a Task ran in; long values are cut."""
    return {
        name: _cut(value)
        for name, value in sorted(environment.items())
        if _VARIABLES.fullmatch(name) and not _SECRETS.search(name)
    }


def shown_command(command: Sequence[str]) -> list[str]:
    """The command line for the journal; a long one is cut."""
    shown: list[str] = []
    size = 0
    for argument in command:
        size += len(argument)
        if size > PROVENANCE_COMMAND_BYTES:
            return [*shown, f"… ({len(command) - len(shown)} more arguments)"]
        shown.append(_cut(argument))
    return shown


def _cut(text: str) -> str:
    return text if len(text) <= PROVENANCE_VALUE_BYTES else f"{text[:PROVENANCE_VALUE_BYTES]}…"


def versions() -> dict[str, str]:
    """Of Theorbo, of the Executor's Python, of the system."""
    system = os.uname()  # platform.platform() would start a process
    return {
        "theorbo": __version__,
        "python": platform.python_version(),
        "platform": f"{system.sysname}-{system.release}-{system.machine}",
    }


def user() -> str:
    """Who runs the Executor; the number where the name is unknown (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def host() -> str:
    """The machine of the Executor."""
    return socket.gethostname()


class GitQuestion:
    """Asks git about a directory, in the background. One process: commit, branch and changes in one answer."""

    def __init__(self, directory: Path | None) -> None:
        self._process: subprocess.Popen[str] | None = None
        if directory is None:
            return
        # Nothing of the repository's own configuration is to be run, and no lock taken.
        command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", "status", "--porcelain=v2", "--branch"]
        try:
            self._process = subprocess.Popen(
                [*command, "--untracked-files=no"], cwd=directory, text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            return  # no git here

    def answer(self) -> dict[str, Any] | None:
        """`commit`, `branch` (None when detached) and `dirty`; None where there is no repository or no git."""
        if self._process is None:
            return None
        with self._process as process:
            try:
                status, _ = process.communicate(timeout=PROBE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return None
        return git_state(status) if process.returncode == 0 else None


def git_state(status: str) -> dict[str, Any] | None:
    """What `git status --porcelain=v2 --branch` says; None before the first commit."""
    lines = status.splitlines()
    headers = dict(line[2:].partition(" ")[::2] for line in lines if line.startswith("# "))
    commit, branch = headers.get("branch.oid"), headers.get("branch.head")
    if not commit or commit == "(initial)":
        return None
    return {
        "commit": commit,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(not line.startswith("# ") for line in lines),
    }
