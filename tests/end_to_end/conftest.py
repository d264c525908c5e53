from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

TASKS = Path(__file__).parent / "tasks.py"


class Run:
    """What a whole `theorbo run … --json` said."""

    def __init__(self, completed: subprocess.CompletedProcess[str]) -> None:
        assert "Traceback" not in completed.stderr, completed.stderr
        self.status = completed.returncode
        self.stderr = completed.stderr
        self.objects = [json.loads(line) for line in completed.stdout.splitlines()]
        assert self.objects, completed.stderr
        self.outcome = self.objects[-1]
        assert self.outcome["kind"] == "outcome", self.outcome
        self.events = self.objects[:-1]

    def kind(self, kind: str, **fields: object) -> list[dict]:
        return [e for e in self.events if e["kind"] == kind and all(e.get(k) == v for k, v in fields.items())]

    def texts(self, kind: str, **fields: object) -> list[str]:
        return [event["text"] for event in self.kind(kind, **fields)]


@pytest.fixture
def run(run_theorbo):
    """Run a Task of tasks.py on the user's own broker and return everything that was said about it."""

    def run_task(name: str, *options: str, timeout: float = 60) -> Run:
        return Run(run_theorbo("run", f"{TASKS}:{name}", "--json", *options, timeout=timeout))

    return run_task


@pytest.fixture(scope="session")
def openmpi(tmp_path_factory):
    """A virtual environment with Open MPI and nothing of ours."""
    return _environment(tmp_path_factory.mktemp("openmpi") / "venv", "mpi4py", "openmpi")


@pytest.fixture(scope="session")
def frozen(tmp_path_factory):
    """A virtual environment as an analysis group might keep it: pydantic 1, nothing of ours."""
    return _environment(tmp_path_factory.mktemp("frozen") / "venv", "pydantic<2")


def _environment(place: Path, *packages: str) -> Path:
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    subprocess.run(["uv", "venv", "-q", str(place)], check=True, env=environment)
    python = place / "bin" / "python"
    subprocess.run(["uv", "pip", "install", "-q", "--python", str(python), *packages], check=True, env=environment)
    return python
