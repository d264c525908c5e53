"""What hostile clients can make the broker hold is bounded: the small form of benchmarks/hostile.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "hostile.py"


def test_the_brokers_memory_stays_within_its_bound_whatever_clients_do():
    done = subprocess.run([sys.executable, PROGRAM, "--small"], capture_output=True, text=True, timeout=110)
    rows = done.stdout.splitlines()[1:]
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rows) == 8
    assert all(row.endswith("within bound") for row in rows), done.stdout
