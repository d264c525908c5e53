from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.deaths import Asking, Scene

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


@pytest.fixture
def scene(tmp_path):
    """An execution that reports all the time, to be harmed. Afterwards nothing of it is left."""
    scene = Scene(tmp_path)
    yield scene
    scene.close()


@pytest.fixture
def asking(broker):
    """Asks the broker what it knows of an execution."""
    asking = Asking(broker.connection_file)
    yield asking
    asking.close()
