"""The processes of a chaos run: started, killed, found again, and at the end all gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.chaos import task
from tests.proxy.front import Front
from tests.running_broker import RunningBroker

THEORBO = (sys.executable, "-m", "theorbo.schemas.command")
DEADLINE_S = 30.0
"""What takes longer to start, or to end when it was killed, has failed."""

ATTACH_AGAIN = 10
"""So often an `attach` that found no broker is tried again; then something is wrong."""

UNAVAILABLE = 6
"""Exit status of a command that found no broker."""


class Failed(Exception):
    """The run cannot go on; the text says why."""


class Parties:
    """Everything lies below `scratch`, and every process of the run has that path in its environment."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.environment = {**os.environ}
        for name in [name for name in os.environ if name.startswith("THEORBO_")]:
            del self.environment[name]
        for variable in ("STATE", "CONFIG", "SPOOL_ROOT"):
            directory = scratch / variable.lower()
            directory.mkdir(mode=0o700)
            self.environment[f"THEORBO_{variable}"] = str(directory)
        self.counts = scratch / "counts"
        self.counts.mkdir()
        self.broker_peak_kib = 0
        self.executors: list[subprocess.Popen[bytes]] = []
        self.observer: subprocess.Popen[bytes] | None = None
        self.execution = ""
        self.refused_attaches = 0

    # --- beginning --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the broker, and the network before it."""
        state = self.scratch / "broker"
        state.mkdir()
        self.broker = RunningBroker(state, "--log-level", "warning", environment=self.environment)
        self.front = Front(self.broker.connection_file, self.scratch / "front.json")

    def observe(self) -> None:
        """Start the complete observer, and wait until it has joined: it is to see everything."""
        options = ("--json", "--verify", "--until-ended", "--task", task.Reports.__name__)
        self.observer = self._start("observer", "tail", *options, "--broker", str(self.broker.connection_file))
        self._wait_for("the observer to join", lambda: "what follows is live" in self.words("observer"))

    def run(self, ranks: int, events: int, seconds: float) -> None:
        """Start the first Executor, and wait until all ranks run. Everybody it starts comes through the proxies."""
        parameters = {"events": events // ranks, "seconds": seconds, "counts": str(self.counts)}
        given = [word for name, value in parameters.items() for word in ("-p", f"{name}={json.dumps(value)}")]
        what = f"{Path(task.__file__)}:{task.Reports.__name__}"
        self._execute("run", what, "--ranks", str(ranks), *given, "--json", "--broker", str(self.front.connection_file))
        lines = self.scratch / "executor-1.jsonl"
        self._wait_for("the ranks to start", lambda: lines.read_bytes().count(b'"kind":"rank_started"') == ranks)
        self.execution = json.loads(lines.open().readline())["execution"]

    def attach(self) -> None:
        """Start the next Executor, which goes on where the last one was."""
        broker = str(self.broker.connection_file)
        self._execute("attach", self.execution, "--take-over", "--json", "--broker", broker)

    def _execute(self, *command: str) -> None:
        self.executors.append(self._start(f"executor-{len(self.executors) + 1}", *command))

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with self._file(name, ".jsonl").open("wb") as lines, self._file(name, ".err").open("wb") as words:
            return subprocess.Popen(
                [*THEORBO, *command], stdin=subprocess.DEVNULL, stdout=lines, stderr=words, env=self.environment
            )

    def _file(self, name: str, suffix: str) -> Path:
        return self.scratch / (name + suffix)

    def words(self, name: str) -> str:
        """What a party has said on stderr."""
        return self._file(name, ".err").read_text(errors="replace")

    def lines(self, name: str) -> Path:
        """What a party has written to stdout."""
        return self._file(name, ".jsonl")

    def _wait_for(self, what: str, condition: Any) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                raise Failed(f"waited {DEADLINE_S:g} s in vain for {what}")
            self.look()
            time.sleep(0.02)

    # --- killing ----------------------------------------------------------------------------------

    def kill_broker(self) -> None:
        """SIGKILL; how large it was is kept."""
        self.measure_broker()
        self.broker.kill()

    def start_broker(self, *, elsewhere: bool) -> None:
        """On the same ports or on others; the proxies follow."""
        if elsewhere:
            self.broker.move()
        self.broker.start()
        self.front.follow()

    def kill_agent(self) -> None:
        """SIGKILL to the agent; if its successor is only being started, to that."""
        self._wait_for("an agent", self._agents)
        for pid in self._agents():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _agents(self) -> list[int]:
        return [pid for pid, command in self.living().items() if "theorbo.task_runtime.agent" in command]

    def kill_executor(self) -> None:
        """SIGKILL to the Executor of the moment, and attach another one."""
        self._wait_for("an Executor", lambda: self.executors[-1].poll() is None)
        self.executors[-1].kill()
        self.executors[-1].wait(DEADLINE_S)
        self.attach()

    def look(self) -> None:
        """See that those who are to live do. An `attach` that found no broker is tried again. Raises Failed."""
        if self.executors and self.executors[-1].poll() not in (None, 0):
            status, name = self.executors[-1].returncode, f"executor-{len(self.executors)}"
            if status != UNAVAILABLE or not self.execution or self.refused_attaches == ATTACH_AGAIN:
                raise Failed(f"{name} ended with status {status}: {self.words(name).strip()[-500:]}")
            self.refused_attaches += 1
            self.attach()
        if self.observer and self.observer.poll() not in (None, 0):
            raise Failed(f"the observer ended with status {self.observer.returncode}: {self.words('observer')[-1000:]}")

    def measure_broker(self) -> int:
        """Its memory now, in KiB; its largest is kept."""
        fields = dict.fromkeys(("VmRSS:", "VmHWM:"), 0)
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.broker.process.pid}/status").read_text().splitlines():
                name, *rest = line.split()
                if name in fields:
                    fields[name] = int(rest[0])
        self.broker_peak_kib = max(self.broker_peak_kib, fields["VmHWM:"])
        return fields["VmRSS:"]

    # --- the end ----------------------------------------------------------------------------------

    def living(self) -> dict[int, str]:
        """Processes of this run, whoever has started them, by pid: their command lines."""
        marker, found = os.fsencode(self.scratch), {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if marker in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def left(self) -> dict[int, str]:
        """The living, but for the broker."""
        return {pid: command for pid, command in self.living().items() if pid != self.broker.process.pid}

    def command(self, *command: str, into: Path) -> int:
        """Run a command to its end, its output into a file; its exit status."""
        with into.open("wb") as output:
            return subprocess.run(
                [*THEORBO, *command], stdin=subprocess.DEVNULL, stdout=output, env=self.environment, timeout=300
            ).returncode

    def end(self) -> None:
        """Kill whatever is left, and close the proxies."""
        deadline = time.monotonic() + DEADLINE_S
        while (living := self.living()) and time.monotonic() < deadline:  # again: something may be starting just now
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            broker = [self.broker.process] if hasattr(self, "broker") else []
            for child in (*broker, *filter(None, [self.observer]), *self.executors):
                child.wait(DEADLINE_S)
        if hasattr(self, "front"):
            self.front.close()
