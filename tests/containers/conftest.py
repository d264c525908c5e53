"""Docker, for the tests that need it."""

import os
import subprocess

import pytest

# Before testcontainers is imported: its reaper is an image that would have to be pulled.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")

PROJECT = "theorbo-tests"


@pytest.fixture(scope="session")
def compose_project():
    """The name of the compose project of the tests; what a killed test run has left behind is removed."""
    remove = ["docker", "compose", "--project-name", PROJECT, "down", "--volumes", "--remove-orphans", "--timeout", "2"]
    subprocess.run(remove, check=True, capture_output=True, timeout=60)
    yield PROJECT
    subprocess.run(remove, check=True, capture_output=True, timeout=60)
