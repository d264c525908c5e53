"""An observer joins 100 times in a row while events flow at the highest rate that an Executor and one decoding
observer keep up with on this machine. Each time snapshot and stream must be without gap or double.

First the rate is looked for: each step of a ladder runs for a few seconds; the Executor's hook and the observer keep
up if neither is more than half a second behind at the end. Then one execution flows at that rate, an Executor and
one observer take everything, and another observer joins again and again: the first event behind the snapshot's head
must be the next that the Task has counted, and so on. At the end the Executor and the first observer must have
what the Task has reported.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from figures import Figures, percentile

TASK = Path(__file__).parent / "tasks.py"
LADDER = [10_000, 15_000, 20_000, 30_000, 40_000, 50_000]
STEP_S = 4.0
BEHIND_S = 0.5
JOINS = 100
EVENTS_PER_JOIN = 2_000
FLOW_S = 120.0


def observe(execution: str, pipe: Connection) -> None:
    """Decode everything of an execution, verified; tell the events, how late the worst was, and the verdict."""
    from theorbo.observer.filters import Filter
    from theorbo.observer.tally import Tally
    from theorbo.observer.values import Observation, Snapshot
    from theorbo.observer.watcher import Watcher

    wanted = Filter.of(execution=execution)
    tally = Tally(wanted.followed)
    logs, head, late_s, last_late_s = 0, 0, 0.0, 0.0
    with Watcher(None, wanted, until_ended=True, tally=tally) as watcher:
        while not watcher.finished:
            for item in watcher.collect():
                if isinstance(item, Snapshot):
                    head = sum(view["heads"].get("log", 0) for view in item.views)
                    pipe.send("joined")
                elif isinstance(item, Observation) and item.event.kind == "log":
                    logs += 1
                    last_late_s = time.time() - item.event.time
                    late_s = max(late_s, last_late_s)
            if not watcher.finished:
                watcher.wait()
    verification = tally.verification(complete=True)
    pipe.send((head + logs, late_s, last_late_s, verification.problems))


class Flow:
    """An execution that reports at a rate, its Executor in this process, and one observer in another."""

    def __init__(self, rate: float, seconds: float) -> None:
        from theorbo.executor import Executor

        self.hooked, self.executor_late_s = 0, 0.0
        self.stop_file = Path(tempfile.mkdtemp(), "stop")
        parameters = {"rate": rate, "seconds": seconds, "stop_file": str(self.stop_file)}
        executor = Executor(f"{TASK}:Paced", parameters=parameters)
        self._named = threading.Event()
        executor.add_hook("TASK_LOG", self._take)
        self._executor = executor
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        if not self._named.wait(30):
            raise SystemExit("the Task does not report")
        spawn = multiprocessing.get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        self._observer = spawn.Process(target=observe, args=(self.execution, theirs))
        self._observer.start()
        if self._ours.recv() != "joined":
            raise SystemExit("the observer has not joined")

    def _run(self) -> None:
        self.outcome = self._executor.execute_task()

    def _take(self, _executor: object, reported: object) -> None:
        self.hooked += 1
        self.executor_late_s = time.time() - reported.time  # type: ignore[attr-defined]
        if not self._named.is_set():
            self.execution = self._executor.execution
            self._named.set()

    def end(self) -> tuple[int, float, float, list[str]]:
        """Events reported, lateness of the Executor's and of the observer's last event, and what is wrong."""
        self._thread.join()
        total = self.outcome.results[-1].parts[0].value
        seen, _, observer_late_s, problems = self._ours.recv()
        self._observer.join(10)
        wrong = list(problems)
        if self.outcome.exit_status != 0:
            wrong.append(f"the Task ended {self.outcome}")
        if not total == self.hooked == seen:
            wrong.append(f"reported {total}, at the Executor {self.hooked}, at the observer {seen}")
        return total, self.executor_late_s, observer_late_s, wrong


def highest_rate() -> int:
    """The highest step of the ladder that Executor and observer keep up with."""
    best = 0
    for rate in LADDER:
        total, executor_s, observer_s, wrong = Flow(rate, STEP_S).end()
        if wrong:
            raise SystemExit("; ".join(wrong))
        offered = total >= 0.95 * rate * STEP_S
        keeps_up = offered and executor_s < BEHIND_S and observer_s < BEHIND_S
        print(
            f"  {rate} events/s: {total} reported; the last was {executor_s:.3f} s late at the Executor, "
            f"{observer_s:.3f} s at the observer: {'keeps up' if keeps_up else 'too much'}",
            flush=True,
        )
        if not keeps_up:
            break
        best = rate
    return best


def join_once(execution: str) -> tuple[float, int, list[str]]:
    """Join, take some events, leave: seconds until the snapshot, the head, and what was wrong."""
    from theorbo.observer.filters import Filter
    from theorbo.observer.tally import Tally
    from theorbo.observer.values import Missed, Observation, Snapshot
    from theorbo.observer.watcher import Watcher

    wanted = Filter.of(execution=execution)
    tally = Tally(wanted.followed)
    began, joined_s, head, expected, taken = time.monotonic(), 0.0, 0, 0, 0
    wrong: list[str] = []
    with Watcher(None, wanted, tally=tally) as watcher:
        while taken < EVENTS_PER_JOIN and not wrong:
            for item in watcher.collect():
                if isinstance(item, Snapshot):
                    joined_s = time.monotonic() - began
                    head = expected = item.views[0]["heads"].get("log", 0)
                elif isinstance(item, Missed):
                    wrong.append(f"missed {item}")
                elif isinstance(item, Observation) and item.event.kind == "log":
                    expected += 1
                    taken += 1
                    counted = int(item.event.text.split()[0])  # by the Task itself
                    if not counted == item.header.first == item.header.position == expected:
                        wrong.append(f"{expected} was expected, {counted} came at position {item.header.position}")
            watcher.wait()
    return joined_s, head, wrong + list(tally.verification(complete=False).problems)


def main() -> None:
    """Find the rate, then join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, help="events per second; without it the highest is looked for")
    parser.add_argument("--joins", type=int, default=JOINS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.home()) as state:
        os.environ.update(THEORBO_STATE=state, THEORBO_CONFIG=state)
        figures = Figures("Joining a stream that flows")
        rate = options.rate or highest_rate()
        if not rate:
            raise SystemExit(
                f"Executor and observer do not keep up with {LADDER[0]} events/s here; is the machine busy?"
            )
        flow = Flow(rate, FLOW_S)
        began, before = time.monotonic(), flow.hooked
        times, heads, wrong = [], [], []
        for _ in range(options.joins):
            joined_s, head, problems = join_once(flow.execution)
            times.append(joined_s * 1000)
            heads.append(head)
            wrong += problems
        flowed = (flow.hooked - before) / (time.monotonic() - began)
        flow.stop_file.touch()
        total, executor_s, observer_s, problems = flow.end()
    wrong += problems
    figures.add("rate that was asked for", [rate / 1000], "k/s")
    figures.add("rate at the Executor while joining", [flowed / 1000], "k/s")
    figures.add("join: sockets, subscriptions, snapshot; p50", times, "ms")
    figures.add("join, p99", [percentile(times, 0.99)], "ms")
    figures.add("last event at the Executor, late", [executor_s], "s")
    figures.add("last event at the observer, late", [observer_s], "s")
    print(f"  events reported = at the Executor's hook = at the observer: {total}")
    print(f"  joins {len(times)}, heads from {min(heads)} to {max(heads)}, gaps and doubles {len(wrong)}")
    for text in wrong[:10]:
        print(f"  WRONG: {text}")
    if wrong or flowed < 0.9 * rate:
        raise SystemExit(1)
    figures.finish()


if __name__ == "__main__":
    main()
