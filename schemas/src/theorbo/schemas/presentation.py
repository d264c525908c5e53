"""Events for people and for scripts: one JSON object a line, or one plain line. Needs pydantic.

`theorbo run` and `theorbo tail` show the same events in the same way because both come here. What a Task
writes is shown with control characters made visible: a log line cannot move the cursor, colour the screen,
retitle the window or pretend to be another rank's line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from theorbo.schemas import events
from theorbo.schemas.frames import Flag, Header
from theorbo.schemas.names import Channel
from theorbo.schemas.records import split_body
from theorbo.schemas.sentences import kind_of, part_text, progress_text, sentence
from theorbo.schemas.texts import clock, first_line, json_line, numbered, size_text, visible

__all__ = [
    "BOOKKEEPING_KINDS", "RESERVED_FIELDS", "as_line", "as_object", "first_line", "json_line", "kind_of", "line_of",
    "numbered", "origin", "part_text", "progress_text", "sentence", "single_events", "size_text", "style_of", "visible",
    "worth_a_line",
]  # fmt: skip

BOOKKEEPING_KINDS = frozenset({
    "launcher_started", "launcher_ended", "agent_started", "agent_closed", "rank_started", "conservation",
    "ranks_stopped", "ranks_continued", "usage",
})  # fmt: skip
"""Kinds that `--json` shows and plain output leaves out unless it is asked for them."""

RESERVED_FIELDS = frozenset({"sequence", "journaled", "late", "redelivered"})
"""Fields that a line has only sometimes, and that say what the broker or the Executor knows: no event has its own."""


def worth_a_line(event: events.EventBase) -> bool:
    """Whether people want to see the event without having asked: no bookkeeping, no good end of a rank."""
    if isinstance(event, events.RankEnded):
        return event.exit_code != 0
    return kind_of(event) not in BOOKKEEPING_KINDS


def style_of(event: events.EventBase) -> str:
    """How a line on a terminal is to look, in the words of rich."""
    if isinstance(event, events.Log):
        return {"ERROR": "red", "CRITICAL": "red", "WARNING": "yellow", "DEBUG": "dim"}.get(event.level, "")
    return next((style for kinds, style in _STYLES if isinstance(event, kinds)), "")


_STYLES: tuple[tuple[tuple[type[events.EventBase], ...], str], ...] = (
    ((events.TaskFailed, events.RankEnded, events.Loss, events.NodeLost, events.AgentGivenUp), "red"),
    ((events.InvalidEvent,), "red"),
    ((events.ContactChanged,), "yellow"),
    ((events.StateChanged, events.Result), "bold"),
    ((events.Output, events.Progress, events.Metric, events.Usage), "dim"),
)


def single_events(header: Header, body: bytes) -> Iterator[tuple[Header, events.EventBase]]:
    """The events in the body of EVENTS or of a live message, each with a header of its own (count 1)."""
    for index, text in enumerate(split_body(body)):
        position = header.position + index if header.position else 0
        own = header._replace(first=header.first + index, count=1, position=position)
        yield own, events.decode_event(text)


def as_object(header: Header, view: Mapping[str, Any], event: events.EventBase) -> dict[str, Any]:
    """The event as `theorbo tail --json` and `theorbo run --json` show it.

    `header` is the event's own (see `single_events`); `view` tells `task`, `experiment` and `run` of its
    execution. Where the event is in the journal, `sequence` and `journaled` (the time of the commit) say so. The
    event's own fields follow, defaults included; where a field of an unknown kind has the name of one of ours,
    what the broker has established wins.
    """
    source = header.source
    journal = {"sequence": header.sequence, "journaled": header.time} if header.sequence else {}
    place = {
        "execution": header.execution.hex(),
        "task": view.get("task", ""),
        "experiment": view.get("experiment", ""),
        "run": view.get("run", ""),
        "source": str(source) if source else "",
        "rank": source.rank if source else None,
        "channel": Channel(header.channel).text if header.channel else "",
        "number": header.first,
        "position": header.position,
        **journal,
        "kind": kind_of(event),
        "time": event.time,
    }
    own = event.fields if isinstance(event, events.UnknownEvent) else event.model_dump(mode="python")
    late = {"late": True} if header.flags & Flag.LATE else {}
    ours = place.keys() | RESERVED_FIELDS
    return {**place, **{key: value for key, value in own.items() if key not in ours}, **late}


def as_line(header: Header, view: Mapping[str, Any], event: events.EventBase, *, with_task: bool = False) -> str:
    """The event for people: `HH:MM:SS rank 2 INFO text`, in local time.

    Several lines only where the event's own text has several; they are indented. `with_task` puts the task
    and the first digits of the execution in front of the source, for whoever watches several at once.
    """
    return line_of(event.time, origin(header, view, with_task=with_task), sentence(header, event))


def line_of(time_s: float, who: str, text: str) -> str:
    """A plain line; what follows a line end in `text` is indented, so that nothing can pose as a line of ours."""
    at = clock(time_s)
    first, *rest = text.splitlines() or [""]
    return "\n".join([f"{at} {who} {visible(first)}".rstrip(), *(f"    {visible(line)}".rstrip() for line in rest)])


def origin(header: Header, view: Mapping[str, Any], *, with_task: bool = False) -> str:
    """Who says it: `rank 2`, `agent 0`, `executor`."""
    source = str(header.source).replace(":", " ") if header.source else "?"
    if not with_task:
        return source
    return f"{visible(str(view.get('task') or '?'))} {header.execution.hex()[-8:]} {source}"
