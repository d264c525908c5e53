"""An execution on several nodes, as far as the broker can tell: its agents answer what is requested, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.observer.producer import DEADLINE_S, Speaking
from theorbo.schemas import events
from theorbo.schemas.frames import Command, Message
from theorbo.schemas.names import EXECUTOR, LAUNCHER, Channel, Source, SourceKind
from theorbo.schemas.presentation import single_events
from theorbo.schemas.records import channel_of, encode_record

Reaction = Callable[[int, events.ControlRequested, int], list[tuple[Source, dict[str, Any]]]]
"""Of which node, to what, at which position: what it reports then."""


def agent(node: int) -> Source:
    return Source(SourceKind.AGENT, node)


def rank(number: int) -> Source:
    return Source(SourceKind.RANK, number)


def obedient(node: int, asked: events.ControlRequested, position: int) -> list[tuple[Source, dict[str, Any]]]:
    """Does what it is asked to, at once. It has one rank, of the same number."""
    us, its = agent(node), rank(node)
    receipt = {"action": asked.action, "request": position}
    did: dict[str, list[tuple[Source, dict[str, Any]]]] = {
        "stop": [(us, {"kind": "ranks_stopped", "ranks": [node]})],
        "continue": [(us, {"kind": "ranks_continued", "ranks": [node]})],
        "stacks": [(its, {"kind": "output", "text": line}) for line in STACK],
    }
    ended = [(its, {"kind": "rank_ended", "signal": "SIGTERM"})]
    return [
        (us, {"kind": "control_accepted", **receipt, "deadline": time.time() + 12}),
        *did.get(asked.action, ended),
        (us, {"kind": "control_done", **receipt, "detail": "1 rank"}),
    ]


STACK = (
    "Current thread 0x00007f1c35b2a740 (most recent call first):",
    '  File "peaks.py", line 12 in _run',
    "and something else",
)


class Cluster:
    """One rank a node. `react` may be another one; nodes in `away` are not heard any more."""

    def __init__(self, connection_file: Path, nodes: int = 2, *, started: bool = True, **submitted: Any) -> None:
        self.react: Reaction = obedient
        self.away: set[int] = set()
        self.heard: list[events.ControlRequested] = []
        self._problem: BaseException | None = None
        self._stopped = threading.Event()
        self._executor = Speaking(connection_file, None, EXECUTOR)
        self.execution = self._executor.execution
        fields = {"task": "galaxies", "user": "ada", "host": "login", "ranks": nodes, "nodes": nodes, **submitted}
        self._put(self._executor, EXECUTOR, kind="execution_submitted", **fields)
        self._flush(self._executor)
        self._agents = [Speaking(connection_file, self.execution, agent(node)) for node in range(nodes * started)]
        for node, speaking in enumerate(self._agents):
            if node == 0:
                self._put(speaking, LAUNCHER, kind="launcher_started", host="node1", agents=nodes)
            self._put(speaking, agent(node), kind="agent_started", host=f"node{node + 1}")
            self._put(speaking, rank(node), kind="rank_started", host=f"node{node + 1}")
            self._flush(speaking)
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    @property
    def id(self) -> str:
        return self.execution.hex()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join(DEADLINE_S)
        for speaking in (self._executor, *self._agents):
            speaking.link.close()
        if self._problem and not error:
            raise self._problem

    def _put(self, speaking: Speaking, source: Source, **fields: Any) -> None:
        record = encode_record({"kind": fields.pop("kind"), "time": time.time(), **fields})
        channel = Channel.STDERR if b'"output"' in record else channel_of(record)
        speaking.delivery.offer(source, channel, record)

    def _flush(self, speaking: Speaking) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not speaking.delivery.idle:
            assert time.monotonic() < deadline, "the broker does not acknowledge"
            self._turn(speaking)

    def _live(self) -> None:
        try:
            while not self._stopped.is_set():
                for node, speaking in enumerate((*self._agents, self._executor)):
                    if node not in self.away:
                        self._turn(speaking, node)
        except BaseException as problem:
            self._problem = problem

    def _turn(self, speaking: Speaking, node: int = -1) -> None:
        for message in speaking.pump():
            if message.command == Command.CONTROL:
                self._carry_out(speaking, node, message)
        speaking.link.tick()

    def _carry_out(self, speaking: Speaking, node: int, message: Message) -> None:
        for header, event in single_events(message.header, message.body):
            assert isinstance(event, events.ControlRequested)
            self.heard.append(event)
            for source, fields in self.react(node, event, header.position):
                self._put(speaking, source, **fields)
            if event.action in ("cancel", "kill") and self.react is obedient:
                self._end(speaking, node)

    def _end(self, speaking: Speaking, node: int) -> None:
        if node == 0:
            self._put(speaking, LAUNCHER, kind="launcher_ended", exit_code=143)
        streams = {
            str(stream): count for stream, count in speaking.delivery.counts().items() if stream.source == rank(node)
        }
        self._put(speaking, agent(node), kind="agent_closed", streams=streams)
