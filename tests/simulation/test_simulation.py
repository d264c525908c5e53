"""Many seeds, the same story for the same seed, and every planted fault found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .mutations import MUTATIONS, SEEDS, hunt
from .plan import make_plan
from .runs import run, shrink, with_less_work

ROOT = Path(__file__).parents[2]
SEEDS_PER_TEST = 60


@pytest.mark.parametrize("part", range(6))
def test_no_invariant_is_broken_whatever_fails(part):
    """The same seeds each time; fresh ones are `.ci/run`'s."""
    first = 1 + part * SEEDS_PER_TEST
    print(f"seeds {first} to {first + SEEDS_PER_TEST - 1}")
    events = faults = 0
    for seed in range(first, first + SEEDS_PER_TEST):
        result = run(make_plan(seed))
        assert not result.violation, f"again: python -m tests.simulation --story --seed {seed}"
        events += result.events + result.hooks + result.seen
        faults += sum(result.faults.values())
    assert events > 20 * SEEDS_PER_TEST
    assert faults > SEEDS_PER_TEST


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))
def test_a_planted_fault_is_found(mutation):
    found = hunt(mutation)
    print(f"after {found.seeds} seeds, {found.violation}")
    assert found.violation, f"not found in {SEEDS} seeds"


def test_without_a_planted_fault_the_seeds_of_the_hunt_break_nothing():
    assert [result.violation for seed in range(30) if (result := run(make_plan(seed))).violation] == []


def test_a_seed_is_the_same_story_whatever_the_order_of_hashes():
    def digests(hash_seed):
        command = (
            "from tests.simulation.plan import make_plan; from tests.simulation.runs import run; "
            "print([run(make_plan(seed)).digest for seed in range(12)])"
        )
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
        return done.stdout or done.stderr

    assert digests("1") == digests("2") == f"{[run(make_plan(seed)).digest for seed in range(12)]}\n"


def test_telling_the_story_does_not_change_it():
    quiet, told = run(make_plan(7)), run(make_plan(7), told=True)
    assert quiet.digest == told.digest
    assert len(told.story) > 50
    assert quiet.story == []


def test_a_failing_plan_is_made_shorter_and_still_fails():
    [mutation] = [each for each in MUTATIONS if each.name == "start positions anew after a restart"]
    with mutation.planted():
        seed = next(seed for seed in range(SEEDS) if run(make_plan(seed)).violation)
        shorter, kept = shrink(make_plan(seed))
        assert run(shorter).violation.startswith("positions have no gap")
    assert len(kept) <= 2  # a restart of the broker, and hardly more
    assert shorter.faults == tuple(make_plan(seed).faults[index] for index in kept)
    assert run(shorter).violation == ""


def command(*options):
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *options], cwd=ROOT, capture_output=True, text=True, timeout=100
    )


def test_the_command_runs_many_and_sums_up():
    done = command("--seeds", "30", "--from", "1", "--processes", "1")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "violations 0"
    assert "faults injected" in done.stdout


def test_the_command_replays_one_with_its_story():
    seed = next(seed for seed in range(SEEDS) if len(make_plan(seed).faults) > 3)
    done = command("--seed", str(seed), "--story", "--keep", "1,2", "--actions", "2")
    assert done.returncode == 0, done.stdout
    assert "HELLO" in done.stdout
    assert done.stdout.splitlines()[-1] == "violations 0"
    plan = with_less_work(make_plan(seed), 2)
    assert f"digest {run(plan._replace(faults=plan.faults[1:3])).digest:08x}" in done.stdout
