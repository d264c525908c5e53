"""`theorbo run` of an empty Task with a broker of its own, and from the Task's end to the Executor's knowledge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figures

ROUNDS = 7
TASK = Path(__file__).parent / "tasks.py"


def empty_run(state: Path) -> tuple[float, float]:
    """Seconds of the whole command with no broker running before, and milliseconds from the end of the rank's
    process to the moment in which the Executor has the final state (and has printed it).
    """
    environment = {**os.environ, "THEORBO_STATE": str(state), "THEORBO_CONFIG": str(state)}
    before = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "theorbo.schemas.command", "run", f"{TASK}:Empty", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    ended = known = 0.0
    for line in process.stdout:
        fields = json.loads(line)
        if fields["kind"] == "rank_ended":
            ended = fields["time"]
        if fields["kind"] == "state_changed":
            known = time.time()  # the last one is the final one
    if process.wait() != 0:
        raise SystemExit(f"theorbo run ended with {process.returncode}")
    return time.perf_counter() - before, (known - ended) * 1000


def python_start() -> float:
    """Seconds that one `python -c 'import zmq, pydantic'` takes: the floor of anything of ours."""
    before = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import zmq, pydantic"], check=True)
    return time.perf_counter() - before


def main() -> None:
    """Measure both in turn."""
    floors, totals, ends = [], [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as state:
            floors.append(python_start())
            total_s, end_ms = empty_run(Path(state))
            totals.append(total_s)
            ends.append(end_ms)
    figures = Figures("theorbo run of an empty Task")
    figures.add("python -c 'import zmq, pydantic'", floors, "s")
    figures.add("theorbo run, with a broker of its own, in all", totals, "s", goal=1.5)
    figures.add("ratio", [a / b for a, b in zip(totals, floors, strict=True)], "x")
    figures.add("end of the rank's program to the final state at the Executor", ends, "ms", goal=50.0)
    figures.finish()


if __name__ == "__main__":
    main()
