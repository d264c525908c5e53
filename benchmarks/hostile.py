"""The broker's memory while clients that have a key behave as badly as they can, against the bound that follows from
the limits. A row that is not `within bound` makes the exit status 1.

    uv run python benchmarks/hostile.py            # about two minutes
    uv run python benchmarks/hostile.py --small    # a few seconds; the tests run this
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import zmq

from theorbo.schemas import limits
from theorbo.schemas.connection import Connection
from theorbo.schemas.frames import Command, Header, Message, encode_json
from theorbo.schemas.limits import KIB, MIB
from theorbo.schemas.link import Link, configure
from theorbo.schemas.names import EXECUTOR, Channel, Source, SourceKind, Speaker, new_incarnation
from theorbo.schemas.records import encode_record

PART_S = 15.0
"""No flood lasts longer."""

ALLOWANCE_BYTES = 64 * MIB
"""On top of every bound: what Python, SQLite and libzmq take for a busy broker whatever its clients do."""

CONNECTION_BYTES = 512 * KIB
"""What one connection costs in libzmq and Python beside what is queued for it."""

RANK = Source(SourceKind.RANK, 0)
LINE = encode_record({"kind": "log", "time": 1.0, "text": "x" * 1000})


class Scene:
    """A broker with one execution, its Executor and its agent, and hostile clients."""

    def __init__(self, directory: Path, small: bool) -> None:
        self.scale = 1 if small else 20
        self.execution = uuid.uuid4().bytes
        file = directory / "connection.json"
        reader, writer = os.pipe()
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "theorbo.broker", "--state", str(directory / "state"),
                    "--connection", str(file), "--bind", "tcp://127.0.0.1:0", "--ready-fd", str(writer),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writer,),
            )  # fmt: skip
        os.close(writer)
        with os.fdopen(reader) as answer:
            words = answer.read()
        if not words.startswith("ready "):
            raise SystemExit(words)
        self.connection = Connection.load(file)
        self._context = zmq.Context()
        self._executor = self._link(file, EXECUTOR)
        self._put(self._executor, EXECUTOR, Channel.SIGNALS, 1, [_submission()])
        self.agent = self._link(file, Source(SourceKind.AGENT, 0))
        self._lines = 0
        self.digest = b""
        self.write(100)

    def _link(self, file: Path, source: Source) -> Link:
        link = Link(file, Speaker(self.execution, source, 1, new_incarnation()))
        link.wait_welcome(limits.CONNECT_S)
        return link

    def _put(self, link: Link, source: Source, channel: Channel, first: int, records: list[bytes]) -> None:
        header = Header(execution=self.execution, channel=channel, source=source, first=first, count=len(records))
        link.send(Message(Command.PUT, header, b"".join(records)))
        self._wait(link, lambda m: m.command == Command.ACK and m.header.first >= first + len(records) - 1)

    def _wait(self, link: Link, wanted: Callable[[Message], bool]) -> None:
        deadline = time.monotonic() + 4 * PART_S
        while not any(wanted(message) for message in link.receive(0.1)):
            link.tick()
            if time.monotonic() > deadline:
                raise SystemExit("an honest client waits in vain")

    def write(self, batches: int) -> None:
        """The agent reports lines, each batch of 200 kB acknowledged: honest work meanwhile."""
        for _ in range(batches):
            self._put(self.agent, RANK, Channel.LOG, self._lines + 1, [LINE] * 200)
            self._lines += 200

    def attach(self) -> None:
        """The agent has sent an attachment of one chunk."""
        content = b"a" * limits.CHUNK_BYTES
        self.digest = hashlib.sha256(content).digest()
        header = Header(execution=self.execution, count=len(content), position=len(content))
        self.agent.send(Message(Command.ATTACH, header, self.digest + content))
        self._wait(self.agent, lambda m: m.command == Command.STORED)

    def settle(self) -> None:
        """An honest client is answered again."""
        self._executor.ask(Command.LIST, Header(), encode_json(), 4 * PART_S)

    def memory(self, what: str) -> int:
        """Resident bytes: `VmRSS` now, or `VmHWM` at most so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split(f"{what}:")[1].split()[0]) * KIB

    def peers(self, count: int) -> list[zmq.Socket[bytes]]:
        """Clients that say HELLO and read next to nothing of what they are sent."""
        out = []
        for _ in range(count):
            plug = self._context.socket(zmq.DEALER)
            configure(plug, self.connection)
            plug.setsockopt(zmq.RCVHWM, 1)
            plug.setsockopt(zmq.RCVBUF, 4096)
            plug.setsockopt(zmq.SNDTIMEO, 2000)
            plug.connect(self.connection.router[0])
            say(plug, Message(Command.HELLO, Header(), encode_json(role="observer", version="0", host="h", pid=1)))
            out.append(plug)
        return out

    def subscriber(self) -> zmq.Socket[bytes]:
        """A client of the live streams."""
        sub = self._context.socket(zmq.SUB)
        configure(sub, self.connection)
        sub.setsockopt(zmq.RCVHWM, 1)
        sub.connect(self.connection.publisher[0])
        return sub

    def close(self) -> None:
        """End everything."""
        self._process.terminate()
        self._process.wait(30)
        self._executor.close()
        self.agent.close()
        self._context.destroy(linger=0)


def _submission() -> bytes:
    return encode_record({"kind": "execution_submitted", "time": 1.0, "task": "hostile", "user": "u", "host": "h"})


def say(plug: zmq.Socket[bytes], message: Message) -> bool:
    """Whether libzmq took it."""
    try:
        plug.send_multipart(message.encode())
    except zmq.Again:
        return False
    return True


def flood(plugs: list[zmq.Socket[bytes]], messages: Iterator[Message]) -> int:
    """Say all of it, in turns, for PART_S at most; how many were said."""
    deadline = time.monotonic() + PART_S
    said = 0
    for message in messages:
        if time.monotonic() > deadline or not say(plugs[said % len(plugs)], message):
            break
        said += 1
    return said


# --- what they do: each returns what it has said, and the bound of the broker's memory for it ------------------


def stopped_readers(scene: Scene) -> tuple[str, int]:
    """READ everything with all the credit there is, and stop reading."""
    plugs = scene.peers(scene.scale)
    wish = encode_json(follow=True, credit=2**62)
    flood(plugs, (Message(Command.READ, Header(request=1), wish) for _ in plugs))
    scene.write(10 * scene.scale)
    return f"{len(plugs)} readers", len(plugs) * limits.PEER_CREDIT_BYTES


def many_reads(scene: Scene) -> tuple[str, int]:
    """As many READs as there may be, each with a credit of one byte."""
    plugs = scene.peers(2)
    wish = encode_json(follow=True, credit=1)
    said = flood(
        plugs, (Message(Command.READ, Header(request=n), wish) for n in range(2 * limits.READS_PER_PEER * scene.scale))
    )
    scene.write(scene.scale)
    return f"{said} READs", 2 * limits.READS_PER_PEER * limits.BATCH_BYTES


def reads_that_are_closed(scene: Scene) -> tuple[str, int]:
    """READ and CLOSE in turns: what is asked of the journal is not wanted any more when it comes."""
    plugs = scene.peers(1)
    wish = encode_json(follow=False)
    numbers = range(1000 * scene.scale)
    pairs = (
        (Message(Command.READ, Header(request=n), wish), Message(Command.CLOSE, Header(request=n))) for n in numbers
    )
    said = flood(plugs, (message for pair in pairs for message in pair))
    return f"{said} messages", limits.PEER_CREDIT_BYTES


def fetch_flood(scene: Scene) -> tuple[str, int]:
    """FETCH the same chunk again and again, and read nothing."""
    scene.attach()
    plugs = scene.peers(2)
    fetch = Message(Command.FETCH, Header(execution=scene.execution, count=limits.CHUNK_BYTES), scene.digest)
    said = flood(plugs, (fetch for _ in range(500 * scene.scale)))
    return f"{said} FETCHes", 2 * limits.PEER_QUEUE_MESSAGES * limits.CHUNK_BYTES


def list_flood(scene: Scene) -> tuple[str, int]:
    """LIST everything again and again, and read nothing."""
    plugs = scene.peers(2)
    said = flood(
        plugs, (Message(Command.LIST, Header(request=n), encode_json(all=True)) for n in range(500 * scene.scale))
    )
    return f"{said} LISTs", 2 * limits.PEER_QUEUE_MESSAGES * limits.MESSAGE_BYTES


def subscriptions(scene: Scene) -> tuple[str, int]:
    """Ten thousand topics, and nothing read."""
    sub, count = scene.subscriber(), 10_000
    for number in range(count):
        sub.subscribe(f"log/experiment-{number}/run/task/{number:032x}/")
    scene.write(scene.scale)
    queued = limits.PUBLISH_QUEUE_MESSAGES * limits.RECORD_BYTES
    return f"{count} topics", count * 8 * KIB + queued


def gaps(scene: Scene) -> tuple[str, int]:
    """PUTs that begin in the middle, each of another stream."""
    count = 2_500 * scene.scale * (1 if scene.scale == 1 else 20)
    said, deadline = 0, time.monotonic() + 2 * PART_S
    for number in range(count):
        source = Source(SourceKind.RANK, number)
        header = Header(execution=scene.execution, channel=Channel.LOG, source=source, first=7, count=1)
        scene.agent.send(Message(Command.PUT, header, LINE))
        scene.agent.receive()
        said += 1
        if time.monotonic() > deadline:
            break
    remembered = (limits.REWINDS_REMEMBERED + limits.STREAMS) * KIB
    return f"{said} streams", remembered + limits.PEER_QUEUE_MESSAGES * KIB


def hellos(scene: Scene) -> tuple[str, int]:
    """Many connections, and HELLO again and again with a long name."""
    plugs = scene.peers(20 * scene.scale)
    hello = encode_json(role="observer", version="0", host="h" * 100_000, pid=1)
    said = flood(plugs, (Message(Command.HELLO, Header(), hello) for _ in range(100 * scene.scale)))
    return f"{len(plugs)} peers, {said} HELLOs", len(plugs) * 4 * KIB


class Part(NamedTuple):
    """One way to be hostile."""

    name: str
    do: Callable[[Scene], tuple[str, int]]
    connections: int


PARTS = (
    Part("stopped readers", stopped_readers, 20),
    Part("READs without credit", many_reads, 2),
    Part("READ and CLOSE", reads_that_are_closed, 1),
    Part("FETCH flood, unread", fetch_flood, 2),
    Part("LIST flood, unread", list_flood, 2),
    Part("subscriptions", subscriptions, 1),
    Part("gaps in many streams", gaps, 0),
    Part("HELLO flood", hellos, 400),
)


@contextmanager
def _scene(small: bool) -> Iterator[Scene]:
    with tempfile.TemporaryDirectory() as directory:
        os.environ.update(THEORBO_CONFIG=directory, THEORBO_STATE=directory)
        scene = Scene(Path(directory), small)
        try:
            yield scene
        finally:
            scene.close()


def main() -> int:
    """Each part with a broker of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a twentieth of it, in a few seconds")
    small = parser.parse_args().small
    print(f"{'what':<24}{'how much':<32}{'before':>9}{'at most':>9}{'bound':>9}")
    beyond = 0
    for part in PARTS:
        with _scene(small) as scene:
            before = scene.memory("VmHWM")
            said, bound = part.do(scene)
            scene.settle()
            bound += before + ALLOWANCE_BYTES + part.connections * CONNECTION_BYTES
            most = scene.memory("VmHWM")
            beyond += most > bound
            verdict = "within bound" if most <= bound else "BEYOND BOUND"
            figures = "".join(f"{size / MIB:.0f} MiB".rjust(9) for size in (before, most, bound))
            print(f"{part.name:<24}{said:<32}{figures}  {verdict}", flush=True)
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
