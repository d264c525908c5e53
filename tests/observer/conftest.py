"""Producers and running tails of the observer's tests."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import DEADLINE_S, RunningBroker
from tests.observer.producer import Producer


@pytest.fixture
def producer(broker: RunningBroker) -> Iterator[Callable[..., Producer]]:
    """Makes executions: `producer(experiment="mfx1")`."""
    made: list[Producer] = []

    def make(**submitted: Any) -> Producer:
        made.append(Producer(broker.connection_file, **submitted))
        return made[-1]

    yield make
    for item in made:
        item.close()


class Tail:
    """A running `theorbo tail`, joined: what was there before is in its snapshot."""

    def __init__(self, broker: RunningBroker, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "theorbo.schemas.command", "tail",
                "--broker", str(broker.connection_file), *options,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self._words: queue.Queue[str] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._lines)),
            threading.Thread(target=self._read, args=(self.process.stderr, self._words)),
        ]
        for reader in self._readers:
            reader.start()
        self.wait_said("what follows is live")

    def _read(self, stream: Any, into: queue.Queue[str]) -> None:
        for line in stream:
            into.put(line.rstrip("\n"))
        stream.close()

    def line(self, timeout_s: float = DEADLINE_S) -> str:
        return self._lines.get(timeout=timeout_s)

    def object(self) -> dict[str, Any]:
        return json.loads(self.line())

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """All objects up to the first that fits."""
        found = [self.object()]
        while not condition(found[-1]):
            found.append(self.object())
        return found

    def rest(self) -> list[str]:
        """The lines that are left once it has ended."""
        self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return [self._lines.get_nowait() for _ in range(self._lines.qsize())]

    def wait_said(self, text: str) -> str:
        """Wait for a line on stderr; the lines up to it."""
        said, deadline = "", time.monotonic() + DEADLINE_S
        while text not in said:
            try:
                said += self._words.get(timeout=max(0.0, deadline - time.monotonic())) + "\n"
            except queue.Empty:
                raise AssertionError(f"{text!r} was not said, but {said!r}") from None
        return said

    def said(self) -> str:
        """What else was said on stderr."""
        return "\n".join(self._words.get_nowait() for _ in range(self._words.qsize()))

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
        status = self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return status


@pytest.fixture
def tail(broker: RunningBroker) -> Iterator[Callable[..., Tail]]:
    """Starts tails: `tail("--json", "--experiment", "mfx1")`."""
    started: list[Tail] = []

    def start(*options: str) -> Tail:
        started.append(Tail(broker, *options))
        return started[-1]

    yield start
    for item in started:
        item.end()
