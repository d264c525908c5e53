"""Keeping a conversation with the broker alive: what a client says beside its work, and when. Pure.

The rules:

1. HELLO is the first thing said on each connection. It is said again when it was not answered for `ANSWER_S` (the
   answer may have been lost in a full queue), and when the broker does not know us (it was restarted, or libzmq has
   connected anew), but then at most once in `HEARTBEAT_S`: each of many messages under way brings that answer.
2. Whoever is idle says PING every `HEARTBEAT_S`, at a tick: unless something else was said since half of that (were it
   all of it, a tick that comes a moment early would leave two seconds of silence). So too while the first WELCOME is
   waited for: if HELLO was lost with its connection, the answer says that the broker does not know us.
3. When the broker has been silent for `SUSPECT_S` the connection file is read again and the broker searched at all its
   addresses (`search`): it may have moved, the connection may be open on one side only. This is tried once in
   `SUSPECT_S`, for ever; a search that has not come to its last address by then goes on instead.
4. A question that is not answered yet is asked again after each WELCOME: a broker that did not know us has refused it,
   or one that was restarted has never got it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Union

from theorbo.schemas import __version__
from theorbo.schemas.frames import NO_EXECUTION, Command, ErrorCode, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import ANSWER_S, HEARTBEAT_S, SUSPECT_S
from theorbo.schemas.names import Speaker


class Say(NamedTuple):
    """An instruction to the skin: send this."""

    message: Message


class Show(NamedTuple):
    """An instruction to the skin: hand this message to the owner of the link."""

    message: Message


class Reconnect(NamedTuple):
    """An instruction to the skin: read the connection file; if it can be read search the broker, and where it answers
    call `LinkCore.connected`. Until then the former connection stays, for it may come back.
    """


LinkInstruction = Union[Say, Show, Reconnect]


class LinkCore:
    """One client's end of a conversation. `now` is any clock in seconds that never goes back."""

    def __init__(self, speaker: Speaker | None, host: str, pid: int, now: float) -> None:
        """Without a `speaker` it is an observer's."""
        self.problem = ""
        """What hinders the broker, in its own words (a full disk); empty if nothing does."""
        self.heard_at = now
        """When the broker was last heard."""
        self._header = Header(execution=speaker.execution if speaker else NO_EXECUTION)
        who = dict[str, Any](role="observer")
        if speaker:
            who = {
                "role": speaker.source.kind.name.lower(),
                "source": str(speaker.source),
                "epoch": speaker.epoch,
                "incarnation": speaker.incarnation,
            }
        self._hello = Message(Command.HELLO, self._header, encode_json(**who, version=__version__, host=host, pid=pid))
        self._welcomed = False
        self._question: Message | None = None
        self._hello_at = self._said_at = self._tried_at = now

    def connected(self, now: float) -> list[LinkInstruction]:
        """There is a new connection, or there will be: what is said waits for it."""
        self._welcomed = False
        self._hello_at = now
        return [Say(self._hello)]

    def said(self, now: float) -> None:
        """Something was handed over to the connection."""
        self._said_at = now

    def asks(self, question: Message) -> list[LinkInstruction]:
        """The owner waits for the answer to this and to nothing else; its header's `request` names it."""
        self._question = question
        return [Say(question)]

    def received(self, message: Message, now: float) -> list[LinkInstruction]:
        """The broker was heard. Raises ProtocolError for a body that is not what it must be."""
        self.heard_at = now
        if message.command == Command.PONG:
            self.problem = str(decode_json(message.body).get("problem", "")) if message.body else ""
            return []
        if message.command == Command.REFUSED and decode_json(message.body).get("code") == ErrorCode.UNKNOWN_PEER:
            if not self._welcomed and now - self._hello_at < HEARTBEAT_S:
                return []  # it is under way
            return self.connected(now)
        if message.command == Command.WELCOME:
            self._welcomed = True
            if self._question:
                return [Show(message), Say(self._question)]
        elif self._question and message.header.request == self._question.header.request:
            self._question = None
        return [Show(message)]

    def tick(self, now: float) -> list[LinkInstruction]:
        """To be called about every second."""
        if now - self.heard_at >= SUSPECT_S and now - self._tried_at >= SUSPECT_S:
            self._tried_at = now
            return [Reconnect()]
        if not self._welcomed and now - self._hello_at >= ANSWER_S:
            return self.connected(now)
        return self.idle(now)

    def idle(self, now: float) -> list[LinkInstruction]:
        """Rule 2 alone, for who waits for the first WELCOME and looks for the broker by rules of its own."""
        if now - self._said_at >= HEARTBEAT_S / 2:
            return [Say(Message(Command.PING, self._header))]
        return []
