"""`python -m tests.simulation`: run seeds, replay one, or hunt for planted faults. See docs/simulation.md."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time

from .mutations import MUTATIONS, hunt
from .plan import Plan, make_plan
from .runs import Result, run, run_many, shrink, with_less_work

PROGRESS_S = 5.0
SHOWN = 20
"""Violations told one by one."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="run so many seeds (default: 1000)")
    parser.add_argument("--from", dest="first", type=int, metavar="SEED", help="the first of them (default: any)")
    parser.add_argument("--seed", type=int, metavar="SEED", help="run exactly this one")
    parser.add_argument("--story", action="store_true", help="with --seed: print every step")
    parser.add_argument("--keep", metavar="I,J", help="with --seed: only these of its faults, counted from 0")
    parser.add_argument("--actions", type=int, metavar="N", help="with --seed: only so many actions of each rank")
    parser.add_argument("--mutations", action="store_true", help="plant faults into the cores, one by one")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    given = parser.parse_args()
    if given.mutations:
        return _mutations()
    if given.seed is not None:
        return _one(_planned(given.seed, given.keep, given.actions), story=given.story)
    first = secrets.randbelow(2**40) if given.first is None else given.first
    return _many(first, given.seeds, given.processes)


def _planned(seed: int, keep: str | None, actions: int | None) -> Plan:
    plan = make_plan(seed)
    if keep is not None:
        plan = plan._replace(faults=tuple(plan.faults[int(index)] for index in keep.split(",") if index))
    return plan if actions is None else with_less_work(plan, actions)


def _one(plan: Plan, *, story: bool) -> int:
    result = run(plan, told=story)
    print(*result.story, sep="\n")
    for index, fault in enumerate(plan.faults):
        print(f"fault {index}: {fault}")
    print(f"seed {plan.seed}: {result.virtual_s:.1f} s of virtual time, digest {result.digest:08x}")
    print(result.violation or "violations 0")
    return 1 if result.violation else 0


def _many(first: int, count: int, processes: int) -> int:
    print(f"seeds {first} to {first + count - 1} on {processes} cores")
    began_at = told_at = time.monotonic()
    total, failed = Result(first), list[Result]()
    done = 0
    for result in run_many(range(first, first + count), processes):
        done += 1
        total.add(result)
        if result.violation:
            failed.append(result)
        if result.violation and len(failed) <= SHOWN:
            print(f"seed {result.seed}: {result.violation}", flush=True)
        if time.monotonic() - told_at >= PROGRESS_S:
            told_at = time.monotonic()
            print(f"{done} of {count} seeds, {told_at - began_at:.0f} s, violations {len(failed)}", flush=True)
    if failed:
        _explain(min(failed, key=lambda result: (sum(result.faults.values()), result.seed)))
    _print_table(total, done, time.monotonic() - began_at)
    print(f"violations {len(failed)}")
    return 1 if failed else 0


def _explain(result: Result) -> None:
    """The shortest story that still breaks the invariant, and how to see it again."""
    plan, kept = shrink(make_plan(result.seed))
    told = run(plan, told=True)
    actions = max((len(rank.actions) for execution in plan.executions for rank in execution.ranks), default=0)
    print(*told.story, sep="\n")
    print(f"\n{told.violation}")
    print("again: uv run python -m tests.simulation --story "
          f"--seed {result.seed} --keep {','.join(map(str, kept)) or ','} --actions {actions}\n")  # fmt: skip


def _print_table(total: Result, seeds: int, seconds: float) -> None:
    def rows(title: str, counted: dict[str, int]) -> None:
        print(f"\n{title}")
        for name, number in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
            print(f"  {number:>12,}  {name}")

    rows("faults", total.faults)
    rows("final states", total.states)
    rows("invariants checked", total.checks)
    read = {
        "events in the journal, compared with what was reported": total.events,
        "events given to hooks": total.hooks,
        "of these redelivered": total.redelivered,
        "events seen by observers": total.seen,
    }
    rows("events", read)
    print(f"\n{seeds:,} seeds in {seconds:.0f} s, {total.virtual_s / 3600:.1f} hours of virtual time")
    print(f"faults injected {sum(total.faults.values()):,}")
    print(f"events checked {total.events + total.hooks + total.seen:,}")
    print(f"invariant checks {sum(total.checks.values()):,}")


def _mutations() -> int:
    missed = 0
    for mutation in MUTATIONS:
        found = hunt(mutation)
        missed += not found.violation
        after = (
            f"after {found.seeds} seeds: {found.violation[:120]}" if found.violation else f"NOT in {found.seeds} seeds"
        )
        print(f"{mutation.name:<42} {after}", flush=True)
    print(f"{len(MUTATIONS)} mutations, not caught {missed}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
