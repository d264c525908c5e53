"""What a seed stands for: a workload and the faults that befall it. All of it is decided before anything runs."""

from __future__ import annotations

import random
from typing import NamedTuple


class RankPlan(NamedTuple):
    """What one rank does, and how it ends."""

    actions: tuple[tuple[float, str, str], ...]
    """Seconds after the one before, what is done, a text."""
    exit_code: int | None
    signal: str | None
    tears: bool
    """Killed in mid-write."""
    ignores_sigterm: bool
    hangs: bool
    """It does not end by itself; the execution is then cancelled."""


class ExecutionPlan(NamedTuple):
    starts_at: float
    nodes: int
    ranks: tuple[RankPlan, ...]
    cancel_at: float | None
    time_limit_s: float | None


class RequestPlan(NamedTuple):
    """What a bystander wants of an execution."""

    at: float
    number: int
    """Of the execution."""
    action: str


class ObserverPlan(NamedTuple):
    joins_at: float
    policy: str
    """`complete` or `latest`."""
    channels: tuple[str, ...] | None


class Fault(NamedTuple):
    """Something that goes wrong. What a kind does stands in `faults`."""

    at: float
    kind: str
    target: str
    seconds: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        more = "".join(f" {value:.3g}" for value in (self.seconds, self.amount) if value)
        return f"{self.at:.2f} s: {self.kind}{f' of {self.target}' if self.target else ''}{more}"


class Plan(NamedTuple):
    seed: int
    executions: tuple[ExecutionPlan, ...]
    observers: tuple[ObserverPlan, ...]
    faults: tuple[Fault, ...]
    requests: tuple[RequestPlan, ...] = ()

    @property
    def faults_end(self) -> float:
        """When the last fault is over."""
        return max((fault.at + fault.seconds for fault in self.faults), default=0.0)


_ACTIONS = ("log",) * 10 + ("metric", "progress", "stdout", "stdout", "stderr", "result", "result", "attached")

_CLIENT_FAULTS = ("break", "break", "half-open", "cut", "replay PUT", "stale ACK")


def make_plan(seed: int) -> Plan:
    chance = random.Random(seed)
    long = chance.random() < 0.04
    executions = tuple(_execution(chance, long) for _ in range(chance.choice((1, 1, 1, 1, 2, 2, 3))))
    observers = tuple(_observer(chance) for _ in range(chance.choice((0, 1, 1, 2))))
    count = chance.choice((0, 1, 2, 3, 4, 5, 6, 8)) + (10 if long else 0)
    lasts_s = max(map(_lasts_s, executions)) + 0.5
    faults = [_fault(chance, executions, observers, lasts_s, long) for _ in range(count)]
    further = random.Random(f"nodes {seed}")
    faults += _lost_nodes(further, executions, lasts_s)
    requests = tuple(request for number in range(len(executions)) for request in _requests(further, number, lasts_s))
    faults += [  # so that the agent has to hear of it later
        Fault(max(0.0, request.at - 0.2), "agent killed", f"agent-{request.number}-0", 3.0)
        for request in requests
        if request.action == "continue" and further.random() < 0.3
    ]
    return Plan(seed, executions, observers, tuple(sorted(faults)), requests)


def _lost_nodes(chance: random.Random, executions: tuple[ExecutionPlan, ...], lasts_s: float) -> list[Fault]:
    """Of the nodes beside the launcher's own."""
    faults = []
    for number, plan in enumerate(executions):
        if plan.nodes > 1 and chance.random() < 0.3:
            kind = chance.choice(("node lost", "node lost", "node cut off"))
            seconds = chance.choice((5.0, 14.0, 25.0, 60.0)) if kind == "node cut off" else 0.0
            faults.append(Fault(chance.uniform(0.3, lasts_s), kind, f"{number}-1", seconds))
    return faults


def _requests(chance: random.Random, number: int, lasts_s: float) -> list[RequestPlan]:
    """What is stopped is continued, or ended."""
    if chance.random() >= 0.25:
        return []
    at = chance.uniform(0.1, lasts_s)
    actions = chance.choice(
        (
            ("stacks",), ("cancel",), ("kill",), ("cancel", "kill"), ("stop", "continue"), ("stop", "continue"),
            ("stop", "continue", "stop", "continue"), ("stop", "stacks", "continue"), ("stop", "cancel"),
            ("stop", "kill"), ("continue", "stop", "continue"),
        )
    )  # fmt: skip
    times = [at + place * chance.choice((0.0, 0.3, 2.0, 8.0)) for place in range(len(actions))]
    return [RequestPlan(time, number, action) for time, action in zip(sorted(times), actions, strict=True)]


def _lasts_s(execution: ExecutionPlan) -> float:
    """How long it takes if nothing goes wrong."""
    return execution.starts_at + 0.1 + max(sum(delay_s for delay_s, _, _ in rank.actions) for rank in execution.ranks)


def _execution(chance: random.Random, long: bool) -> ExecutionPlan:
    nodes = chance.choice((1, 1, 2))
    cancel = chance.uniform(0.1, 6.0) if chance.random() < 0.2 else None
    count = max(nodes, chance.choice((1, 1, 2, 3)))
    ranks = tuple(_rank(chance, long, hangs=cancel is not None and chance.random() < 0.5) for _ in range(count))
    limit = chance.uniform(0.5, 5.0) if chance.random() < 0.08 else None
    return ExecutionPlan(chance.uniform(0.0, 2.0), nodes, ranks, cancel, limit)


def _rank(chance: random.Random, long: bool, *, hangs: bool) -> RankPlan:
    actions = []
    for place in range(chance.randrange(150, 400) if long else chance.choice((0, 3, 6, 10, 20, 30))):
        delay_s = chance.choice((0.001, 0.01, 0.05, 0.3, 0.6))
        kind = chance.choice(_ACTIONS)
        actions.append((delay_s, kind, f"{kind} {place} " + "x" * chance.choice((0, 5, 40, 300))))
    exit_code: int | None = 0
    name = None
    fate = chance.random()
    if fate < 0.1:
        exit_code = 3
    elif fate < 0.2:
        exit_code, name = None, "SIGSEGV"
    elif fate < 0.27:
        actions.append((0.01, "task_failed", "ValueError: no peaks"))
        exit_code = 1
    return RankPlan(tuple(actions), exit_code, name, chance.random() < 0.5, chance.random() < 0.3, hangs)


def _observer(chance: random.Random) -> ObserverPlan:
    channels = chance.choice((None, None, None, ("signals", "log"), ("results",)))
    return ObserverPlan(chance.uniform(0.0, 6.0), chance.choice(("complete", "complete", "latest")), channels)


def _fault(
    chance: random.Random,
    executions: tuple[ExecutionPlan, ...],
    observers: tuple[ObserverPlan, ...],
    lasts_s: float,
    long: bool,
) -> Fault:
    agents = [f"agent-{number}-{node}" for number, plan in enumerate(executions) for node in range(plan.nodes)]
    executors = [f"executor-{number}" for number in range(len(executions))]
    watchers = [f"observer-{number}" for number in range(len(observers))]
    clients = agents + executors + watchers
    at = chance.uniform(0.0, lasts_s)
    seconds = chance.choice((0.5, 2.0, 4.0, 8.0, 14.0, 14.0, 200.0 if long else 20.0))
    short_s = chance.choice((0.2, 1.0, 3.0, 7.0))
    node = chance.choice(agents).removeprefix("agent-")
    number = str(chance.randrange(len(executions)))
    part = chance.random()
    made = (
        *(Fault(at, kind, chance.choice(clients), seconds if kind == "cut" else 0.0) for kind in _CLIENT_FAULTS),
        Fault(at, "broker killed", "", short_s, part),
        Fault(at, "broker killed", "", short_s, part),
        Fault(at, "broker frozen", "", seconds),
        Fault(at, "agent killed", chance.choice(agents), short_s),
        Fault(at, "agent killed", chance.choice(agents), short_s),
        Fault(at, "executor killed", chance.choice(executors), short_s, part),
        Fault(at, "executor killed", chance.choice(executors), short_s, part),
        Fault(at, "executor ghost", chance.choice(executors), seconds),
        Fault(at, "frozen", chance.choice(clients), seconds),
        Fault(at, "launcher killed", number),
        Fault(at, "spool full", node, short_s),
        Fault(at, "journal full", "", short_s),
        Fault(at, "journal tail lost", "", short_s, part),
        Fault(at, "journal tail lost", "", short_s, part),
        Fault(at, "row damaged", "", 0.0, part),
        Fault(at, "slow commits", "", short_s),
        Fault(at, "slow network", "", short_s, chance.uniform(0.05, 1.0)),
        Fault(at, "inotify deaf", "", short_s),
        Fault(at, "wall clock set", chance.choice(("broker", f"node-{node}", "login")), 0.0, _jump(chance)),
        *(Fault(at, "live messages dropped", watcher, short_s) for watcher in watchers),
        *(Fault(lasts_s - 1.0, "live messages dropped", watcher, 4.0) for watcher in watchers),
        *(Fault(at, "observer killed", watcher, short_s) for watcher in watchers),
    )
    return chance.choice(made)


def _jump(chance: random.Random) -> float:
    return chance.choice((-1.0, 1.0)) * chance.choice((0.5, 30.0, 3600.0, 86400.0 * 365))
