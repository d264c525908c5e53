from __future__ import annotations

import pytest

from tests.task_runtime.inprocess import Rank
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
