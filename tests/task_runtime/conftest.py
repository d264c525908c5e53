from __future__ import annotations

import subprocess

import pytest

from tests.task_runtime.inprocess import Rank
from tests.task_runtime.running_agent import RunningAgent
from theorbo.task_runtime.inprocess_path import make_inprocess_path, with_inprocess_path


@pytest.fixture
def rank(tmp_path):
    """A rank that may report, on a spool of its own."""
    return Rank(tmp_path)


@pytest.fixture
def inprocess(tmp_path):
    """A function that puts the in-process part of Theorbo on the PYTHONPATH of an environment."""
    directory = make_inprocess_path(tmp_path / "python")
    return lambda environment: with_inprocess_path(environment, directory)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, at the place where launches of a test make their spools."""
    yield from mounted(tmp_path / "spools", 1)


@pytest.fixture
def medium_disk(tmp_path):
    """A file system of 12 MiB, at the same place."""
    yield from mounted(tmp_path / "spools", 12)


def mounted(place, size_mib):
    place.mkdir(mode=0o700)
    options = f"size={size_mib}m,mode=0700"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def agent(broker, tmp_path):
    """Starts agents; afterwards none is left."""
    agents = []

    def start(**options):
        agents.append(RunningAgent(broker, tmp_path, **options))
        return agents[-1]

    yield start
    for each in agents:
        each.client.close()
        each.stop()
