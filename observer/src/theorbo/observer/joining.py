"""The steps of joining (`docs/protocol.md`, section Live streams). Pure.

    FIRST_NONCE ── its answer: there is a connection ──> SECOND_NONCE ── its answer: all before it is active ──>
    LISTING ── the views with their heads ──> FOLLOWING

There are two nonces because libzmq, when it connects anew, makes the subscriptions in an order of its
own; only what is subscribed on a standing connection comes after all the rest.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from theorbo.observer.filters import Filter
from theorbo.observer.values import Subscribe, Unsubscribe, View, execution_of
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import NO_EXECUTION, Command, ErrorCode, Header, Message, encode_json
from theorbo.schemas.limits import ANSWER_S, LISTING_ROWS

NONCE = b"nonce/"


class Listed(NamedTuple):
    """Joined: the views with their heads."""

    views: list[View]
    sequence: int
    """The journal's last when the views began to be listed; where there are very many, some heads are later."""
    through: int
    """The journal's last when all were listed."""
    made_at: float
    """Of the broker's clock."""


Instruction = Message | Subscribe | Unsubscribe


class _Step(enum.Enum):
    FIRST_NONCE = 1
    SECOND_NONCE = 2
    LISTING = 3
    FOLLOWING = 4


class Joining:
    """How far one observer has come. `random_text` gives texts that nobody else has."""

    def __init__(self, wanted: Filter, random_text: Callable[[], str], new_request: Callable[[], int]) -> None:
        self._filter = wanted
        self._random_text = random_text
        self._new_request = new_request
        self._step = _Step.FIRST_NONCE
        self._step_at = 0.0
        self._nonce = b""
        self._request = 0
        self._first: tuple[list[View], int] | None = None
        """The first LISTING and its sequence, while a second is awaited."""

    @property
    def following(self) -> bool:
        """Whether the last step is done."""
        return self._step is _Step.FOLLOWING

    def begin(self, now: float) -> list[Instruction]:
        """From the first step on, also if some were done before."""
        return self._go(_Step.FIRST_NONCE, now)

    def confirmed(self, topic: bytes, now: float) -> list[Instruction]:
        """A nonce was published."""
        if topic != self._nonce:
            return []
        return self._go(_Step.SECOND_NONCE if self._step is _Step.FIRST_NONCE else _Step.LISTING, now)

    def awaits(self, header: Header) -> bool:
        """Whether this answers the LIST of joining."""
        return self._step is _Step.LISTING and header.request == self._request

    def listing(self, header: Header, fields: Mapping[str, Any], now: float) -> Listed | list[Instruction]:
        """The LISTING that was awaited. Raises ProtocolError."""
        views = views_of(fields)
        if self._first is None:
            if len(views) >= LISTING_ROWS or fields.get("more"):
                # then open ones may be missing behind newer ones that have ended
                self._first = views, header.sequence
                return [self._list(everything=False)]
            self._first = [], header.sequence
        former, sequence = self._first
        self._go(_Step.FOLLOWING, now)
        known = {execution_of(view) for view in former}
        together = [*former, *(view for view in views if execution_of(view) not in known)]
        return Listed(together, sequence, header.sequence, header.time)

    def tick(self, now: float) -> list[Instruction]:
        """To be called about every second: without an answer all begins again."""
        return self.begin(now) if not self.following and now - self._step_at > ANSWER_S else []

    def _go(self, step: _Step, now: float) -> list[Instruction]:
        self._step, self._step_at = step, now
        out: list[Instruction] = []
        if self._nonce:
            out.append(Unsubscribe(self._nonce))
            self._nonce = b""
        if step in (_Step.FIRST_NONCE, _Step.SECOND_NONCE):
            self._nonce = NONCE + self._random_text().encode()
            out.append(Subscribe(self._nonce))
        elif step is _Step.LISTING:
            self._first = None
            out.append(self._list(everything=True))
        return out

    def _list(self, *, everything: bool) -> Message:
        wanted = self._filter
        names = {"experiment": wanted.experiment, "run": wanted.run, "task": wanted.task}
        fields = {name: value for name, value in names.items() if value is not None}
        self._request = self._new_request()
        header = Header(request=self._request, execution=wanted.execution or NO_EXECUTION)
        return Message(Command.LIST, header, encode_json(all=everything, limit=LISTING_ROWS, **fields))


def views_of(fields: Mapping[str, Any]) -> list[View]:
    """The views in the body of LISTING. Raises ProtocolError."""
    views = fields.get("executions")
    if not isinstance(views, list) or not all(isinstance(view, dict) for view in views):
        raise ProtocolError(ErrorCode.MALFORMED, "LISTING without a list of executions")
    return views
