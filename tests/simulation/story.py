"""The story of a run: one line a step, for people who want to know how it came to a violation."""

from __future__ import annotations

import zlib

from theorbo.schemas.frames import Command, Message
from theorbo.schemas.names import Channel

from .scheduler import Scheduler


class Story:
    def __init__(self, scheduler: Scheduler, *, told: bool) -> None:
        self._scheduler = scheduler
        self.told = told
        self.lines: list[str] = []
        self.digest = 0
        """Of everything that was committed, given to hooks, or seen: two runs of a seed have the same."""

    def tell(self, who: str, what: str) -> None:
        if self.told:
            self.lines.append(f"{self._scheduler.now:10.4f}  {who:<14} {what}")

    def told_message(self, who: str, message: Message) -> None:
        header = message.header
        if message.command in (Command.PING, Command.PONG):
            return
        stream = f" {header.source}/{Channel(header.channel).text}" if header.source and header.channel else ""
        numbers = f" {header.first}+{header.count}" if header.first or header.count else ""
        rest = "".join(
            f" {name} {value}"
            for name, value in (("position", header.position), ("sequence", header.sequence), ("flags", header.flags))
            if value
        )
        body = f" {message.body.decode()}" if message.body[:1] == b"{" else ""
        self.tell(who, f"{message.command.decode()}{stream}{numbers}{rest}{body}")

    def mark(self, *values: object) -> None:
        self.digest = zlib.crc32(repr((self._scheduler.now, *values)).encode(), self.digest)
