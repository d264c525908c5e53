"""Docker for the tests that need it; and, where they are left out, a word about which these were."""

import os
import subprocess

import pytest

# Before testcontainers is imported: its reaper is an image that would have to be pulled.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

PROJECT = "theorbo-tests"

left_out = []


def pytest_deselected(items):
    """Remember which tests of this directory the marker expression has left out."""
    left_out.extend(item.nodeid for item in items if item.get_closest_marker("containers"))


def pytest_terminal_summary(terminalreporter):
    """Say which they were."""
    if left_out:
        terminalreporter.section("left for `pytest -m containers`", sep="-")
        for nodeid in left_out:
            terminalreporter.line(nodeid)


@pytest.fixture(scope="session")
def compose_project():
    """The name of the compose project of the tests; what a killed test run has left behind is removed."""
    remove = ["docker", "compose", "--project-name", PROJECT, "down", "--volumes", "--remove-orphans", "--timeout", "2"]
    subprocess.run(remove, check=True, capture_output=True, timeout=60)
    yield PROJECT
    subprocess.run(remove, check=True, capture_output=True, timeout=60)
