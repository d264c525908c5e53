"""Bad input for a long time: `python -m tests.fuzz --seconds 600`.

Prints what was exercised, and each failure with the command that shows it again; the last line is `failures N`.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
import traceback
from collections import Counter
from random import Random

from .targets import TARGETS, inputs

FAILURES_SHOWN = 3
"""Of those that were raised at one place."""


def main() -> int:
    """Run until the time is over."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long")
    parser.add_argument("--seed", type=int, help="where to begin; without it a new one each time")
    parser.add_argument("--target", choices=sorted(TARGETS), help="only this one, and only this seed")
    arguments = parser.parse_args()
    seed = secrets.randbits(40) if arguments.seed is None else arguments.seed
    if arguments.target:
        print(dict(TARGETS[arguments.target](Random(seed))))
        return 0
    print(f"seed {seed}, {arguments.seconds:g} s")
    tried: Counter[str] = Counter()
    seen = {name: Counter[str]() for name in TARGETS}
    failures: Counter[str] = Counter()
    begin = time.monotonic()
    for name, own_seed in inputs(seed):
        if time.monotonic() - begin >= arguments.seconds:
            break
        tried[name] += 1
        try:
            seen[name] += TARGETS[name](Random(own_seed))
        except Exception as error:
            place = str(traceback.extract_tb(error.__traceback__)[-1:])
            failures[place] += 1
            if failures[place] <= FAILURES_SHOWN:
                traceback.print_exc(limit=-6, file=sys.stdout)
                print(f"again: python -m tests.fuzz --target '{name}' --seed {own_seed}\n", flush=True)
    took = time.monotonic() - begin
    for name, counts in seen.items():
        print(f"{name}: {tried[name]} inputs; " + ", ".join(f"{what} {n}" for what, n in sorted(counts.items())))
    print(f"{tried.total()} inputs in {took:.0f} s, {tried.total() / took:.0f} per second")
    print(f"failures {failures.total()}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
