"""What happens to an execution on the cluster, seen by one observer on the login node."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.slurm.cluster import DEADLINE_S, Cluster

Event = dict[str, Any]

FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEDOUT", "LOST"})


class Lines:
    """Objects of JSON that a command on the login node prints, one a line, as far as they have come."""

    def __init__(self, cluster: Cluster, *command: str) -> None:
        self.process = cluster.start_as_ada(*command)
        self.objects: list[Event] = []
        self._words: list[str] = []
        self._news = threading.Condition()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._news:
                self.objects.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr
        self._words.extend(self.process.stderr)

    def wait(self, matches: Callable[[Event], Any], what: str, timeout_s: float = DEADLINE_S) -> Event:
        """The first object that matches, as soon as it is there."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        with self._news:
            while True:
                for found in self.objects[seen:]:
                    if matches(found):
                        return found
                seen = len(self.objects)
                left = deadline - time.monotonic()
                assert left > 0, f"waited {timeout_s:g} s in vain for {what}; last: {self.objects[-3:]} {self.words}"
                self._news.wait(min(left, 1.0))

    def end(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait for the end of the command; its exit status."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"has not ended after {timeout_s:g} s; last: {self.objects[-3:]} {self.words}"
            ) from None
        self.close()
        return status

    def close(self) -> None:
        """Let go of the command, whatever it does."""
        self.process.kill()  # what runs on the login node is not touched by that
        self.process.wait(DEADLINE_S)
        for thread in self._threads:
            thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()

    @staticmethod
    def parsed(text: str) -> list[Event]:
        """The objects of such lines."""
        return [json.loads(line) for line in text.splitlines()]

    @property
    def words(self) -> str:
        """What it has written to stderr."""
        return "".join(self._words)


class Observer:
    """`theorbo tail` and the contacts of all executions, from its start to `close`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.runs: list[Lines] = []
        """All that was run while it watched."""
        self.tail = Lines(cluster, "theorbo", "tail", "--json")
        self._contacts = Lines(cluster, "python", "/opt/programs/contacts.py")
        self._contacts.wait(lambda line: "watching" in line, "the observer of contacts")

    def close(self) -> None:
        """End both commands on the login node, by their process ids there."""
        for pid, command in self._cluster.processes("login").items():
            if any(name in command for name in ("theorbo tail", "contacts.py")):
                subprocess.run(["kill", str(pid)], check=False)
        self.tail.end()
        self._contacts.end()
        for run in self.runs:
            run.close()

    def is_of(self, command: str) -> bool:
        """Whether a process on the login node belongs to this observer."""
        return "theorbo tail" in command or "contacts.py" in command

    def contacts(self, execution: str) -> list[Event]:
        """Changes of contact of one execution: `time`, `peer`, `contact`."""
        return [line for line in self._contacts.objects if line.get("execution") == execution]

    def wait_contact(self, execution: str, peer: str, contact: str, since: float, timeout_s: float = 40.0) -> float:
        """When a peer's contact has become this, after `since`."""
        found = self._contacts.wait(
            lambda it: (it.get("execution"), it.get("peer"), it.get("contact")) == (execution, peer, contact)
            and it["time"] >= since,
            f"{peer} {contact}", timeout_s,
        )  # fmt: skip
        return float(found["time"])


class Execution:
    """One `theorbo run --launcher slurm` on the login node."""

    def __init__(
        self, cluster: Cluster, observer: Observer, *options: str, steps: int = 20, program: Sequence[str] = ()
    ) -> None:
        """`options` go before the Task; it is `Steps` if they name none and there is no `program`."""
        task = [] if any(it.startswith("/opt/programs/") for it in options) else ["/opt/programs/steps.py:Steps"]
        task = ["--", *program] if program else task
        given = ["-p", f"steps={steps}"] if task and not program else []
        self._observer = observer
        self.began = time.time()
        self.run = Lines(
            cluster, "theorbo", "run", "--json", "--launcher", "slurm", "--nodes", "2",
            "--ranks", "4", *given, *options, *task,
        )  # fmt: skip
        observer.runs.append(self.run)
        self.id = str(self.run.wait(lambda it: it.get("execution"), "an execution id")["execution"])

    def _is(self, event: Event, kind: str, fields: Event) -> bool:
        own = event.get("execution") == self.id and event.get("kind") == kind
        return own and all(event.get(name) == value for name, value in fields.items())

    def events(self, kind: str, **fields: Any) -> Iterator[Event]:
        """What the observer has seen of one kind, as far as it has come."""
        for event in list(self._observer.tail.objects):
            if self._is(event, kind, fields):
                yield event

    def wait(self, kind: str, timeout_s: float = DEADLINE_S, **fields: Any) -> Event:
        """The first event of a kind that the observer has seen, as soon as it is there."""
        return self._observer.tail.wait(
            lambda it: self._is(it, kind, fields),
            f"{kind} {fields}", timeout_s,
        )  # fmt: skip

    def wait_state(self, state: str, timeout_s: float = DEADLINE_S) -> Event:
        """The change to a state."""
        return self.wait("state_changed", timeout_s, state=state)

    def wait_steps(self, number: int) -> None:
        """Until all four ranks have reported that they are that far."""
        for rank in range(4):
            self.wait("progress", rank=rank, done=number)

    def over(self, timeout_s: float = 60.0) -> Event:
        """The change to the final state, when the observer has seen it and the Executor has ended."""
        self.run.end(timeout_s)
        return self._observer.tail.wait(
            lambda it: it.get("execution") == self.id and it.get("kind") == "state_changed" and it["state"] in FINAL,
            "a final state",
        )
