"""Asking for something to be done to an execution, from a program: cancel, kill, stop, continue, stacks.

from theorbo.observer import request

outcome = request("3f2a91bc", "stop", reason="the beam is away")
print(outcome.state, [answer.source for answer in outcome.missing])
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, get_args

from theorbo.observer.receipts import Answer, Receipts
from theorbo.observer.states import has_ended
from theorbo.observer.values import Observation, View, names_of
from theorbo.schemas import events
from theorbo.schemas.choosing import chosen
from theorbo.schemas.errors import Refused, Unavailable, UsageError
from theorbo.schemas.frames import Command, ErrorCode, Header, decode_json, encode_json
from theorbo.schemas.limits import CREDIT_BYTES, HEARTBEAT_S, NAME_CHARACTERS, RECEIPT_S, STACKS_QUIET_S
from theorbo.schemas.link import Link, accepted, open_link
from theorbo.schemas.names import new_incarnation
from theorbo.schemas.presentation import single_events, visible
from theorbo.schemas.reading import Reading
from theorbo.schemas.states import State

Action = Literal["cancel", "kill", "stop", "continue", "stacks"]


class RequestOutcome(NamedTuple):
    """What has come of a request."""

    execution: str
    action: str
    position: int
    """Of the request in the channel signals; receipts name it."""
    state: State
    """Of the execution, when the wait ended."""
    reason: str
    """Of that state."""
    complete: bool
    """Whether everybody has answered, and what was wanted has come about (a cancelled execution has ended)."""
    answers: list[Answer]
    """Of each agent, or the Executor of a job that waits."""
    missing: list[Answer]
    """Of those the ones who have not said that it is done."""

    @property
    def refusals(self) -> list[Answer]:
        """Who has refused, and why."""
        return [answer for answer in self.answers if answer.refused]


def request(
    execution: str,
    action: Action,
    broker: str | None = None,
    *,
    reason: str = "",
    grace_s: float | None = None,
    wait: bool = True,
    on_event: Callable[[Observation], None] | None = None,
) -> RequestOutcome:
    """Have something done to all ranks of an execution, and wait until everybody has said that it is done.

    `execution` is an id, or enough digits of it; `broker` is a connection file, as of `watch`. `cancel` sends SIGTERM
    and, `grace_s` later, SIGKILL; `kill` does not wait. Without `wait` it returns as soon as the request is in the
    journal. `on_event` gets each receipt and change of state as it comes.

    Nobody answers later than by the deadline that the receipts state: then `complete` is false, and the request stands.
    Raises UsageError (no such execution, or it has ended), Refused, ProtocolError or Unavailable.
    """
    link = open_link(broker)
    try:
        asked = Request(link, chosen(link, execution), action, reason=reason, grace_s=grace_s)
        for item in asked.followed() if wait else ():
            if on_event:
                on_event(item)
        return asked.outcome()
    finally:
        link.close()


class Request:
    """What `request` is made of: asks at once, then hands over what comes of it."""

    def __init__(
        self, link: Link, view: View, action: Action, *, reason: str = "", grace_s: float | None = None
    ) -> None:
        """`view` is the execution's, as `chosen` gives it. Returns when the request is in the journal."""
        if action not in get_args(Action):
            raise UsageError(f"{action!r} cannot be requested; there are {', '.join(get_args(Action))}")
        if has_ended(view):
            raise _ended(view, action)
        self.view = view
        self._link = link
        self._action = action
        self._execution = bytes.fromhex(str(view["execution"]))
        # Asked again, should the connection end before the answer comes, the broker knows it by its token.
        wish: dict[str, object] = {"action": action, "by": who(), "token": new_incarnation()}
        if reason:
            wish["reason"] = reason
        if grace_s is not None:
            wish["grace_s"] = grace_s
        try:
            answer = link.ask(Command.REQUEST, Header(execution=self._execution), encode_json(**wish))
        except Refused as refusal:
            if refusal.code == ErrorCode.ENDED:
                raise _ended(chosen(link, str(view["execution"])), action) from None
            if refusal.code == ErrorCode.UNKNOWN_COMMAND:
                raise Unavailable(
                    f"this broker (version {_version(link)}) cannot be asked to {action}; install one of this version"
                ) from None
            raise
        except Unavailable as trouble:
            raise Unavailable(
                f"{trouble}; whether the request stands is not known"
                + (f" (the broker waits: {visible(link.problem)})" if link.problem else "")
            ) from None
        self._sequence = answer.header.sequence
        self.position = answer.header.position
        """Of the request in the channel signals."""
        self._receipts = Receipts(action, self.position, _state(view), time.monotonic())
        self._stack_lines = StackLines()
        self._stacks_at = self._answered_at = time.monotonic()

    def followed(self) -> Iterator[Observation]:
        """The request, receipts, changes of state, for stacks also their lines, until there is nothing to wait for."""
        names = names_of(self.view)
        signals = self._reading(channels=["signals"], after=0)
        readings = [signals]
        if self._action == "stacks":
            readings.append(self._reading(channels=["stderr"], after=self._sequence))
        while not self._over(time.monotonic()):
            for message in self._link.receive(HEARTBEAT_S / 4):
                if message.command == Command.WELCOME:  # the broker has forgotten us, and what we had asked for
                    for reading in readings:
                        self._link.send(reading.begin())
                for reading in readings:
                    if message.header.request == reading.request:
                        command, header, body = accepted(message)
                        if command == Command.EVENTS:
                            for own, event in single_events(header, body):
                                if self._shown(own, event):
                                    yield Observation(own, names, event)
                            for credit in reading.took(header, len(body)):
                                self._link.send(credit)
            self._link.tick()

    def _reading(self, **wish: object) -> Reading:
        reading = Reading(self._link.new_request, CREDIT_BYTES, self._execution, follow=True, **wish)
        self._link.send(reading.begin())
        return reading

    def _shown(self, header: Header, event: events.EventBase) -> bool:
        now = time.monotonic()
        if isinstance(event, events.Output):
            if not self._stack_lines.take(str(header.source), event.text):
                return False
            self._stacks_at = now
            return True
        return self._receipts.take(header, event, now)

    def _over(self, now: float) -> bool:
        if not self._receipts.over(now):
            self._stacks_at = self._answered_at = now
            return self._receipts.too_late(now)
        # A program may write stacks of its own accord, again and again.
        no_more = now - self._stacks_at >= STACKS_QUIET_S or now - self._answered_at >= RECEIPT_S
        return self._action != "stacks" or no_more

    def host(self, header: Header) -> str:
        """Of the agent that reports this; empty if it is none."""
        return self._receipts.host(header.source)

    def outcome(self) -> RequestOutcome:
        """How it stands now."""
        receipts = self._receipts
        return RequestOutcome(
            execution=str(self.view["execution"]),
            action=self._action,
            position=self.position,
            state=receipts.state,
            reason=receipts.reason,
            complete=receipts.over(time.monotonic()),
            answers=receipts.answers,
            missing=receipts.missing,
        )


class StackLines:
    """Which lines of a rank's stderr belong to a dump of stacks, as Python's faulthandler writes them. Pure."""

    def __init__(self) -> None:
        self._within: set[str] = set()

    def take(self, source: str, text: str) -> bool:
        """Whether the next line of this source is one of a dump."""
        if _HEADING.match(text):
            self._within.add(source)
            return True
        if source not in self._within:
            return False
        if not text or text.startswith("  "):
            return bool(text)
        self._within.discard(source)
        return False


_HEADING = re.compile(r"(?:(?:Current t|T)hread 0x[0-9a-f]+\b.*|Stack )\(most recent call first\):")


def who() -> str:
    """Who asks, for the journal: `alice@login`."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:NAME_CHARACTERS]


def _version(link: Link) -> str:
    return str(decode_json(link.welcome.body).get("version"))


def _state(view: View) -> State:
    try:
        return State(str(view.get("state")))
    except ValueError:  # of a later version
        return State.PENDING


def _ended(view: View, action: str) -> UsageError:
    reason = f": {visible(str(view['reason']))}" if view.get("reason") else ""
    wanted = "ask for its stacks" if action == "stacks" else action
    return UsageError(
        f"there is nothing to {wanted}: execution {view['execution']} ({visible(str(view.get('task')))}) has ended, "
        f"{view.get('state')}{reason}"
    )
