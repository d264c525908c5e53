"""What the tests of deaths share: an execution that reports all the time, and who watches it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.proxy.proxy import Proxy, Way
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.frames import Command, Header, decode_json
from theorbo.schemas.limits import HEARTBEAT_S, SUSPECT_S
from theorbo.schemas.link import Link

TASKS = Path(__file__).parent / "tasks.py"
DEADLINE_S = 40.0

SLACK_S = 2 * HEARTBEAT_S + 3.0
"""What noticing something may take beyond the limit: both sides look once a second, and this machine is busy."""


class Program:
    """A command of ours under way; every line it writes is kept with the time at which it came."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "theorbo.schemas.command", *arguments], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})},
        )  # fmt: skip
        self.objects: list[dict[str, Any]] = []
        self.words: list[tuple[float, str]] = []
        self._readers = [threading.Thread(target=read) for read in (self._read_objects, self._read_words)]
        for reader in self._readers:
            reader.start()

    def _read_objects(self) -> None:
        for line in self.process.stdout:
            self.objects.append(json.loads(line))
        self.process.stdout.close()

    def _read_words(self) -> None:
        for line in self.process.stderr:
            self.words.append((time.monotonic(), line))
        self.process.stderr.close()

    def said_at(self, text: str, since: float = 0.0, timeout_s: float = DEADLINE_S) -> float:
        """When it has said `text` on stderr, after waiting for that."""

        def found() -> float | None:
            return next((at for at, line in list(self.words) if text in line and at >= since), None)

        return wait_until(found, f"{text!r} in {self.said()!r}", timeout_s)

    def said(self) -> str:
        """All of it so far."""
        return "".join(line for _, line in self.words)

    def ticks(self) -> list[int]:
        """The ticks of its Task that it has shown so far, in that order."""
        return [int(e["text"][5:]) for e in list(self.objects) if e["kind"] == "log" and e["text"].startswith("tick ")]

    def last_tick_at(self) -> float:
        """When the last of them was reported: whoever brought it was heard after that."""
        return by_our_clock([e["time"] for e in self.kind("log") if e["text"].startswith("tick ")][-1])

    def kind(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind that it has shown so far."""
        return [event for event in list(self.objects) if event["kind"] == kind]

    def wait_ticks(self, count: int = 1, timeout_s: float = DEADLINE_S) -> float:
        """Wait until it has shown so many more ticks than now; the time."""
        wanted = len(self.ticks()) + count
        wait_until(lambda: len(self.ticks()) >= wanted, f"tick {wanted}; {self.said()}", timeout_s)
        return time.monotonic()

    def end(self, timeout_s: float = DEADLINE_S) -> int:
        """Its exit status, when it has ended and everything is read."""
        status = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join(timeout_s)
        return status


class Scene:
    """One execution of `Ticks` with all who take part in it. `finish` ends it in good order."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._gate = place / f"{uuid.uuid4().hex}.gate"
        self._programs: list[Program] = []
        self._stopped: set[int] = set()
        self.executor: Program | None = None

    # --- parties ----------------------------------------------------------------------------------

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> Program:
        """Any command."""
        self._programs.append(Program(*map(str, arguments), environment=environment))
        return self._programs[-1]

    def run(self, *options: str, environment: dict[str, str] | None = None) -> Program:
        """`theorbo run`; returns when its first tick has come."""
        until = ("-p", f"until={self._gate}")
        self.executor = self.start("run", f"{TASKS}:Ticks", "--json", *until, *options, environment=environment)
        self.executor.wait_ticks()
        return self.executor

    def tail(self, *options: str) -> Program:
        """`theorbo tail`, joined."""
        tail = self.start("tail", "--json", *options)
        tail.said_at("what follows is live")
        return tail

    @property
    def execution(self) -> str:
        """The id."""
        return str(self.executor.objects[0]["execution"])

    def reported(self) -> int:
        """How many ticks the rank says it has reported, at least."""
        with contextlib.suppress(OSError, ValueError):
            return int(Path(f"{self._gate}.count").read_text())
        return 0

    def living(self) -> dict[int, str]:
        """Processes that the execution has, but for the Executor, by pid: their command lines."""
        found, marker = {}, self._gate.name.encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if marker in command + (entry / "environ").read_bytes() or self._mine(command):
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode()
        for program in self._programs:
            found.pop(program.process.pid, None)
        return found

    def _mine(self, command: bytes) -> bool:
        return self.executor is not None and bool(self.executor.objects) and self.execution.encode() in command

    def pid(self, part: str) -> int:
        """The process whose command line has `part` in it, when there is one."""
        return int(wait_until(lambda: next((pid for pid, c in self.living().items() if part in c), None), part))

    def agent(self) -> int:
        """The agent's process."""
        return self.pid("theorbo.task_runtime.agent")

    def kill_agent(self) -> int:
        """SIGKILL; who it was."""
        agent = self.agent()
        os.kill(agent, signal.SIGKILL)
        wait_until(lambda: agent not in self.living(), "the agent to be dead")
        return agent

    @property
    def spool(self) -> Path:
        """Where the agent and the ranks leave what they report."""
        return Path(os.environ["THEORBO_SPOOL_ROOT"], f"theorbo-{os.getuid()}", self.execution)

    def stop(self, pid: int) -> float:
        """SIGSTOP; when."""
        self._stopped.add(pid)
        os.kill(pid, signal.SIGSTOP)
        return time.monotonic()

    def go_on(self, pid: int) -> float:
        """SIGCONT; when."""
        self._stopped.discard(pid)
        os.kill(pid, signal.SIGCONT)
        return time.monotonic()

    # --- the end ------------------------------------------------------------------------------------

    def let_end(self) -> None:
        """The Task ends by itself."""
        self._gate.touch()

    def finish(self, *watching: Program, state: str = "COMPLETED") -> None:
        """Let the Task end. The Executor, and who else is `watching`, must have every tick once and in order."""
        self.let_end()
        assert self.executor is not None
        assert self.executor.end() == 0, self.executor.said()
        outcome = self.executor.objects[-1]
        assert (outcome["kind"], outcome["state"]) == ("outcome", state), outcome
        everything = list(range(self.reported()))
        assert everything
        for program in (self.executor, *watching):
            wait_until(lambda program=program: program.ticks()[-1:] == everything[-1:], f"tick {everything[-1]}")
            assert program.ticks() == everything
            assert "Traceback" not in program.said()
        wait_until(lambda: not self.living(), "all processes to go")

    def close(self) -> None:
        """Leave nothing behind."""
        self.let_end()
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for program in self._programs:
            if program.process.poll() is None:
                program.process.kill()
        deadline = time.monotonic() + DEADLINE_S
        while (living := self.living()) and time.monotonic() < deadline:
            for pid in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for program in self._programs:
            program.end()


class Asking:
    """Asks a broker what it knows."""

    def __init__(self, connection_file: Path) -> None:
        self._link = Link(connection_file)
        self._link.wait_welcome(DEADLINE_S)

    def view(self, execution: str) -> dict[str, Any]:
        """The view of an execution."""
        question = (Command.LIST, Header(execution=bytes.fromhex(execution)), b'{"all":true,"limit":1}')
        try:
            answer = self._link.ask(*question)
        except Unavailable:  # after a pause of the test's the broker did not know us any more; now it does
            answer = self._link.ask(*question)
        return dict(decode_json(answer.body)["executions"][0])

    def when(self, execution: str, condition: Callable[[dict[str, Any]], bool], timeout_s: float = DEADLINE_S) -> float:
        """When the view fulfils a condition, after waiting for that."""
        wait_until(lambda: condition(self.view(execution)), str(self.view(execution)), timeout_s)
        return time.monotonic()

    def contact(self, execution: str, who: str, contact: str) -> float:
        """When somebody is alive, suspect or silent."""
        return self.when(execution, lambda view: view["contact"].get(who) == contact)

    def close(self) -> None:
        self._link.close()


def by_our_clock(unix_time: float) -> float:
    """The same by `time.monotonic`."""
    return unix_time - time.time() + time.monotonic()


def executor_heard_at(journal: Path, execution: str, tail: Program) -> float:
    """When the broker has heard the Executor, or earlier: the commit of the last event whose hooks it has confirmed."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        [confirmed] = connection.execute(
            "SELECT confirmed FROM executions WHERE execution = ?", (bytes.fromhex(execution),)
        ).fetchone()
    shown = [event for event in list(tail.objects) if "journaled" in event]
    return by_our_clock(max(event["journaled"] for event in shown if event["sequence"] <= confirmed))


def wait_answer(proxy: Proxy) -> float:
    """Wait until the broker has said something by way of the proxy; when, or earlier."""
    before, at, looked_at = proxy.forwarded[Way.DOWN], 0.0, time.monotonic()

    def answered() -> bool:
        nonlocal at, looked_at
        at, looked_at = looked_at, time.monotonic()
        return proxy.forwarded[Way.DOWN] > before

    wait_until(answered, "a word of the broker")
    return at


def assert_noticed(at: float, *, heard_at: float, gone_at: float, limit_s: float = SUSPECT_S) -> None:
    """Silence was noticed in time, and not before its time.

    The silence begins when somebody was heard last, and not when it died: that may be a heartbeat earlier, or more
    where the machine is busy. `heard_at` is when it was surely heard, by what came of it.
    """
    assert heard_at + limit_s <= at, f"{heard_at + limit_s - at:.3f} s before its time"
    assert at <= gone_at + limit_s + SLACK_S, f"{at - gone_at:.3f} s after it was gone"


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """What the condition gives, when that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.02)
    return found


def with_limits(place: Path, **limits: float) -> dict[str, str]:
    """An environment in which every Python of ours has other limits: the real ones are minutes."""
    place.mkdir()
    lines = [f"limits.{name} = {value}" for name, value in limits.items()]
    (place / "sitecustomize.py").write_text("\n".join(["from theorbo.schemas import limits", *lines, ""]))
    return {"PYTHONPATH": os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])}
