from __future__ import annotations

import pytest

from theorbo.executor.config import load_config
from theorbo.schemas.errors import UsageError

GOOD = """\
%YAML 1.1
---
title: Commissioning
experiment: mfx1
run: 007
date: 2026-11-22
task_timeout: 600
work_dir: /data/out dir
...
---
FindPeaks:
  threshold: 5
  fraction: 0.5
  tiny: 1e-3
  number: "007"
  plain: 007
  when: 12:30
  answer: yes
  really: true
  nothing: ~
  shape: [1, 2]
  inner:
    deep: 1
Index:
"""


@pytest.fixture
def write(tmp_path):
    def write_text(text: str):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write_text


def problem(path) -> str:
    with pytest.raises(UsageError) as raised:
        load_config(path)
    return str(raised.value)


def test_a_header_and_tasks_are_two_documents(write):
    config = load_config(write(GOOD))
    assert config.header == {
        "title": "Commissioning", "experiment": "mfx1", "run": "007", "date": "2026-11-22",
        "task_timeout": 600.0, "work_dir": "/data/out dir",
    }  # fmt: skip
    assert config.tasks.keys() == {"FindPeaks", "Index"}
    assert config.parameters("Index") == {}


def test_values_are_what_they_look_like_and_nothing_is_turned_into_a_number(write):
    assert load_config(write(GOOD)).parameters("FindPeaks") == {
        "threshold": 5, "fraction": 0.5, "tiny": 1e-3, "number": "007", "plain": "007", "when": "12:30",
        "answer": "yes", "really": True, "nothing": None, "shape": [1, 2], "inner": {"deep": 1},
    }  # fmt: skip


def test_a_single_document_holds_tasks(write):
    config = load_config(write("A:\n  x: 1\n"))
    assert (config.header, config.parameters("A")) == ({}, {"x": 1})


def test_a_run_number_keeps_its_digits(write):
    assert load_config(write("run: 1.50\n---\nA: {}\n")).header["run"] == "1.50"


def test_an_empty_file_says_nothing_and_is_no_error(write):
    assert load_config(write("# nothing yet\n")).parameters("Any") == {}


def test_merged_sections_are_one(write):
    config = load_config(write("A: &a\n  x: 1\n  y: 1\nB:\n  <<: *a\n  y: 2\n"))
    assert config.parameters("B") == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("A:\n  x: 1\n  x: 2\n", "3:3", "'x' is given twice; first at"),
        ("A: {}\nB: {}\nA: {}\n", "3:1", "'A' is given twice"),
        ("A:\n  l:\n  - {k: 1, k: 2}\n", "3:12", "'k' is given twice"),
        ("experment: x\n---\nA: {}\n", "1:1", "did you mean experiment?"),
        ("colour: x\n---\nA: {}\n", "1:1", "known are title, experiment"),
        ("task_timeout: soon\n---\nA: {}\n", "1:15", "'soon': a positive number of seconds"),
        ("task_timeout: -5\n---\nA: {}\n", "1:15", "'-5'"),
        ("experiment: [a]\n---\nA: {}\n", "1:13", "a plain value is wanted"),
        ("experiment: mfx1\nA: {}\n", "1:13", "a header is a document of its own"),
        ("A: 3\n", "1:4", "must be a mapping"),
        ("- A\n", "1:1", "must be a mapping"),
        ("A:\n  x: [1\nB: 2\n", "3:2", "expected ',' or ']'"),
        ("A:\n\tx: 1\n", "2:1", "cannot start any token"),
        ("A:\n  x: !!python/object/apply:os.system [echo]\n", "2:6", "could not determine a constructor"),
        ("a: {}\n---\nb: {}\n---\nc: {}\n", "5:1", "a third document"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(write, text, place, words):
    said = problem(write(text))
    assert f"config.yaml:{place}: " in said
    assert words in said


def test_an_unknown_section_is_answered_with_near_matches_and_their_place(write):
    with pytest.raises(UsageError, match=r"config.yaml:1:1: .*'FindPeeks'; did you mean FindPeaks\?"):
        load_config(write("FindPeaks: {}\n")).parameters("FindPeeks")


def test_a_missing_section_is_answered_with_those_that_are_there(write):
    with pytest.raises(UsageError, match="'Other'; it has A, B"):
        load_config(write("A: {}\nB: {}\n")).parameters("Other")


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert "nowhere.yaml" in problem(tmp_path / "nowhere.yaml")


def test_what_contains_itself_is_an_error(write):
    assert "contains itself" in problem(write("A: &a\n  x: *a\n"))


def test_the_place_of_a_parameter_is_that_of_its_value(write):
    path = write("A:\n  x: 1\n  inner:\n    deep: 1\n")
    config = load_config(path)
    assert config.place("A", "x") == f"{path}:2:6"
    assert config.place("A", "inner.deep") == f"{path}:4:11"
    assert config.place("A", "missing") == f"{path}:1:1"
    assert config.place("B", "x") == str(path)


def test_the_header_may_say_how_tasks_are_launched(write):
    config = load_config(
        write(
            "launcher:\n  kind: slurm\n  nodes: 2\n  ranks: 8\n  time: 2:00:00\n  account: 007\n"
            "  scheduler_options: [--exclusive, --gres=gpu:1]\n---\nA: {}\n"
        )
    )
    assert config.launcher == {
        "kind": "slurm", "nodes": 2, "time": "2:00:00", "account": "007",
        "scheduler_options": ("--exclusive", "--gres=gpu:1"),
    }  # fmt: skip
    assert config.ranks == 8
    assert load_config(write("launcher: mpi\n---\nA: {}\n")).launcher == {"kind": "mpi"}
    assert load_config(write("A: {}\n")).launcher == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("launcher: slrum\n---\nA: {}\n", ":1:11: there is no launcher 'slrum'; did you mean slurm or srun?"),
        ("launcher:\n  partion: x\n---\nA: {}\n", ":2:3: unknown key 'partion' in launcher; did you mean partition?"),
        ("launcher:\n  nodes: two\n---\nA: {}\n", ":2:10: nodes 'two': a number of at least 1 is wanted"),
        ("launcher:\n  scheduler_options: -x\n---\nA: {}\n", ":2:22: scheduler_options: a list of options"),
        ("launcher:\n  partition: [a]\n---\nA: {}\n", ":2:14: partition: a plain value is wanted"),
        ("launcher:\n  kind: slurm\n  kind: mpi\n---\nA: {}\n", ":3:3: 'kind' is given twice"),
        ("launcher: [slurm]\n---\nA: {}\n", ":1:11: launcher must be a mapping"),
    ],
)
def test_what_is_wrong_in_it_is_named_with_its_place(write, text, words):
    assert words in problem(write(text))
