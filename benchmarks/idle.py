"""What broker, agent, launcher and Executor cost together while a Task sleeps: share of one core, and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figures

SETTLE_S = 5.0
WINDOW_S = 20.0
TASK = Path(__file__).parent / "tasks.py"
PARTS = ("theorbo.broker", "theorbo.task_runtime.agent", "theorbo.task_runtime.launch", "theorbo.schemas.command")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def processes(marker: str) -> dict[int, str]:
    """Our processes whose environment holds `marker`, with the part that each is."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if marker.encode() not in (entry / "environ").read_bytes():
                continue
            command = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
        except OSError:
            continue
        for part in PARTS:
            if part in command:
                found[int(entry.name)] = part
    return found


def cpu_s(pid: int) -> float:
    """User and system time so far, with scheduler precision (/proc/PID/schedstat, nanoseconds)."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def private_mib(pid: int) -> float:
    """Unshared memory (Private_Clean and Private_Dirty)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024


def main() -> None:
    """Run a Task that sleeps, and look at the others."""
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "THEORBO_STATE": state, "THEORBO_CONFIG": state}
        command = [sys.executable, "-m", "theorbo.schemas.command", "run", f"{TASK}:Idle"]
        command += ["-p", f"seconds={SETTLE_S + WINDOW_S + 5}"]
        run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        time.sleep(SETTLE_S)
        parts = processes(state)
        before = {pid: cpu_s(pid) for pid in parts}
        began = time.monotonic()
        time.sleep(WINDOW_S)
        seconds = time.monotonic() - began
        shares = {pid: (cpu_s(pid) - before[pid]) / seconds * 100 for pid in parts}
        memory = {pid: private_mib(pid) for pid in parts}
        run.wait()
    figures = Figures("Broker, agent, launcher and Executor while a Task sleeps")
    for pid, part in parts.items():
        figures.add(f"{part}, CPU", [shares[pid]], "%")
        figures.add(f"{part}, private memory", [memory[pid]], "MiB")
    figures.add("together, CPU", [sum(shares.values())], "%", goal=1.0)
    figures.finish()


if __name__ == "__main__":
    main()
