"""Snapshots: what LIST asks for and is answered, and the beacon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from theorbo.broker.executions import Execution
from theorbo.broker.values import FindViews, Listed, Publish, Send, Wanted
from theorbo.broker.views import OLDER
from theorbo.broker.views import view as view_of
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import NO_EXECUTION, Command, ErrorCode, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import KIB, LISTING_ROWS, LIVE_BYTES, MESSAGE_BYTES
from theorbo.schemas.names import Channel


def find(peer: bytes, message: Message) -> FindViews:
    """What a LIST asks for. Raises ProtocolError."""
    wish, execution = decode_json(message.body), message.header.execution
    limit = wish.get("limit") or LISTING_ROWS
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ProtocolError(ErrorCode.MALFORMED, f"LIST: limit {limit!r} is no number from 1")
    wanted = Wanted(
        execution=execution,
        ended=bool(wish.get("all")) or execution != NO_EXECUTION,
        experiment=_text(wish, "experiment"),
        run=_text(wish, "run"),
        task=_text(wish, "task"),
        limit=min(limit, LISTING_ROWS),
    )
    return FindViews(peer, message.header.request, wanted)


def _text(wish: dict[str, Any], name: str) -> str | None:
    value = wish.get(name)
    try:
        if value is not None:
            value.encode()
    except (AttributeError, UnicodeEncodeError):
        raise ProtocolError(ErrorCode.MALFORMED, f"LIST: {name} {value!r} is no text") from None
    return value


def listing(it: Listed, executions: Iterable[Execution], sequence: int, now: float) -> Send:
    """LISTING: views from the journal and of the executions in memory, of which the latter are newer."""
    views = {view["execution"]: {**OLDER, **view} for view in it.views}
    for execution in executions:
        if execution.heads and (it.wanted.ended or not execution.state.final):
            view = view_of(execution, now)
            if _matches(it.wanted, execution.id, view):
                views[view["execution"]] = view
    newest = sorted(views.values(), key=lambda view: view["submitted"] or 0.0, reverse=True)[: it.wanted.limit]
    fitting = list(_fitting(newest))
    header = Header(request=it.request, execution=it.wanted.execution, sequence=sequence, time=now)
    body = encode_json(executions=fitting, more=len(fitting) < len(newest))
    return Send(it.peer, Message(Command.LISTING, header, body))


def _fitting(views: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those that fit into one message: libzmq closes the connection of a client that is sent a larger one."""
    room = MESSAGE_BYTES - KIB
    for view in views:
        size = len(encode_json(**view)) + 1
        if size <= room:
            room -= size
            yield view


def _matches(wanted: Wanted, execution: bytes, view: dict[str, Any]) -> bool:
    exact = ((wanted.experiment, "experiment"), (wanted.run, "run"), (wanted.task, "task"))
    return wanted.execution in (NO_EXECUTION, execution) and all(
        value is None or view[name] == value for value, name in exact
    )


class Beacon:
    """The heads of everything that is open or was changed lately, a part at a time where it is too much."""

    def __init__(self, broker: str) -> None:
        """`broker` identifies the journal."""
        self._broker = broker
        self._told = b""
        """The last execution that was told."""

    def next(self, executions: Iterable[Execution], now: float) -> Publish:
        """The beacon of this second: as many executions as there is room for, after those of the last one."""
        ordered = sorted((each for each in executions if each.heads), key=lambda each: each.id)
        start = next((place for place, each in enumerate(ordered) if each.id > self._told), 0)
        room = LIVE_BYTES - KIB
        heads: dict[str, dict[str, int]] = {}
        for execution in ordered[start:] + ordered[:start]:
            positions = {Channel(channel).text: last for channel, last in execution.heads.items()}
            room -= len(encode_json(**{execution.id.hex(): positions}))
            if room < 0:
                break
            heads[execution.id.hex()] = positions
            self._told = execution.id
        if len(heads) == len(ordered):
            self._told = b""
        return Publish(b"beacon/", Header(time=now), encode_json(broker=self._broker, time=now, heads=heads))
