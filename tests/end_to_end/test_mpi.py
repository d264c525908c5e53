"""Whole runs of four MPI ranks on this machine, under MPICH and under Open MPI."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["mpich", "openmpi"])
def options(request):
    """Options of `theorbo run` for four ranks under one of the two."""
    if request.param == "mpich":
        return ["--ranks", "4"]
    return ["--ranks", "4", "--python", str(request.getfixturevalue("openmpi"))]


def test_four_ranks_report(run, options):
    run = run("MpiFine", *options)
    assert (run.status, run.outcome["state"]) == (0, "COMPLETED")
    assert sorted(text for text in run.texts("log") if text != "last words") == [f"rank {n} of 4" for n in range(4)]
    assert {event["rank"] for event in run.kind("rank_ended")} == {0, 1, 2, 3}


def test_a_rank_that_segfaults_is_named_and_its_last_words_are_delivered(run, options):
    run = run("MpiSegfault", *options)
    assert (run.status, run.outcome["state"]) == (1, "FAILED")
    assert run.texts("log", rank=2) == ["rank 2 of 4", "last words"]
    assert "rank 2" in run.outcome["reason"]
    assert "SIGSEGV" in run.outcome["reason"]


def test_an_aborting_rank_ends_all_and_its_last_words_are_delivered(run, options):
    run = run("MpiAbort", *options)
    assert (run.status, run.outcome["state"]) == (1, "FAILED")
    assert run.texts("log", rank=2) == ["rank 2 of 4", "last words"]
    assert "7" in run.outcome["reason"]


def test_an_exception_in_one_rank_ends_all_with_its_error(run, options):
    run = run("MpiRaises", *options)
    assert (run.status, run.outcome["state"]) == (1, "FAILED")
    assert run.outcome["reason"] == "rank 2: RuntimeError: detector is off"
