"""One chaos run, from its plan to its verdict."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.chaos import count, plan, verdict
from tests.chaos.parties import Failed, Parties

SETTLE_S = 120.0
"""When the ranks have reported everything, so much later everything has arrived everywhere, or the run has failed."""

SLOW = 2.0
"""A machine on which ranks take so many times longer than planned is too slow for these numbers."""

PROGRESS_S = 10.0


class Wanted(NamedTuple):
    """What kind of run it is to be."""

    seconds: float
    events: int
    ranks: int
    seed: int


class Chaos:
    """`perform` does it all; `parties` has what is to be cleaned up."""

    def __init__(self, wanted: Wanted, parties: Parties, say: Callable[[str], None]) -> None:
        self._wanted, self._parties, self._say = wanted, parties, say
        self._steps = collections.deque(plan.plan(wanted.seed, wanted.seconds))
        self._done: collections.Counter[str] = collections.Counter()
        self._began = self._progress_at = 0.0

    def perform(self) -> list[str]:
        """What is wrong, in sentences. Raises Failed if it could not be brought to an end."""
        wanted, parties = self._wanted, self._parties
        parties.begin()
        parties.observe()
        parties.run(wanted.ranks, wanted.events, wanted.seconds)
        self._began = self._progress_at = time.monotonic()
        self._say(f"execution {parties.execution}: {wanted.ranks} ranks run")
        self._destroy()
        self._settle()
        return self._judge()

    def _destroy(self) -> None:
        while self._steps:
            self._wait_until(self._began + self._steps[0].at)
            self._do(self._steps.popleft().action)
            self._parties.look()

    def _wait_until(self, when: float) -> None:
        while (left_s := when - time.monotonic()) > 0:
            self._progress()
            time.sleep(min(left_s, 0.25))
            self._parties.look()

    def _do(self, action: str) -> None:
        parties, front = self._parties, self._parties.front
        doings: dict[str, Callable[[], object]] = {
            plan.KILL_BROKER: parties.kill_broker,
            plan.START_BROKER: lambda: parties.start_broker(elsewhere=False),
            plan.MOVE_BROKER: lambda: parties.start_broker(elsewhere=True),
            plan.KILL_AGENT: parties.kill_agent,
            plan.KILL_EXECUTOR: parties.kill_executor,
            plan.CUT: front.cut,
            plan.REFUSE: front.refuse,
            plan.HALF_OPEN: front.half_open,
            plan.DELAY: lambda: front.delay(0.2, 0.1),
            plan.THROTTLE: lambda: [proxy.throttle(500_000.0) for proxy in front.proxies],
            plan.PASS: front.pass_all,
        }
        doings[action]()
        self._done[action] += 1

    def _settle(self) -> None:
        parties, until = self._parties, self._began + self._wanted.seconds * SLOW + SETTLE_S
        waited_for = {
            "the ranks to have reported": lambda: len(list(parties.counts.iterdir())) == self._wanted.ranks,
            "the Executor to end": lambda: parties.executors[-1].poll() == 0,
            "the observer to end": lambda: parties.observer is not None and parties.observer.poll() == 0,
            "all processes to go": lambda: not parties.left(),
        }
        for what, condition in waited_for.items():
            while not condition():
                if time.monotonic() > until:
                    raise Failed(f"waited in vain for {what}; there are {list(parties.left().values())}")
                self._wait_until(time.monotonic() + 0.1)
            self._say(f"{time.monotonic() - self._began:6.1f} s  no longer waiting for {what}")

    def _progress(self) -> None:
        now = time.monotonic()
        if now < self._progress_at:
            return
        self._progress_at = now + PROGRESS_S
        parties = self._parties
        sizes = [file.stat().st_size >> 20 for file in (parties.lines("observer"), self._journal)]
        killed = ", ".join(f"{self._done[what]} x {what}" for what in _KILLS)
        self._say(
            f"{now - self._began:6.1f} s  {killed}; observer {sizes[0]} MiB, journal {sizes[1]} MiB, "
            f"broker {parties.measure_broker() >> 10} MiB"
        )

    @property
    def _journal(self) -> Path:
        return self._parties.broker.state / "journal.sqlite"

    # --- the verdict ------------------------------------------------------------------------------

    def _judge(self) -> list[str]:
        parties = self._parties
        parties.measure_broker()
        exported, checked = parties.lines("exported"), parties.lines("checked")
        state = str(parties.broker.state)
        wrong = []
        if parties.broker.stop() != 0:
            wrong.append(f"the broker ended with status {parties.broker.process.returncode}")
        if parties.command("journal", "check", state, into=checked) != 0:
            wrong.append(f"theorbo journal check: {checked.read_text()[-500:]}")
        if parties.command("journal", "export", "--journal", state, into=exported) != 0:
            wrong.append("theorbo journal export has failed")
        executors = [parties.lines(f"executor-{number}") for number in range(1, len(parties.executors) + 1)]
        counts = [self._count(*files) for files in ([exported], [parties.lines("observer")], executors)]
        reported: collections.Counter[str] = collections.Counter()
        for file in parties.counts.iterdir():
            reported.update(json.loads(file.read_text()))
        wanted = self._wanted
        found = verdict.Found(
            dict(reported), wanted.events // wanted.ranks * wanted.ranks, *counts, len(executors),
            json.loads(executors[-1].read_bytes().splitlines()[-1]),
        )  # fmt: skip
        for line in (*verdict.table(found), *self._verified(), *self._counted()):
            self._say(line)
        wrong += verdict.problems(found)
        return wrong

    def _count(self, *files: Path) -> verdict.Count:
        done = subprocess.run(
            [sys.executable, "-I", count.__file__, *map(str, files)], stdout=subprocess.PIPE, check=True, timeout=300
        )
        found: verdict.Count = json.loads(done.stdout)
        return found

    def _verified(self) -> list[str]:
        """What `tail --verify` says of itself: its last object."""
        said = json.loads(self._parties.lines("observer").read_bytes().splitlines()[-1])
        return [f"tail --verify says       {said.get('verdict', said)}"]

    def _counted(self) -> list[str]:
        parties = self._parties
        moved, started = self._done[plan.MOVE_BROKER], self._done[plan.START_BROKER]
        network = ", ".join(f"{what} {self._done[what]}" for what in plan.FAULTS)
        return [
            f"broker killed            {self._done[plan.KILL_BROKER]:>11}   started again on the same ports {started}, "
            f"on others {moved}",
            f"agent killed             {self._done[plan.KILL_AGENT]:>11}",
            f"Executor killed          {self._done[plan.KILL_EXECUTOR]:>11}   attached again each time; "
            f"attach found no broker {parties.refused_attaches} times",
            f"network                              {network}",
            f"largest broker           {parties.broker_peak_kib >> 10:>7} MiB",
        ]


_KILLS = (plan.KILL_BROKER, plan.KILL_AGENT, plan.KILL_EXECUTOR)
