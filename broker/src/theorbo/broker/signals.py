"""Signals: what of them is evidence, what of them is kept in memory, and what agents are told of."""

from __future__ import annotations

from typing import Any, NamedTuple

from theorbo.schemas import events
from theorbo.schemas.frames import Command, Header, Message
from theorbo.schemas.limits import BEGINNING_CHARACTERS
from theorbo.schemas.names import BROKER, KIND_SOURCES, Channel, Source, SourceKind, Stream
from theorbo.schemas.records import encode_record
from theorbo.schemas.states import State


class Control(NamedTuple):
    """A committed request that agents of the execution have to hear of."""

    header: Header
    record: bytes


def in_short(event: events.EventBase) -> events.EventBase:
    """What is kept in memory of a signal: long texts are cut, and of a submission what nobody asks the broker for."""
    cut: dict[str, Any] = {
        name: value[:BEGINNING_CHARACTERS]
        for name, value in event
        if isinstance(value, str) and len(value) > BEGINNING_CHARACTERS
    }
    if isinstance(event, events.ExecutionSubmitted):
        cut |= {"command": [], "parameters": {}, "environment": {}, "versions": {}, "git": None}
    return event.model_copy(update=cut) if cut else event


def unusable(source: Source, event: events.EventBase) -> str | None:
    """What is wrong with an event that cannot be evidence: it is not what its kind demands, or it is said by one
    who cannot know it.
    """
    if isinstance(event, events.InvalidEvent):
        return event.problem
    kind: str = event.kind  # type: ignore[attr-defined]
    if source.kind not in KIND_SOURCES.get(kind, (source.kind,)):
        return f"{source} cannot report {kind[:100]}"
    try:
        if isinstance(event, events.AgentClosed):
            for name in event.streams:
                Stream.parse(name)
        if isinstance(event, events.Loss) and event.first:
            _check_loss(source, event)
        if isinstance(event, events.ControlRequested):
            _check_request(source, event)
    except ValueError as error:
        return str(error)
    return None


def _check_loss(source: Source, loss: events.Loss) -> None:
    """Raises ValueError if it makes no sense, or is not for this source to say."""
    if loss.last < loss.first:
        raise ValueError(f"a loss from {loss.first} to {loss.last}")
    of = Stream.parse(loss.stream).source
    of_its_node = source.kind is SourceKind.AGENT and of.kind in (SourceKind.RANK, SourceKind.LAUNCHER)
    if not of_its_node and source not in (of, BROKER):
        raise ValueError(f"{source} cannot give up what {of} has reported")


def _check_request(source: Source, request: events.ControlRequested) -> None:
    """Raises ValueError if it is not for this source to want: an agent keeps time limits, and wants nothing else."""
    if source.kind is SourceKind.AGENT and request.cause != "time_limit":
        raise ValueError(f"{source} cannot request to {request.action}, but for a time limit")


def told_to_end(execution: bytes, state: State, now: float) -> Message:
    """To an agent that is there although everything has ended: it may have been cut off, or frozen, until LOST."""
    request = events.ControlRequested(
        time=now, action="kill", by=str(BROKER), reason=f"this execution has ended: {state}", grace_s=0.0
    )
    header = Header(execution=execution, channel=Channel.SIGNALS, source=BROKER, count=1, time=now)
    return Message(Command.CONTROL, header, encode_record(events.record_fields(request)))
