"""Running plans: one, many on all cores, and ever shorter ones that still fail."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator

from .bounds import small_bounds
from .checks import Violation
from .plan import Plan, make_plan
from .world import World


@dataclasses.dataclass
class Result:
    """How a run went."""

    seed: int
    violation: str = ""
    faults: Counter[str] = dataclasses.field(default_factory=Counter)
    checks: Counter[str] = dataclasses.field(default_factory=Counter)
    states: Counter[str] = dataclasses.field(default_factory=Counter)
    events: int = 0
    hooks: int = 0
    redelivered: int = 0
    seen: int = 0
    virtual_s: float = 0.0
    digest: int = 0
    story: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Result) -> None:
        """Sum up, for a table."""
        self.faults.update(other.faults)
        self.checks.update(other.checks)
        self.states.update(other.states)
        for name in ("events", "hooks", "redelivered", "seen", "virtual_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def run(plan: Plan, *, told: bool = False) -> Result:
    """Run a plan, with small bounds. An error of a party counts as a violation: no core may raise."""
    violation = ""
    with small_bounds():
        world = World(plan, told=told)
        try:
            world.run()
        except Violation as found:
            violation = str(found)
        except Exception as error:
            place = traceback.extract_tb(sys.exc_info()[2])[-1]
            violation = f"nobody raises: {error!r} in {os.path.basename(place.filename)}, line {place.lineno}"
        checks, readers = world.checks, world.readers
        return Result(
            plan.seed, violation, world.faults, checks.count,
            Counter(str(known.state) for known in checks.executions.values()),
            checks.events, readers.hooks, readers.redelivered, readers.seen, world.scheduler.now,
            world.story.digest, world.story.lines,
        )  # fmt: skip


def _run_some(seeds: list[int]) -> list[Result]:
    return [run(make_plan(seed)) for seed in seeds]


def run_many(seeds: Iterable[int], processes: int) -> Iterator[Result]:
    """The results of many seeds, as they come."""
    seeds = list(seeds)
    parts = [seeds[at : at + 25] for at in range(0, len(seeds), 25)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for results in pool.imap_unordered(_run_some, parts):
            yield from results


# --- the shortest story ------------------------------------------------------------------------------


def shrink(plan: Plan, limit_s: float = 60.0) -> tuple[Plan, list[int]]:
    """A plan with fewer faults and less work that breaks the same invariant, and which of the faults are left."""
    invariant = _invariant(run(plan))
    until = time.monotonic() + limit_s
    kept = list(range(len(plan.faults)))

    def fails(smaller: Plan) -> bool:
        return time.monotonic() < until and _invariant(run(smaller)) == invariant

    size = max(1, len(kept) // 2)
    best = plan
    while True:
        for start in range(0, len(kept), size):
            fewer = kept[:start] + kept[start + size :]
            smaller = best._replace(faults=tuple(plan.faults[index] for index in fewer))
            if fails(smaller):
                best, kept = smaller, fewer
                break
        else:
            if size == 1:
                break
            size //= 2
    for smaller in _less_work(best):
        if fails(smaller):
            best = smaller
            break
    return best, kept


def _invariant(result: Result) -> str:
    return result.violation.partition(":")[0]


def _less_work(plan: Plan) -> Iterator[Plan]:
    for actions in (1, 3, 8, 20):
        yield with_less_work(plan, actions)


def with_less_work(plan: Plan, actions: int) -> Plan:
    """At most so many actions of each rank."""
    executions = tuple(
        execution._replace(ranks=tuple(rank._replace(actions=rank.actions[:actions]) for rank in execution.ranks))
        for execution in plan.executions
    )
    return plan._replace(executions=executions)
