"""What may happen to an execution on a Slurm cluster, as a table.

    python -m tests.slurm [--cgroups] [CASE…]

Builds the cluster, plays the cases one after the other, and removes the cluster. Exit status 1 if one has failed
or has left a job or a process behind.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.slurm.cases import CASES, CGROUP_CASES, Machines, Row, play
from tests.slurm.cluster import Cluster
from tests.slurm.executions import Observer

FORMAT = "{:28}  {:9}  {:>9}  {:>4}  {:>9}  {}"


def main() -> int:
    """Play them."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm", description=__doc__.partition("\n")[0])
    parser.add_argument("--cgroups", action="store_true", help="track processes as real sites do; fewer cases")
    parser.add_argument("case", nargs="*", help="these only")
    options = parser.parse_args()
    cases = CGROUP_CASES if options.cgroups and not options.case else CASES
    if unknown := set(options.case) - {case.__name__ for case in cases}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(it.__name__ for it in cases)}")
    rows: list[Row] = []
    began = time.monotonic()
    with Cluster(cgroups=options.cgroups) as cluster:
        observer = Observer(cluster)
        try:
            for case in cases:
                if not options.case or case.__name__ in options.case:
                    print(f"{case.__name__.replace('_', ' ')} …", flush=True)
                    rows.append(_played(case, Machines(cluster, observer)))
        finally:
            observer.close()
    print()
    print(FORMAT.format("case", "outcome", "noticed/s", "jobs", "processes", "reason"))
    for row in rows:
        print(FORMAT.format(row.case, row.outcome, f"{row.noticed_s:.1f}", row.jobs, row.processes, row.reason))
    print(f"{len(rows)} cases in {time.monotonic() - began:.0f} s; jobs and processes: left behind after each")
    return int(any(row.outcome == "-" or row.jobs or row.processes for row in rows))


def _played(case: object, machines: Machines) -> Row:
    try:
        return play(case, machines)  # type: ignore[arg-type]
    except Exception as error:
        traceback.print_exc()
        return Row(case.__name__, "-", str(error).splitlines()[0], 0.0, 0, 0)  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
