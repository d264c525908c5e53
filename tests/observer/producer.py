"""An Executor and its ranks, as far as the broker can tell: puts events over a real link."""

from __future__ import annotations

import getpass
import hashlib
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from theorbo.schemas.delivery import Delivery, SendChunk
from theorbo.schemas.frames import Command, Header, Message, decode_json, encode_json
from theorbo.schemas.link import Link
from theorbo.schemas.names import EXECUTOR, LAUNCHER, Channel, Source, SourceKind, Speaker, new_incarnation
from theorbo.schemas.records import Attachment, channel_of, encode_record
from theorbo.schemas.states import State

RANK = Source(SourceKind.RANK, 0)
AGENT = Source(SourceKind.AGENT, 0)
DEADLINE_S = 20.0


class Speaking:
    """The Executor or an agent: what it delivers, and over which link."""

    def __init__(self, connection_file: Path, execution: bytes | None, source: Source) -> None:
        self.execution = execution or uuid.uuid4().bytes
        self.delivery = Delivery(self.execution)
        self.link = Link(connection_file, Speaker(self.execution, source, 1, new_incarnation()))

    def pump(self) -> list[Message]:
        """Send what can be sent, take what has arrived; what concerns no delivery is returned."""
        now, rest = time.time(), []
        for item in self.delivery.outgoing(now):
            assert isinstance(item, Message), "it has no attachments"
            self.link.send(item)
        for message in self.link.receive(0.005):
            if message.command == Command.WELCOME:
                self.delivery.welcomed()
            elif message.command == Command.ACK:
                self.delivery.handle_ack(message.header, now)
            elif message.command == Command.REFUSED:
                raise AssertionError(message)
            else:
                rest.append(message)
        return rest


class Producer:
    """One execution. `put` reports, `flush` waits until all of it is in the journal."""

    def __init__(self, connection_file: Path, **submitted: Any) -> None:
        self.execution = uuid.uuid4().bytes
        self.journaled_at = 0.0  # when it heard of the last commit
        self._attachments: dict[str, bytes] = {}
        self._executor = Speaking(connection_file, self.execution, EXECUTOR)
        self._speaking = [self._executor]
        self._link = self._executor.link
        self.put(
            EXECUTOR,
            kind="execution_submitted",
            **{"task": "galaxies", "user": getpass.getuser(), "host": "here", **submitted},
        )
        self.flush()
        self._agent = Speaking(connection_file, self.execution, AGENT)
        self._speaking.append(self._agent)

    @property
    def id(self) -> str:
        return self.execution.hex()

    def put(self, source: Source = RANK, *, channel: Channel | None = None, **fields: Any) -> None:
        record = encode_record({"kind": fields.pop("kind"), "time": time.time(), **fields})
        speaking = self._executor if source == EXECUTOR else self._agent
        speaking.delivery.offer(source, channel or channel_of(record), record)

    def log(self, *texts: str) -> None:
        for text in texts:
            self.put(kind="log", text=text)

    def attach(self, content: bytes) -> dict[str, Any]:
        """What a record says of an attachment; the bytes go along with the record that names it."""
        digest = hashlib.sha256(content).hexdigest()
        self._attachments[digest] = content
        return {"sha256": digest, "size": len(content)}

    def result(self, parts: Iterable[dict[str, Any]], **fields: Any) -> None:
        parts = list(parts)
        named = [
            {"sha256": part["sha256"], "size": part["size"]}
            for part in parts
            if "sha256" in part and "path" not in part
        ]
        self.put(**{"kind": "result", **fields}, parts=parts, attachments=named)

    def end(self, exit_code: int = 0) -> None:
        """The rest of an execution's life: everything ends, everybody has said so, and the state is final."""
        self.put(AGENT, kind="agent_started", host="here")
        self.put(LAUNCHER, kind="launcher_started", host="here", agents=1)
        self.put(kind="rank_started", host="here")
        self.flush()
        self.put(kind="rank_ended", exit_code=exit_code)
        self.put(LAUNCHER, kind="launcher_ended", exit_code=exit_code)
        self.flush()
        streams = {
            str(stream): count for stream, count in self._agent.delivery.counts().items() if stream.source == RANK
        }
        self.put(AGENT, kind="agent_closed", streams=streams)
        self.flush()
        deadline = time.monotonic() + DEADLINE_S
        while not State(self._state()).final:
            assert time.monotonic() < deadline, "the state does not become final"

    def _state(self) -> str:
        answer = self._link.ask(Command.LIST, Header(execution=self.execution), encode_json(all=True, limit=1))
        return decode_json(answer.body)["executions"][0]["state"]

    def pump(self) -> None:
        """Send what can be sent, take what has arrived."""
        for speaking in self._speaking:
            self._pump(speaking, time.time())

    def _pump(self, speaking: Speaking, now: float) -> None:
        delivery, link = speaking.delivery, speaking.link
        for item in delivery.outgoing(now):
            self._send(link, item)
        for message in link.receive(0.005):
            header = message.header
            if message.command == Command.WELCOME:
                delivery.welcomed()
            elif message.command == Command.ACK:
                self.journaled_at = now
                delivery.handle_ack(header, now)
            elif message.command == Command.STORED:
                known = Attachment(message.body.hex(), header.position)
                for item in delivery.handle_stored(known, header.first, now):
                    self._send(link, item)
            elif message.command == Command.REFUSED:
                raise AssertionError(message)
        link.tick()

    def _send(self, link: Link, item: Message | SendChunk) -> None:
        if isinstance(item, SendChunk):
            digest, content = bytes.fromhex(item.attachment.sha256), self._attachments[item.attachment.sha256]
            data = content[item.offset : item.offset + item.length]
            header = Header(execution=self.execution, first=item.offset, count=len(data), position=item.attachment.size)
            item = Message(Command.ATTACH, header, digest + data)
        link.send(item)

    def flush(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not all(speaking.delivery.idle for speaking in self._speaking):
            assert time.monotonic() < deadline, "the broker does not acknowledge"
            self.pump()

    def close(self) -> None:
        for speaking in self._speaking:
            speaking.link.close()
