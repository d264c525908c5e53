from __future__ import annotations

import subprocess

import pytest

from theorbo.executor.provenance import GitQuestion, git_state, selected, shown_command, versions
from theorbo.schemas.limits import PROVENANCE_COMMAND_BYTES, PROVENANCE_VALUE_BYTES


def git(directory, *arguments):
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@lab", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-b", "main")
    (tmp_path / "task.py").write_text("x = 1\n")
    git(tmp_path, "add", "task.py")
    git(tmp_path, "commit", "-m", "Begin")
    return tmp_path


def test_only_named_variables_are_taken():
    assert selected({"PATH": "/bin", "CONDA_PREFIX": "/c", "SLURM_JOB_ID": "1", "MY_OWN": "x"}) == {
        "CONDA_PREFIX": "/c", "PATH": "/bin", "SLURM_JOB_ID": "1",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["CONDA_TOKEN", "SLURM_JWT", "SLURM_API_KEY", "CONDA_SECRET", "SLURM_DB_PASSWORD"])
def test_nothing_whose_name_looks_like_a_secret_is_taken(name):
    assert selected({name: "hush"}) == {}


def test_long_values_and_commands_are_cut():
    assert len(selected({"PATH": "x" * 100_000})["PATH"]) == PROVENANCE_VALUE_BYTES + 1
    shown = shown_command(["run", *["y" * 1000] * 100])
    assert sum(map(len, shown)) < PROVENANCE_COMMAND_BYTES + 100
    assert "more arguments" in shown[-1]
    assert shown_command(["a", "b c"]) == ["a", "b c"]


def test_versions_of_all_that_matters_are_there():
    assert versions().keys() == {"theorbo", "python", "platform"}


def test_the_state_of_the_source_is_commit_branch_and_whether_it_was_changed(repository):
    clean = GitQuestion(repository).answer()
    assert (len(clean["commit"]), clean["branch"], clean["dirty"]) == (40, "main", False)
    (repository / "task.py").write_text("x = 2\n")
    assert GitQuestion(repository).answer() == {**clean, "dirty": True}


def test_a_detached_head_has_no_branch(repository):
    git(repository, "checkout", "--detach")
    assert GitQuestion(repository).answer()["branch"] is None


def test_outside_of_a_repository_there_is_nothing(tmp_path):
    assert GitQuestion(tmp_path).answer() is None
    assert GitQuestion(None).answer() is None
    assert git_state("# branch.oid (initial)\n# branch.head main\n") is None


def test_without_git_there_is_nothing(repository, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert GitQuestion(repository).answer() is None
