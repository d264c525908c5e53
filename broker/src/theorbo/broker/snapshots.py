"""Snapshots: what LIST asks for and is answered, and the beacon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from theorbo.broker.executions import Execution
from theorbo.broker.values import FindViews, Listed, Publish, Send, Wanted
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import NO_EXECUTION, Command, ErrorCode, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import KIB, LISTING_ROWS, MESSAGE_BYTES
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
    views = {view["execution"]: view for view in it.views}
    for execution in executions:
        if execution.heads and (it.wanted.ended or not execution.state.final):
            view = execution.view(now)
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


def beacon(broker: str, executions: Iterable[Execution], now: float) -> Publish:
    """The heads of everything that is open or was changed lately."""
    heads = {
        execution.id.hex(): {Channel(channel).text: last for channel, last in execution.heads.items()}
        for execution in executions
        if execution.heads
    }
    return Publish(b"beacon/", Header(time=now), encode_json(broker=broker, time=now, heads=heads))
