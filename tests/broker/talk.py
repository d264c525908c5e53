"""A client of a real broker for tests: what a test says is sent, what it looks at is waited for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from theorbo.schemas.frames import NO_EXECUTION, Command, Header, Message, decode_json, encode_json
from theorbo.schemas.link import Link
from theorbo.schemas.names import EXECUTOR, Channel, Source, SourceKind, Speaker, new_incarnation

from .bus import SUBMITTED, decoded, log, put

DEADLINE_S = 15.0


class Talk:
    """One peer; an Executor's with a second link, as the agent, for what it puts in the name of others. Everything
    that arrives stays in `heard`.
    """

    def __init__(
        self, connection: Path, role: str = "observer", execution: bytes = NO_EXECUTION, epoch: int = 1,
        welcome_s: float = DEADLINE_S,
    ) -> None:  # fmt: skip
        self.execution, self.role = execution, role
        agent = Source(SourceKind.AGENT, 0)
        speakers = {
            "executor": Speaker(execution, EXECUTOR, epoch, new_incarnation()),
            "agent": Speaker(execution, agent, epoch, new_incarnation()),
        }
        self.link = Link(connection, speakers.get(role))
        try:
            self.welcome = self.link.wait_welcome(welcome_s)
        except BaseException:
            self.link.close()
            raise
        self.heard: list[Message] = []
        self.connection = connection
        self._agents: list[Link] = []

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for link in (self.link, *self._agents):
            link.close()

    def listen(self, seconds: float = 0.0) -> None:
        links = [self.link, *self._agents]
        for link in links:
            self.heard += link.receive(seconds / len(links))
            link.tick()

    def link_of(self, source: Source) -> Link:
        """An Executor may not report for ranks; the agent of its node does."""
        if self.role != "executor" or source == EXECUTOR:
            return self.link
        if not self._agents:
            agent = Speaker(self.execution, Source(SourceKind.AGENT, 0), 1, new_incarnation())
            self._agents.append(Link(self.connection, agent))
            self._agents[0].wait_welcome(DEADLINE_S)
        return self._agents[0]

    def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        deadline = time.monotonic() + DEADLINE_S
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited in vain for {what}; heard {self.heard[-5:]}"
            self.listen(0.1)
        return found

    def got(self, command: bytes) -> list[Message]:
        return [message for message in self.heard if message.command == command]

    def wait(self, command: bytes, count: int = 1) -> list[Message]:
        return self.until(
            lambda: (found := self.got(command)) if len(self.got(command)) >= count else None, str(command)
        )

    # --- delivery --------------------------------------------------------------------------------

    def put(self, source: Source, channel: Channel, first: int, *records: bytes) -> None:
        self.link_of(source).send(put(source, channel, first, *records, execution=self.execution))

    def acknowledged(self, source: Source, channel: Channel) -> int:
        return max(
            (m.header.first for m in self.got(Command.ACK) if (m.header.source, m.header.channel) == (source, channel)),
            default=0,
        )

    def put_and_wait(self, source: Source, channel: Channel, first: int, *records: bytes) -> None:
        self.put(source, channel, first, *records)
        last = first + len(records) - 1
        self.until(lambda: self.acknowledged(source, channel) >= last, f"the acknowledgement of {last}")

    # --- reading ---------------------------------------------------------------------------------

    def read(self, **wish: Any) -> int:
        request = self.link.new_request()
        header = Header(request=request, execution=self.execution)
        self.link.send(Message(Command.READ, header, encode_json(**wish)))
        return request

    def texts(self) -> list[str]:
        messages = self.got(Command.EVENTS)
        return [e.text for m in messages if m.header.channel == Channel.LOG for e in decoded(m.body)]

    def list(self, **wish: Any) -> list[dict[str, Any]]:
        answer = self.link.ask(Command.LIST, Header(execution=self.execution), encode_json(**wish))
        return decode_json(answer.body)["executions"]


def submitted(connection: Path, execution: bytes | None = None) -> Talk:
    """An Executor that has submitted an execution."""
    talk = Talk(connection, "executor", execution or uuid.uuid4().bytes)
    talk.put_and_wait(EXECUTOR, Channel.SIGNALS, 1, SUBMITTED)
    return talk


def lines(first: int, count: int) -> list[bytes]:
    return [log(f"line {number}") for number in range(first, first + count)]
