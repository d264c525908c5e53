from __future__ import annotations

import os
import subprocess
import sys

from theorbo.task_runtime.inprocess_path import make_inprocess_path, with_inprocess_path


def test_a_python_without_anything_of_ours_finds_the_in_process_part_there_and_only_that(tmp_path):
    directory = make_inprocess_path(make_inprocess_path(tmp_path / "python"))  # may be done again
    probe = "import theorbo, theorbo.schemas.spool, theorbo.task_runtime; print(*theorbo.__path__)"
    environment = {**os.environ, "PYTHONPATH": str(directory)}
    answer = subprocess.run([sys.executable, "-S", "-c", probe], env=environment, capture_output=True, text=True)
    assert answer.stdout == f"{directory / 'theorbo'}\n", answer.stderr
    assert sorted(entry.name for entry in (directory / "theorbo").iterdir()) == ["schemas", "task_runtime"]


def test_what_was_on_the_path_before_stays_behind_it(tmp_path):
    assert with_inprocess_path({"PYTHONPATH": "/mine"}, tmp_path) == {"PYTHONPATH": f"{tmp_path}:/mine"}
    assert with_inprocess_path({"A": "1"}, tmp_path) == {"A": "1", "PYTHONPATH": str(tmp_path)}
