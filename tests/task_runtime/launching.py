"""Runs real launches against a real broker, and reads what the journal then has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from theorbo.schemas.delivery import Delivery
from theorbo.schemas.events import ExecutionSubmitted, decode_event, record_fields
from theorbo.schemas.frames import Command, Header, Message, encode_json
from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.limits import CHUNK_BYTES, CREDIT_BYTES
from theorbo.schemas.link import Link
from theorbo.schemas.names import EXECUTOR, Channel, Speaker, new_incarnation
from theorbo.schemas.records import encode_record, split_body
from theorbo.schemas.states import State

DEADLINE_S = 60.0


class Told(NamedTuple):
    """One event as a reader of the journal gets it."""

    source: str
    channel: str
    number: int
    event: Any


class Client:
    """A very small Executor: submits, follows, asks for a cancel."""

    def __init__(self, broker: Path, ranks: int = 1) -> None:
        self.execution = uuid.uuid4().bytes
        self.told: list[Told] = []
        self._delivery = Delivery(self.execution)
        self._link = Link(broker, Speaker(self.execution, EXECUTOR, 1, new_incarnation()))
        self._link.wait_welcome(10)
        self._delivery.welcomed()
        self._sequence = 0
        submitted = ExecutionSubmitted(time=time.time(), task="trial", ranks=ranks, user="u", host="h")
        self.report(record_fields(submitted))
        self._read()

    def report(self, fields: dict[str, Any]) -> None:
        self._delivery.offer(EXECUTOR, Channel.SIGNALS, encode_record(fields))
        self._send()

    def _send(self) -> None:
        for message in self._delivery.outgoing(time.time()):
            assert isinstance(message, Message)
            self._link.send(message)

    def _read(self) -> None:
        self._request = self._link.new_request()
        wanted = encode_json(follow=True, after=self._sequence, channels=None, credit=CREDIT_BYTES)
        self._link.send(Message(Command.READ, Header(request=self._request, execution=self.execution), wanted))

    def start_anew(self) -> None:
        """Forget what was told: the broker is about to have another journal."""
        self.told.clear()
        self._sequence = 0

    def follow(self, until: Any, deadline_s: float = DEADLINE_S) -> Any:
        """Read on until `until(self)` is true."""
        deadline = time.monotonic() + deadline_s
        while not (found := until(self)):
            assert time.monotonic() < deadline, f"in vain; so far: {Counter(t.event.kind for t in self.told)}"
            self._link.tick()
            for message in self._link.receive(0.2):
                self._take(message)
        return found

    def _take(self, message: Message) -> None:
        header = message.header
        if message.command == Command.WELCOME:  # the broker was restarted
            self._delivery.welcomed()
            self._read()
        elif message.command == Command.ACK:
            self._delivery.handle_ack(header, time.time())
        elif message.command == Command.REFUSED:
            raise AssertionError(message.body)
        elif message.command == Command.EVENTS and header.request == self._request:
            texts = split_body(message.body)
            assert len(texts) == header.count
            for index, text in enumerate(texts):
                channel = Channel(header.channel).text
                self.told.append(Told(str(header.source), channel, header.first + index, decode_event(text)))
            self._sequence = header.sequence
            credit = Header(
                request=self._request, execution=self.execution, count=len(message.body), sequence=header.sequence
            )
            self._link.send(Message(Command.CREDIT, credit))
        self._send()

    def fetch(self, sha256: str, size: int) -> bytes:
        """The content of an attachment, from the broker."""
        content = b""
        while len(content) < size:
            count = min(CHUNK_BYTES, size - len(content))
            header = Header(execution=self.execution, first=len(content), count=count)
            content += self._link.ask(Command.FETCH, header, bytes.fromhex(sha256)).body
        return content

    def events(self, kind: str, source: str | None = None) -> list[Any]:
        return [told.event for told in self.told if told.event.kind == kind and source in (None, told.source)]

    def texts(self, source: str, channel: str) -> list[str]:
        return [told.event.text for told in self.told if (told.source, told.channel) == (source, channel)]

    @property
    def outcome(self) -> tuple[str, str] | None:
        """The final state and its reason, once there is one."""
        changes = [event for event in self.events("state_changed") if State(event.state).final]
        return (changes[-1].state, changes[-1].reason) if changes else None

    def follow_to_end(self, deadline_s: float = DEADLINE_S) -> tuple[str, str]:
        outcome: tuple[str, str] = self.follow(lambda client: client.outcome, deadline_s)
        self.check_numbers()
        return outcome

    def check_numbers(self) -> None:
        """Every stream has the numbers 1, 2, 3 …, each once and in order."""
        streams: dict[tuple[str, str], list[int]] = {}
        for told in self.told:
            streams.setdefault((told.source, told.channel), []).append(told.number)
        for stream, numbers in streams.items():
            assert numbers == list(range(1, len(numbers) + 1)), (stream, numbers[:20])

    def close(self) -> None:
        self._link.close()


class Launched:
    """A running `theorbo launch` with its client."""

    def __init__(self, client: Client, process: subprocess.Popen[str], spool: Path) -> None:
        self.client, self.process, self.spool = client, process, spool

    def agent_pids(self) -> list[int]:
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._is_agent(entry / "cmdline")
        ]

    def _is_agent(self, path: Path) -> bool:
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            return False
        return b"theorbo.task_runtime.agent" in words and os.fsencode(self.spool) in words

    def kill_agent(self) -> None:
        for pid in self.agent_pids():
            os.kill(pid, signal.SIGKILL)

    def end(self) -> tuple[int, str]:
        """Exit status and stderr of the launch, when it has ended."""
        _, stderr = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, stderr

    def left_behind(self) -> list[str]:
        """Command lines of processes that still belong to this execution."""
        marker = os.fsencode(self.spool)
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if marker in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found


def with_limits(first="", **limits):
    """A program that is `theorbo launch` with other limits: the real ones are long. `first` is done before."""
    setting = "".join(f"limits.{name} = {value}; " for name, value in limits.items())
    return (
        f"import os, sys; {first or 'pass'}; from theorbo.schemas import limits; {setting}"
        "from theorbo.task_runtime import launch; from theorbo.schemas.command import guarded; "
        'sys.exit(guarded("launch", lambda: launch.main(sys.argv[1:])))'
    )


def launch(
    broker: Path, tmp_path: Path, *command: str, ranks: int = 1, launcher: list[str] | None = None,
    environment: dict[str, str] | None = None, program: tuple[str, ...] = ("-m", "theorbo.task_runtime.launch"),
    **plan: Any,
) -> Launched:  # fmt: skip
    client = Client(broker, ranks)
    root = tmp_path / "spools"
    root.mkdir(exist_ok=True, mode=0o700)
    file = tmp_path / f"{client.execution.hex()}.json"
    LaunchPlan(
        execution=client.execution.hex(), broker=str(broker), command=list(command),
        environment={**os.environ, **(environment or {})}, work_dir=plan.pop("work_dir", str(tmp_path)), ranks=ranks,
        launcher_command=launcher or [], spool_root=str(root), **plan,
    ).save(file)  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, *program, "--plan", str(file)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    return Launched(client, process, root / f"theorbo-{os.getuid()}" / client.execution.hex())
