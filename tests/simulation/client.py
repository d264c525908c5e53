"""A client's end of the conversation: the real `LinkCore` on a simulated socket, in place of `schemas.link.Link`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theorbo.schemas.frames import NO_EXECUTION, Command, Header, Message
from theorbo.schemas.link_core import LinkCore, LinkInstruction, Reconnect, Say, Show
from theorbo.schemas.names import Speaker

from .network import Dealer
from .scheduler import Process

if TYPE_CHECKING:
    from .world import World


class ClientLink:
    """What `Link` does, without sockets and clocks of its own."""

    def __init__(self, world: World, process: Process, speaker: Speaker | None) -> None:
        self._world = world
        self._process = process
        self.core = LinkCore(speaker, process.name, 7, process.now)
        self._execution = speaker.execution if speaker else NO_EXECUTION
        self._request = 1
        self._tried: Dealer | None = None
        self._tried_at = 0.0
        self._use(Dealer(world.network, process, world.connection_file[0]))

    def _use(self, dealer: Dealer) -> None:
        self.dealer, self.address = dealer, dealer.address
        dealer.on_readable = self._on_readable
        self._perform(self.core.connected(self._process.now))

    def _search(self) -> None:
        """As `schemas.search`: PING where the file says the broker is; until it answers the former connection stays."""
        self._give_up_search()
        self._tried_at = self._process.now
        self._tried = Dealer(self._world.network, self._process, self._world.connection_file[0])
        self._tried.on_readable = self._found
        self._tried.send(Message(Command.PING))

    def _found(self) -> None:
        found, self._tried = self._tried, None
        if found:
            found.take()
            self.dealer.close()
            self._use(found)

    def _give_up_search(self) -> None:
        if self._tried:
            self._tried.close()
            self._tried = None

    def _on_readable(self) -> None:
        self._process.on_message()  # type: ignore[attr-defined]  # every client has it

    @property
    def silent_for_s(self) -> float:
        return self._process.now - self.core.heard_at

    def new_request(self) -> int:
        self._request += 1
        return self._request

    def send(self, message: Message) -> bool:
        if message.command == Command.PUT:
            self._world.remember_put(self._process.name, message)
        if not self.dealer.send(message):
            return False
        self.core.said(self._process.now)
        return True

    def ask(self, question: Message) -> None:
        """As `Link.ask`: it is asked again after each WELCOME until it is answered."""
        self._perform(self.core.asks(question))

    def receive(self) -> list[Message]:
        return [
            shown
            for message in self.dealer.take()
            for shown in self._perform(self.core.received(message, self._process.now))
        ]

    def tick(self) -> None:
        if self.core.heard_at > self._tried_at:
            self._give_up_search()
        self._perform(self.core.tick(self._process.now))

    def _perform(self, instructions: list[LinkInstruction]) -> list[Message]:
        shown: list[Message] = []
        for instruction in instructions:
            match instruction:
                case Say(message):
                    self.send(message)
                case Show(message):
                    shown.append(message)
                case Reconnect():
                    self._search()
        return shown

    def close(self) -> None:
        self._give_up_search()
        self.send(Message(Command.BYE, Header(execution=self._execution)))
        self.dealer.close_lingering()
