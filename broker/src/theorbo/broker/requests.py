"""Requests of clients: from REQUEST to REQUESTED. Pure.

What a client requests becomes an event of the broker's own, `control_requested`, which takes the same road as all of
them: append, commit, then tell. Agents hear of it (CONTROL) because it is in the journal, not because it was asked.

A client whose connection ends before the answer asks again, maybe of another run of the broker. By its token the
request is recognised: it was made, or is under way, and is not made twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from theorbo.broker.controls import Requested
from theorbo.broker.deliveries import Deliveries, unknown_execution
from theorbo.broker.executions import Execution
from theorbo.broker.sessions import Session, Sessions
from theorbo.broker.values import Append, Batch, Send
from theorbo.schemas import events
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import NO_EXECUTION, Command, ErrorCode, Header, Message, decode_json
from theorbo.schemas.limits import BEGINNING_CHARACTERS, GRACE_MOST_S, NAME_CHARACTERS, REQUESTS_UNDER_WAY
from theorbo.schemas.names import BROKER, Channel
from theorbo.schemas.records import encode_record

ACTIONS = ("cancel", "kill", "stop", "continue", "stacks")


class Wish(NamedTuple):
    """The body of a REQUEST."""

    action: str
    by: str
    reason: str
    grace_s: float | None
    token: str


class Requests:
    """Those that wait for the journal."""

    def __init__(self, deliveries: Deliveries, sessions: Sessions) -> None:
        self._deliveries = deliveries
        self._sessions = sessions
        self._waiting: dict[int, dict[bytes, int]] = {}
        """By sequence: who waits to hear that it is on disk, and under which request."""

    def ask(self, session: Session, execution: Execution | None, message: Message, now: float) -> list[Append | Send]:
        """REQUEST. Raises ProtocolError."""
        header = message.header
        if session.role == "agent":
            raise ProtocolError(ErrorCode.NOT_ALLOWED, "an agent carries out what is requested, and requests nothing")
        if header.execution == NO_EXECUTION:
            raise ProtocolError(ErrorCode.MALFORMED, "REQUEST names no execution")
        if execution is None:
            raise unknown_execution(header.execution)
        wish = _wish(decode_json(message.body))
        if wish.token and (known := execution.controls.known(wish.token)):
            return self._again(session, execution, header, wish, known, now)
        if execution.decided.final:
            raise ProtocolError(ErrorCode.ENDED, f"execution {execution.id.hex()} has ended: {execution.decided}")
        if len(self._waiting) >= REQUESTS_UNDER_WAY or self._deliveries.full:
            raise ProtocolError(ErrorCode.BUSY, "too much waits for the journal; ask again later")
        append = self._append(session, execution, wish, now)
        self._waiting[append.batch.sequence] = {session.peer: header.request}
        if wish.token:
            requested = Requested(wish.action, append.batch.position, append.batch.sequence)
            execution.controls.remember(wish.token, requested)
        return [append]

    def _append(self, session: Session, execution: Execution, wish: Wish, now: float) -> Append:
        submitted = execution.evidence.submitted
        usual_s = submitted.grace_s if submitted else events.ControlRequested.model_fields["grace_s"].default
        event = events.ControlRequested(
            time=now, action=wish.action, by=wish.by, reason=wish.reason,  # type: ignore[arg-type]  # it was checked
            grace_s=usual_s if wish.grace_s is None else wish.grace_s,
            principal=session.principal[:NAME_CHARACTERS], token=wish.token,
        )  # fmt: skip
        record = encode_record(events.record_fields(event))
        return self._deliveries.append(execution, BROKER, Channel.SIGNALS, 1, record)

    def _again(
        self, session: Session, execution: Execution, header: Header, wish: Wish, known: Requested, now: float
    ) -> list[Append | Send]:
        if known.action != wish.action:
            problem = f"token {wish.token!r} was that of a request to {known.action}; choose another for another"
            raise ProtocolError(ErrorCode.MALFORMED, problem)
        if waiting := self._waiting.get(known.sequence):
            waiting[session.peer] = header.request
            return []
        return [_requested(session.peer, header.request, execution.id, known.position, known.sequence, now)]

    def committed(self, batch: Batch, now: float) -> list[Send]:
        """A batch of the broker's own is on disk: whoever waits for it, and is still there, is told."""
        waiting = self._waiting.pop(batch.sequence, {})
        return [
            _requested(peer, request, batch.execution, batch.position, batch.sequence, now)
            for peer, request in waiting.items()
            if self._sessions.get(peer)
        ]


def _requested(peer: bytes, request: int, execution: bytes, position: int, sequence: int, now: float) -> Send:
    header = Header(request=request, execution=execution, position=position, sequence=sequence, time=now)
    return Send(peer, Message(Command.REQUESTED, header))


def _wish(body: dict[str, Any]) -> Wish:
    """Raises ProtocolError."""
    action = body.get("action")
    if action not in ACTIONS:
        raise _malformed(f"action {str(action)[:NAME_CHARACTERS]!r}; expected one of {', '.join(ACTIONS)}")
    by = _text(body, "by", NAME_CHARACTERS)
    if not by:
        raise _malformed("by is empty; it says who wants it, for whoever asks later")
    grace_s = body.get("grace_s")
    if grace_s is not None:
        number = isinstance(grace_s, int | float) and not isinstance(grace_s, bool)
        if not number or not 0 <= grace_s <= GRACE_MOST_S:  # nor NaN
            raise _malformed(f"grace_s {str(grace_s)[:NAME_CHARACTERS]}; expected seconds from 0 to {GRACE_MOST_S:.0f}")
        grace_s = float(grace_s)
    return Wish(action, by, _text(body, "reason", BEGINNING_CHARACTERS), grace_s, _text(body, "token", NAME_CHARACTERS))


def _text(body: dict[str, Any], name: str, most: int) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise _malformed(f"{name} is no text")
    if len(value) > most:
        raise _malformed(f"{name} has {len(value)} characters; at most {most}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _malformed(f"{name} is no text: it has half a character") from None
    return value


def _malformed(problem: str) -> ProtocolError:
    return ProtocolError(ErrorCode.MALFORMED, f"REQUEST: {problem}")
