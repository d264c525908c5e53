"""Events per second from a Task's `log` to the Executor's hook, journal included, beside a direct pyzmq PUSH-PULL."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import zmq
from figures import Figures

EVENTS = 200_000
ROUNDS = 3
TASK = Path(__file__).parent / "tasks.py"


def _push(port: int) -> None:
    socket = zmq.Context().socket(zmq.PUSH)
    socket.connect(f"tcp://127.0.0.1:{port}")
    payload = b"x" * 200
    for _ in range(EVENTS):
        socket.send(payload)
    socket.close(linger=10_000)


def _pull(pipe: Connection) -> None:
    socket = zmq.Context().socket(zmq.PULL)
    pipe.send(socket.bind_to_random_port("tcp://127.0.0.1"))
    socket.recv()
    before = time.perf_counter()
    for _ in range(EVENTS - 1):
        socket.recv()
    pipe.send(EVENTS / (time.perf_counter() - before))


def push_pull() -> float:
    """Events per second, one message each, nothing in between and nothing on disk."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    pull = spawn.Process(target=_pull, args=(theirs,))
    pull.start()
    push = spawn.Process(target=_push, args=(ours.recv(),))
    push.start()
    rate: float = ours.recv()
    push.join(10)
    pull.join(10)
    return rate


def theorbo() -> float:
    """Events per second from the first to the last log line in an Executor's hook."""
    from theorbo.executor import Executor

    times: list[float] = []
    executor = Executor(f"{TASK}:Burst", parameters={"events": EVENTS})
    executor.add_hook("TASK_LOG", lambda _executor, _event: times.append(time.perf_counter()))
    outcome = executor.execute_task()
    if outcome.exit_status != 0 or len(times) < EVENTS:
        raise SystemExit(f"the Task ended {outcome}; {len(times)} of {EVENTS} log lines arrived")
    return EVENTS / (times[-1] - times[0])


def main() -> None:
    """Measure both in turn."""
    peers, ours = [], []
    for _ in range(ROUNDS):
        peers.append(push_pull() / 1000)
        ours.append(theorbo() / 1000)
    figures = Figures(f"{EVENTS} events of about 200 bytes, as fast as they go")
    figures.add("pyzmq PUSH-PULL, direct, nothing on disk", peers, "k/s")
    figures.add("theorbo: Task, agent, broker with journal, Executor's hook", ours, "k/s")
    figures.add("ratio", [a / b for a, b in zip(ours, peers, strict=True)], "x")
    figures.finish()


if __name__ == "__main__":
    main()
