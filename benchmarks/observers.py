"""What observers cost: a Task reports 1,000 events/s to an Executor through a real broker (TCP, CURVE, a journal on
disk), with no observers, with 40 that read everything, and with 50 of which 10 are stopped (SIGSTOP).

Observers are 10 to a process (`watch_async`) and run at the lowest priority, for they would be on other machines: all
processes share this one's cores, and 40 that decode everything alone need more than one of them. Lateness is from
the Task's report to the Executor's hook, or to the observer's loop. The broker's memory is its share (PSS), the
highest of a sample each half second.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import NamedTuple

from figures import Figures, percentile

TASK = Path(__file__).parent / "tasks.py"
RATE = 1000.0
PER_PROCESS = 10
SCENES = {"no observers": (0, 0), "40 observers": (4, 0), "50 observers, 10 of them stopped": (4, 1)}


class Scene(NamedTuple):
    """What one run has shown."""

    events: int
    executor_ms: list[float]
    observers_ms: list[float]
    memory_mib: float
    wrong: list[str]


class Broker:
    """A broker of this run's own."""

    def __init__(self, state: Path) -> None:
        self.connection_file = state / "connection.json"
        reader, writer = os.pipe()
        command = [sys.executable, "-m", "theorbo.broker", "--state", str(state), "--ready-fd", str(writer)]
        command += ["--bind", "tcp://127.0.0.1:0", "--publisher", "tcp://127.0.0.1:0"]
        with (state / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=(writer,))
        os.close(writer)
        with open(reader) as answer:  # noqa: PTH123 - a descriptor
            words = answer.read()
        if not words.startswith("ready"):
            raise SystemExit(f"the broker did not start: {words}")

    def memory_mib(self) -> float:
        """Its proportional share, in MiB."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

    def end(self) -> None:
        """In good order."""
        self.process.terminate()
        self.process.wait(20)


def observe(broker: str, count: int, pipe: Connection) -> None:
    """So many observers in one process; tells when all have joined, at the end what they saw, and how late."""
    os.nice(19)
    late_ms: list[float] = []
    seen = [0] * count

    async def one(place: int, joined: asyncio.Event) -> None:
        from theorbo.observer import Missed, Observation, Snapshot, watch_async

        async for item in watch_async(broker, until_ended=True):
            if isinstance(item, Snapshot):
                joined.set()
            elif isinstance(item, Missed):
                pipe.send(f"missed {item}")
            elif isinstance(item, Observation) and item.event.kind == "log":
                seen[place] += 1
                late_ms.append((time.time() - item.event.time) * 1000)

    async def all_of_them() -> None:
        joined = [asyncio.Event() for _ in range(count)]
        tasks = [asyncio.create_task(one(place, event)) for place, event in enumerate(joined)]
        for event in joined:
            await event.wait()
        pipe.send("joined")
        await asyncio.gather(*tasks)

    asyncio.run(all_of_them())
    pipe.send((seen, late_ms))


class Observers:
    """Processes of them; some are stopped as soon as they have joined."""

    def __init__(self, broker: Path, running: int, stopped: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._running = running
        for _ in range(running + stopped):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=observe, args=(str(broker), PER_PROCESS, theirs))
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            if pipe.recv() != "joined":
                raise SystemExit("an observer has not joined")
        for process in self._processes[running:]:
            os.kill(process.pid or 0, signal.SIGSTOP)

    def end(self, total: int) -> tuple[list[float], list[str]]:
        """How late everything came at those that run, and what is wrong; the stopped ones are killed."""
        late_ms: list[float] = []
        wrong: list[str] = []
        for pipe in self._pipes[: self._running]:
            while isinstance(answer := pipe.recv(), str):
                wrong.append(answer)
            seen, late = answer
            late_ms += late
            wrong += [f"an observer has {count} of {total} events" for count in seen if count != total]
        for process in self._processes[self._running :]:
            process.kill()
        for process in self._processes:
            process.join(10)
        return late_ms, wrong


def play(directory: Path, running: int, stopped: int, seconds: float) -> Scene:
    """One run."""
    from theorbo.executor import Executor

    broker = Broker(directory)
    try:
        observers = Observers(broker.connection_file, running, stopped)
        late_ms: list[float] = []
        outcomes = []
        parameters = {"rate": RATE, "seconds": seconds}
        executor = Executor(f"{TASK}:Paced", parameters=parameters, broker=str(broker.connection_file))
        executor.add_hook("TASK_LOG", lambda _executor, event: late_ms.append((time.time() - event.time) * 1000))
        thread = threading.Thread(target=lambda: outcomes.append(executor.execute_task()))
        memory = [broker.memory_mib()]
        thread.start()
        while thread.is_alive():
            thread.join(0.5)
            memory.append(broker.memory_mib())
        (outcome,) = outcomes
        total = outcome.results[-1].parts[0].value
        observers_ms, wrong = observers.end(total)
        memory.append(broker.memory_mib())
    finally:
        broker.end()
    if outcome.exit_status != 0:
        wrong.append(f"the Task ended {outcome}")
    if len(late_ms) != total or total < 0.99 * RATE * seconds:
        wrong.append(f"{len(late_ms)} of {total} events at the Executor; {RATE * seconds:.0f} were to be offered")
    return Scene(total, late_ms, observers_ms, max(memory), wrong)


def bound_mib(observers: int) -> float:
    """What so many observers that do not read can make the broker hold, by the limits: one full queue each of live
    messages, which hold one record or `LIVE_BYTES`. Less in fact, for libzmq keeps one copy for all of them.
    """
    from theorbo.schemas.limits import LIVE_BYTES, MIB, PUBLISH_QUEUE_MESSAGES, RECORD_BYTES

    return observers * PUBLISH_QUEUE_MESSAGES * max(LIVE_BYTES, RECORD_BYTES) / MIB


def main() -> None:
    """All scenes in turn, several times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each run")
    options = parser.parse_args()
    scenes: dict[str, list[Scene]] = {name: [] for name in SCENES}
    figures = Figures(f"{RATE:.0f} events/s offered for {options.seconds:g} s, {os.cpu_count()} cores")
    for _ in range(options.rounds):
        for name, (running, stopped) in SCENES.items():
            with tempfile.TemporaryDirectory(dir=Path.home()) as state:
                os.environ.update(THEORBO_STATE=state, THEORBO_CONFIG=state)
                scenes[name].append(play(Path(state), running, stopped, options.seconds))
    wrong = []
    for name, played in scenes.items():
        events = sum(scene.events for scene in played)
        print(f"  {name}: {events} events, all of them at the Executor and at each that reads")
        figures.add("  late at the Executor, p50", [median(scene.executor_ms) for scene in played], "ms")
        figures.add("  late at the Executor, p99", [percentile(scene.executor_ms, 0.99) for scene in played], "ms")
        if played[0].observers_ms:
            figures.add("  late at the observers, p50", [median(scene.observers_ms) for scene in played], "ms")
            figures.add(
                "  late at the observers, p99", [percentile(scene.observers_ms, 0.99) for scene in played], "ms"
            )
        running, stopped = SCENES[name]
        bound = bound_mib(PER_PROCESS * stopped) + median([scene.memory_mib for scene in scenes["no observers"]])
        goal = bound if stopped else None
        figures.add("  the broker's memory (PSS)", [scene.memory_mib for scene in played], "MiB", goal=goal)
        wrong += [text for scene in played for text in scene.wrong]
    for text in wrong[:10]:
        print(f"  WRONG: {text}")
    if wrong:
        raise SystemExit(1)
    figures.finish()


if __name__ == "__main__":
    main()
