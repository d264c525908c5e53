"""One run: all parties of a plan, the network and disks between them, and the end that must come."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from typing import Any

from theorbo.schemas.frames import Message
from theorbo.schemas.limits import DRAIN_S, LOST_S

from .broker_party import BrokerParty
from .checks import Checks, Violation
from .executor_party import ExecutorParty
from .faults import strike
from .journal import Disk
from .network import Network
from .node import Job
from .observer_party import ObserverParty
from .plan import Plan
from .readers import Readers
from .requester_party import RequesterParty
from .scheduler import Host, Process, Scheduler
from .story import Story

PATIENCE_S = 2 * (LOST_S + DRAIN_S)
"""When the last fault is over everything must have come to its end within this time: silence until LOST, the Executor's
wait for the last word, and as much again for one after the other."""


class World:
    def __init__(self, plan: Plan, *, told: bool = False) -> None:
        self.plan = plan
        self.scheduler = Scheduler(plan.seed)
        self.story = Story(self.scheduler, told=told)
        self.faults = Counter[str]()
        self.checks = Checks(self.story)
        self.readers = Readers(self.checks)
        self.network = Network(self.scheduler, self.count)
        self.disk = Disk(self.scheduler, self.checks)
        self.inotify_deaf = False
        self._hosts: dict[str, Host] = {}
        self._executor_spools: dict[tuple[int, str], list[bytes]] = {}
        self._attached: dict[int, list[ExecutorParty]] = {}
        self._live_dropped_until: dict[str, float] = {}
        self.acknowledgements: dict[Process, deque[Message]] = {}
        """The last few that were sent to each client."""
        self._puts: dict[str, Message] = {}
        self.jobs: dict[int, Job] = {}
        self.executors: dict[int, ExecutorParty] = {}
        self.observers: dict[int, ObserverParty] = {}
        self.requesters: list[RequesterParty] = []
        self._wishes: dict[int, deque[str]] = {}
        """What the bystanders of an execution want next."""
        self._places = 0
        self.connection_file: tuple[str, ...] = ()
        self.broker = self.start_broker(moved=True)
        for number, execution in enumerate(plan.executions):
            self.scheduler.after(execution.starts_at, self._submit, number)
        for number, observer in enumerate(plan.observers):
            self.scheduler.after(observer.joins_at, self.start_observer, number)
        for request in plan.requests:
            self.scheduler.after(request.at, self._request, request.number, request.action)
        for fault in plan.faults:
            self.scheduler.after(fault.at, strike, self, fault)

    def count(self, kind: str) -> None:
        """A fault has happened."""
        self.faults[kind] += 1

    # --- who there is ----------------------------------------------------------------------------

    def host(self, name: str) -> Host:
        if name not in self._hosts:
            self._hosts[name] = Host(self.scheduler, name)
        return self._hosts[name]

    def execution_id(self, number: int) -> bytes:
        return bytes([number + 1]) * 16

    def executor_spool(self, number: int, host: str) -> list[bytes]:
        return self._executor_spools.setdefault((number, host), [])

    def start_broker(self, *, moved: bool) -> BrokerParty:
        if moved:
            self._places += 1
            self.connection_file = (f"tcp://broker:{self._places}",)
        self.broker = BrokerParty(self, self.host("broker"), self.connection_file[0])
        return self.broker

    def _submit(self, number: int) -> None:
        plan = self.plan.executions[number]
        self.executors[number] = ExecutorParty(self, number, plan, 1, "login")
        self._attached[number] = [self.executors[number]]
        if plan.cancel_at is not None:
            self.scheduler.after(plan.cancel_at, self._cancel, number)

    def _cancel(self, number: int) -> None:
        """The user wants an end, and attaches for that if no Executor is there."""
        executor = self.executors[number]
        if self.checks.known(executor.execution).state.final:
            return
        self.scheduler.after(8.0, self._cancel, number)
        if number in self.jobs and executor.over:
            executor = self._attach(number, "elsewhere")
        executor.cancel()

    def _request(self, number: int, action: str) -> None:
        """One after the other, as somebody does who waits for the answers."""
        self._wishes.setdefault(number, deque()).append(action)
        self.next_request(number)

    def next_request(self, number: int) -> None:
        """If nobody waits for an answer."""
        if not self._wishes[number] or any(not each.over for each in self.requesters if each.number == number):
            return
        action = self._wishes[number].popleft()
        self.requesters.append(RequesterParty(self, number, action, f"token {len(self.requesters)}"))
        if action in ("continue", "cancel", "kill"):
            self.scheduler.after(30.0, self._look_again, number, action)

    def _look_again(self, number: int, action: str) -> None:
        """What the journal has lost nobody carries out; the user sees it, and asks again."""
        known = self.checks.known(self.execution_id(number))
        damaged = self.checks.recoveries or self.execution_id(number) in self.checks.damaged_executions
        if damaged and not known.state.final:
            self._request(number, action)

    def attach(self, number: int, host: str) -> None:
        if not self.executors[number].over:
            self._attach(number, host)

    def _attach(self, number: int, host: str) -> ExecutorParty:
        """Where the spool's lock is free: a frozen Executor holds it as long as it lives."""
        holders = {each.host.name for each in self._attached[number] if each.alive and not each.over}
        hosts = itertools.chain((host, "login"), map("elsewhere {}".format, itertools.count()))
        free = next(name for name in hosts if name not in holders)
        executor = ExecutorParty(self, number, self.plan.executions[number], self.executors[number].life + 1, free)
        self.executors[number] = executor
        self._attached[number].append(executor)
        return executor

    def launch(self, executor: ExecutorParty) -> None:
        plan = self.plan.executions[executor.number]
        self.jobs[executor.number] = Job(self, executor.number, executor.execution, plan, executor)

    def start_observer(self, number: int) -> None:
        self.observers[number] = ObserverParty(self, number, self.plan.observers[number])

    # --- small things that faults need ------------------------------------------------------------

    def remember_put(self, name: str, message: Message) -> None:
        self._puts[name] = message

    def last_put(self, name: str) -> Message | None:
        return self._puts.get(name)

    def drop_live(self, name: str, seconds: float) -> None:
        self._live_dropped_until[name] = self.scheduler.now + seconds

    def drops_live(self, name: str) -> bool:
        return self._live_dropped_until.get(name, 0.0) > self.scheduler.now

    def process(self, name: str) -> Any:
        """The present life of a party, if there is one."""
        kind, _, rest = name.partition("-")
        if kind == "broker":
            return self.broker
        if kind == "executor":
            return self.executors.get(int(rest))
        if kind == "observer":
            return self.observers.get(int(rest))
        if kind == "requester":
            return None
        node = self.node(rest)
        return node.agent if node else None

    def node(self, name: str) -> Any:
        number, index = map(int, name.split("-"))
        return self.jobs[number].nodes[index] if number in self.jobs else None

    # --- the run ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Until everything has come to its end. Raises Violation."""
        faults_end = self.plan.faults_end
        until = max(faults_end, 10.0) + PATIENCE_S
        look_at = 0.0
        while self.scheduler.now < until:
            if not self.scheduler.step():
                break
            if self.scheduler.now >= look_at:
                look_at = self.scheduler.now + 0.5
                if self.scheduler.now > faults_end and self._over():
                    self.checks.all_delivered(self)
                    return
        raise Violation(f"everything comes to an end: not within {PATIENCE_S:.0f} s: {self._what_is_open()}")

    def _over(self) -> bool:
        return not self._what_is_open()

    def _what_is_open(self) -> str:
        if len(self.executors) < len(self.plan.executions) or len(self.observers) < len(self.plan.observers):
            return "not everybody has begun"
        for number, executor in self.executors.items():
            if not executor.over:
                return f"{executor} has no outcome"
            known = self.checks.executions.get(executor.execution)
            if known and known.numbers and not known.state.final:
                return f"execution {number} is {known.state}"
            if number in self.jobs and not self.jobs[number].over:
                return f"the agents of execution {number} have not closed"
        for observer in self.observers.values():
            if missing := self.readers.behind(observer):
                return f"{observer} is behind: {missing}"
        return ""
