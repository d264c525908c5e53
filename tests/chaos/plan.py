"""What is to happen when: a plan that depends on its seed alone. Pure."""

from __future__ import annotations

import collections
import random
from typing import NamedTuple

FIRST, LAST = 0.03, 0.94
"""Of the time in which ranks report: the part in which something is killed."""

BROKER_EVERY_S = 8.0
BROKERS = 5
"""The broker is killed this often, and at least so many times."""

OTHERS_EVERY_S = 60.0
OTHERS = 2
AGENTS_AT_MOST = 5
"""An agent that dies more often than this in succession is not started again (`limits.AGENT_RESTARTS`)."""

MOVES_EVERY = 4
"""Of so many restarts of the broker one is on other ports."""

AWAY_EVERY = 5
"""Of so many deaths of the broker there is one after which it is not started again at once."""

NETWORK_EVERY_S = 12.0
"""Each kind of fault comes once before any comes again."""

KILL_BROKER, START_BROKER, MOVE_BROKER = "kill broker", "start broker", "start broker on other ports"
KILL_AGENT, KILL_EXECUTOR = "kill agent", "kill Executor"
FAULTS = (CUT, REFUSE, HALF_OPEN, DELAY, THROTTLE) = ("cut", "refuse", "half-open", "delay", "throttle")
PASS = "pass"


class Step(NamedTuple):
    """One thing to be done, so many seconds after the ranks have begun."""

    at: float
    action: str


def plan(seed: int, seconds: float) -> list[Step]:
    """All steps, in order of time."""
    dice = random.Random(seed)
    steps: list[Step] = []
    brokers = max(BROKERS, int(seconds * (LAST - FIRST) / BROKER_EVERY_S))
    for index, (at, until) in enumerate(_slots(dice, seconds, brokers)):
        away_s = dice.uniform(0.3, 0.8) * (until - at) if index % AWAY_EVERY == 3 else 0.0
        start = MOVE_BROKER if index % MOVES_EVERY == 1 else START_BROKER
        steps += [Step(at, KILL_BROKER), Step(at + away_s, start)]
    others = max(OTHERS, round(seconds / OTHERS_EVERY_S))
    steps += [Step(at, KILL_AGENT) for at, _ in _slots(dice, seconds, min(AGENTS_AT_MOST, others))]
    steps += [Step(at, KILL_EXECUTOR) for at, _ in _slots(dice, seconds, others)]
    faults: list[str] = []
    for at, until in _slots(dice, seconds, int(seconds / NETWORK_EVERY_S)):
        faults = faults or dice.sample(FAULTS, len(FAULTS))
        fault = faults.pop()
        steps.append(Step(at, fault))
        if fault != CUT:
            steps.append(Step(min(at + dice.uniform(1.0, 6.0), until), PASS))
    return sorted(steps, key=lambda step: step.at)  # stable: a broker is killed before it is started


def _slots(dice: random.Random, seconds: float, count: int) -> list[tuple[float, float]]:
    """So many moments, one in each of as many equal parts of the time; each with the end of its part."""
    width = seconds * (LAST - FIRST) / max(1, count)
    begins = [seconds * FIRST + width * index for index in range(count)]
    return [(begin + dice.uniform(0.0, 0.6) * width, begin + width) for begin in begins]


def counted(steps: list[Step]) -> collections.Counter[str]:
    """How often each action is in a plan."""
    return collections.Counter(step.action for step in steps)
