"""A real broker for tests and for the chaos run: started, killed, moved, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from theorbo.schemas.connection import Connection

DEADLINE_S = 20.0
"""A test that waits longer than this for something that should happen has failed."""


class RunningBroker:
    """A real `theorbo broker` process with a state directory of its own, on free loopback ports."""

    def __init__(self, state: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.state = state
        self.connection_file = state / "connection.json"
        self.log_file = state.parent / f"{state.name}.log"
        self._options = options
        self._environment = environment
        self.move()
        self.start()

    def start(self) -> None:
        """Start it, and return when it is ready; on the same ports as before, if it ran before."""
        reader, writer = os.pipe()
        router, publisher = self._addresses
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "theorbo.broker", "--state", str(self.state),
                    "--bind", router, "--publisher", publisher, "--ready-fd", str(writer), *self._options,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writer,),
                env=None if self._environment is None else {**os.environ, **self._environment},
            )  # fmt: skip
        os.close(writer)
        with open(reader, "rb") as answer:
            words = answer.read().decode()
        assert words.startswith("ready "), f"{words}\n{self.log}"
        connection = Connection.load(self.connection_file)
        self._addresses = (connection.router[0], connection.publisher[0])

    @property
    def log(self) -> str:
        """What the broker has written to stderr so far."""
        return self.log_file.read_text()

    def stop(self) -> int:
        """End it in good order; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def move(self) -> None:
        """From the next start on it has other ports."""
        self._addresses = ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")

    def restart(self) -> None:
        """Start it again on the same journal and ports, after ending it in good order if it still runs."""
        if self.process.poll() is None:
            self.stop()
        self.start()
