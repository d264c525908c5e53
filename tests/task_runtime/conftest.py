from __future__ import annotations

import os
import subprocess

import pytest

from tests.task_runtime.inprocess import Rank
from theorbo.task_runtime.inprocess_path import make_inprocess_path, with_inprocess_path


@pytest.fixture
def rank(tmp_path):
    """A rank that may report, on a spool of its own."""
    return Rank(tmp_path)


@pytest.fixture(scope="session")
def frozen(tmp_path_factory):
    """The Python of an environment with pydantic 1 and nothing of ours: Python 3.9 where there is one."""
    place = tmp_path_factory.mktemp("frozen") / "venv"
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    old = subprocess.run(
        ["uv", "venv", "-q", "-p", "3.9", str(place)], env=environment, capture_output=True, check=False
    )
    if old.returncode != 0:
        subprocess.run(["uv", "venv", "-q", str(place)], env=environment, check=True)
    python = place / "bin" / "python"
    subprocess.run(["uv", "pip", "install", "-q", "-p", str(python), "pydantic<2"], env=environment, check=True)
    return python


@pytest.fixture
def inprocess(tmp_path):
    """A function that puts the in-process part of Theorbo on the PYTHONPATH of an environment."""
    directory = make_inprocess_path(tmp_path / "python")
    return lambda environment: with_inprocess_path(environment, directory)
