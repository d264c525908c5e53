"""A bystander in the simulator: asks for control of executions by REQUEST, and asks again until it is answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from theorbo.schemas.frames import Command, Header, Message, encode_json
from theorbo.schemas.limits import ANSWER_S, HEARTBEAT_S

from .client import ClientLink
from .scheduler import Process

if TYPE_CHECKING:
    from .world import World

_AGAIN = frozenset({"busy", "unknown_execution"})
"""Refusals after which it is worth while to ask later."""


class RequesterParty(Process):
    """One request, with one token, however often it has to be asked."""

    def __init__(self, world: World, number: int, action: str, token: str) -> None:
        super().__init__(world.scheduler, world.host("bystander"), f"requester-{token}")
        self.world = world
        self.number, self.action = number, action
        self._execution = world.execution_id(number)
        self._body = encode_json(action=action, by="bob@lab", reason="why not", grace_s=1.0, token=token)
        self._token = token
        self._planned = False
        self._asked_at = self.now
        self.over = False
        """Whether it has an answer."""
        self.position = 0
        """Of the request, if it was taken."""
        self._link = ClientLink(world, self, None)
        self._ask()
        self.after(HEARTBEAT_S, self._tick)

    def _ask(self) -> None:
        self._asked_at = self.now
        self._request = self._link.new_request()
        header = Header(request=self._request, execution=self._execution)
        self._link.ask(Message(Command.REQUEST, header, self._body))

    def on_message(self) -> None:
        if not self._planned:
            self._planned = True
            self.after(self.scheduler.chance.uniform(0.0, 0.002), self._turn)

    def _turn(self) -> None:
        self._planned = False
        for message in self._link.receive():
            if message.header.request != self._request or self.over:
                continue
            if message.command == Command.REQUESTED:
                self.position = message.header.position
                self.world.checks.answered(self._execution, self._token, message.header)
                self._end(f"position {self.position}")
            elif message.command == Command.REFUSED:
                code = json.loads(message.body)["code"]
                if code not in _AGAIN:
                    self._end(code)

    def _tick(self) -> None:
        if self.over:
            return
        self.after(HEARTBEAT_S, self._tick)
        self._link.tick()
        if self.now - self._asked_at > ANSWER_S:
            self._ask()

    def _end(self, how: str) -> None:
        self.over = True
        self.world.story.tell(self.name, f"{self.action}: {how}")
        self._link.close()
        self.alive = False
        self.world.next_request(self.number)
