"""Codecs and pure cores with bad input; for longer: `python -m tests.fuzz --seconds 600`."""

from __future__ import annotations

import re
import subprocess
import sys
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .targets import TARGETS

FRESH = settings(
    derandomize=False, database=None, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
"""Other inputs in each run; a failure prints what makes it again."""

SHRINKABLE = ("events", "splice")
"""Those with few choices: hypothesis makes each choice itself, and shrinks them."""


@pytest.mark.parametrize("name", SHRINKABLE)
@given(data=st.data())
@settings(FRESH, max_examples=100)
def test_each_choice_of_hypothesis_is_survived(name, data):
    TARGETS[name](data.draw(st.randoms(use_true_random=False)))


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "subscription"])
@given(seed=st.integers(0, 2**60))
@settings(FRESH, max_examples=400)
def test_bad_input_is_survived(name, seed):
    TARGETS[name](Random(seed))


@given(seed=st.integers(0, 2**60))
@settings(FRESH, max_examples=2000)
def test_an_observer_survives_bad_input_at_every_step_of_joining(seed):
    """More of them, for they are cheap, and few get as far as its LISTING."""
    TARGETS["subscription"](Random(seed))


def test_the_long_run_says_what_it_has_exercised_and_how_to_see_it_again():
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "failures 0", done.stdout + done.stderr
    assert re.search(r"^\d+ inputs in \d+ s, \d+ per second$", done.stdout, re.MULTILINE)
    for command_word in (
        "HELLO",
        "PUT",
        "ATTACH",
        "READ",
        "CREDIT",
        "CLOSE",
        "LIST",
        "FETCH",
        "REQUEST",
        "BYE",
        "CONTROL",
    ):
        assert re.search(rf"\b{command_word} \d+", done.stdout), command_word
