"""From a report in the Task to the Executor's hook, one event at a time, beside its two unavoidable parts:
a bare pyzmq DEALER-ROUTER-DEALER hop, and one commit to a journal on disk (SQLite, WAL, synchronous=FULL).
"""

from __future__ import annotations

import multiprocessing
import sqlite3
import struct
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import zmq
from figures import Figures, percentile

EVENTS = 300
SPACING_S = 0.005
ROUNDS = 3
PAYLOAD = b"x" * 200
TASK = Path(__file__).parent / "tasks.py"


def _router(pipe: Connection) -> None:
    """Forward what `sender` sends to `receiver`."""
    socket = zmq.Context().socket(zmq.ROUTER)
    pipe.send(socket.bind_to_random_port("tcp://127.0.0.1"))
    for _ in range(EVENTS + 1):
        _, body = socket.recv_multipart()
        if body != b"hello":
            socket.send_multipart([b"receiver", body])


def _receiver(port: int, pipe: Connection) -> None:
    """Take the latency of every message, in milliseconds."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, b"receiver")
    socket.connect(f"tcp://127.0.0.1:{port}")
    socket.send(b"hello")
    latencies = []
    for _ in range(EVENTS):
        body = socket.recv()
        latencies.append((time.time() - struct.unpack_from("d", body)[0]) * 1000)
    pipe.send(latencies)


def bare_hop_ms() -> float:
    """Median latency of DEALER-ROUTER-DEALER over TCP loopback, three processes."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    router = spawn.Process(target=_router, args=(theirs,))
    router.start()
    port = ours.recv()
    receiver = spawn.Process(target=_receiver, args=(port, theirs))
    receiver.start()
    sender = zmq.Context().socket(zmq.DEALER)
    sender.connect(f"tcp://127.0.0.1:{port}")
    time.sleep(1.0)  # the receiver has to be known to the router
    for _ in range(EVENTS):
        sender.send(struct.pack("d", time.time()) + PAYLOAD)
        time.sleep(SPACING_S)
    latencies = ours.recv()
    router.join(5)
    receiver.join(5)
    return median(latencies)


def commit_ms(directory: Path) -> float:
    """Median time of one commit of one small row."""
    journal = sqlite3.connect(directory / "peer.sqlite", isolation_level=None)
    journal.execute("PRAGMA journal_mode=WAL")
    journal.execute("PRAGMA synchronous=FULL")
    journal.execute("CREATE TABLE IF NOT EXISTS batches (sequence INTEGER PRIMARY KEY, body BLOB)")
    times = []
    for _ in range(EVENTS):
        before = time.perf_counter()
        journal.execute("BEGIN")
        journal.execute("INSERT INTO batches (body) VALUES (?)", (PAYLOAD,))
        journal.execute("COMMIT")
        times.append((time.perf_counter() - before) * 1000)
        time.sleep(SPACING_S)
    journal.close()
    return median(times)


def theorbo_ms() -> list[float]:
    """Latencies of log lines that a Task reports one at a time, as an Executor's hook sees them."""
    from theorbo.executor import Executor

    latencies: list[float] = []
    executor = Executor(f"{TASK}:OneAtATime", parameters={"events": EVENTS, "spacing_s": SPACING_S})
    executor.add_hook("TASK_LOG", lambda _executor, event: latencies.append((time.time() - event.time) * 1000))
    outcome = executor.execute_task()
    if outcome.exit_status != 0 or len(latencies) < EVENTS:
        raise SystemExit(f"the Task ended {outcome}; {len(latencies)} of {EVENTS} log lines arrived")
    return latencies


def main() -> None:
    """Measure all three in turn."""
    hops, commits, ours, high = [], [], [], []
    with tempfile.TemporaryDirectory(dir=Path.home()) as directory:
        for _ in range(ROUNDS):
            hops.append(bare_hop_ms())
            commits.append(commit_ms(Path(directory)))
            latencies = theorbo_ms()
            ours.append(median(latencies))
            high.append(percentile(latencies, 0.99))
    figures = Figures("From a report in the Task to the Executor's hook, one event at a time")
    figures.add("bare DEALER-ROUTER-DEALER hop, p50", hops, "ms")
    figures.add("one journal commit, p50", commits, "ms")
    figures.add("theorbo, p50", ours, "ms")
    figures.add("theorbo, p99", high, "ms")
    figures.add(
        "ratio of p50 to hop + commit",
        [a / (b + c) for a, b, c in zip(ours, hops, commits, strict=True)],
        "x",
        goal=3.0,
    )
    figures.finish()


if __name__ == "__main__":
    main()
