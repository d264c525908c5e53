"""Events for people and for scripts: one JSON object a line, or one plain line. Needs pydantic.

`theorbo run` and `theorbo tail` show the same events in the same way because both come here. What a Task
writes is shown with control characters made visible: a log line cannot move the cursor, colour the screen,
retitle the window or pretend to be another rank's line.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from theorbo.schemas import events
from theorbo.schemas.frames import Flag, Header
from theorbo.schemas.names import Channel
from theorbo.schemas.records import LF, RS, encode_record, split_body

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

_UNSAFE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f"  # C0 without the tab, DEL, C1
    "\u2028\u2029\u202a-\u202e\u2066-\u2069"  # line separators and changes of writing direction
    "\ud800-\udfff]"  # lone surrogates cannot be printed at all
)
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


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


def kind_of(event: events.EventBase) -> str:
    """The event's kind."""
    return str(event.kind)  # type: ignore[attr-defined]  # every kind of event has it, each with its own literal


def json_line(fields: Mapping[str, Any]) -> str:
    """One line of JSON, without its end. Non-finite numbers become strings, as in records."""
    text = encode_record(dict(fields)).strip(RS + LF).decode()
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def as_line(header: Header, view: Mapping[str, Any], event: events.EventBase, *, with_task: bool = False) -> str:
    """The event for people: `HH:MM:SS rank 2 INFO text`, in local time.

    Several lines only where the event's own text has several; they are indented. `with_task` puts the task
    and the first digits of the execution in front of the source, for whoever watches several at once.
    """
    return line_of(event.time, origin(header, view, with_task=with_task), sentence(header, event))


def line_of(time_s: float, who: str, text: str) -> str:
    """A plain line; what follows a line end in `text` is indented, so that nothing can pose as a line of ours."""
    clock = _clock(time_s)
    first, *rest = text.splitlines() or [""]
    return "\n".join([f"{clock} {who} {visible(first)}".rstrip(), *(f"    {visible(line)}".rstrip() for line in rest)])


def _clock(time_s: float) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(time_s))
    except (ValueError, OverflowError, OSError):  # a record may say anything
        return "--:--:--"


def origin(header: Header, view: Mapping[str, Any], *, with_task: bool = False) -> str:
    """Who says it: `rank 2`, `agent 0`, `executor`."""
    source = str(header.source).replace(":", " ") if header.source else "?"
    if not with_task:
        return source
    return f"{visible(str(view.get('task') or '?'))} {header.execution.hex()[-8:]} {source}"


def visible(text: str) -> str:
    r"""`text` with control characters, line ends and lone surrogates as escapes (`\x1b`)."""
    return _UNSAFE.sub(_escape, text)


def first_line(text: str) -> str:
    """The first line of `text`, with `…` behind it if there is more."""
    first, *rest = text.strip().splitlines() or [""]
    return f"{first} …" if rest else first


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def sentence(header: Header, event: events.EventBase) -> str:
    """What the event says, without time and origin; may have several lines."""
    describe = _SENTENCES.get(type(event))
    if describe is not None:
        return str(describe(event))
    if isinstance(event, events.Output):
        return f"{Channel(header.channel).text if header.channel else 'output'}: {event.text}"
    if isinstance(event, events.UnknownEvent):
        return f"{event.kind}: {json_line(event.fields)}"
    if isinstance(event, events.ExecutionSubmitted):
        ranks = f", {event.ranks} ranks" if event.ranks > 1 else ""
        ranks += f" on {event.nodes} nodes" if event.nodes > 1 else ""
        return f"submitted: {event.task}{ranks}, by {event.user}, as execution {header.execution.hex()}"
    shown = {key: value for key, value in event.model_dump(exclude_defaults=True).items() if key not in _COMMON}
    return f"{kind_of(event)}: " + ", ".join(f"{key} {value}" for key, value in shown.items())


_COMMON = ("kind", "time", "pid")


def _control(event: events.ControlRequested) -> str:
    return f"{event.action} requested by {event.by}" + _because(event.reason)


def _attached(event: events.ExecutorAttached) -> str:
    return f"the Executor of {event.user}@{event.host} has attached"


def _gone(event: events.LauncherGone) -> str:
    return f"launcher is gone: {event.reason}" + _job_ended(event.scheduler_state)


def _job_ended(state: str) -> str:
    return f" (the scheduler says {state})" if state else ""


def _job_submitted(event: events.JobSubmitted) -> str:
    asked = ", ".join(f"{name} {value}" for name, value in event.details.items())
    return f"{event.scheduler} has taken it as job {event.job}" + (f" ({asked})" if asked else "")


def _job_changed(event: events.JobChanged) -> str:
    reason = f" ({event.reason})" if event.reason not in ("", "None") else ""
    return f"job {event.job} {event.state}{reason}" + (f" on {event.nodes}" if event.nodes else "")


def _node_lost(event: events.NodeLost) -> str:
    return f"node {event.node} ({event.host}) is lost" + _because(event.reason)


def _given_up(event: events.AgentGivenUp) -> str:
    host = f" ({event.host})" if event.host else ""
    return f"node {event.node}{host} is not waited for any more" + _because(event.reason)


def _contact(event: events.ContactChanged) -> str:
    who = event.peer.replace(":", " ")
    if event.contact == "alive":
        return f"{who} is heard again, after {max(0.0, event.time - event.heard):.0f} s"
    return f"{who} is {event.contact}, last heard at {_clock(event.heard)}"


def _stopped(event: events.RanksStopped) -> str:
    return f"stopped: {numbered('rank', event.ranks)}"


def _continued(event: events.RanksContinued) -> str:
    return f"running again: {numbered('rank', event.ranks)}"


def numbered(word: str, numbers: Iterable[int]) -> str:
    """`rank 3`, `ranks 0-3, 7`: numbers in order, those in sequence as a range."""
    ordered = sorted(set(numbers))
    runs: list[tuple[int, int]] = []
    for number in ordered:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs[:_RUNS])
    return f"{word}{'s' * (len(ordered) != 1)} {shown or '(none)'}" + (", …" if len(runs) > _RUNS else "")


_RUNS = 8  # of numbers in sequence that a line names


def _usage(event: events.Usage) -> str:
    ranks = f"{len(event.ranks)} rank{'s' * (len(event.ranks) != 1)} use " if event.ranks else ""
    return (
        f"{event.host}: {ranks}{event.cpu:.1f} cores, {size_text(event.memory_bytes)}; "
        f"the node {event.node_cpu:.1f} cores, {size_text(event.node_memory_bytes)}"
    )


def size_text(size_bytes: float) -> str:
    """`512 B`, `3.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def _launched(event: events.LauncherEnded) -> str:
    code = f" with exit code {event.exit_code}" if event.exit_code is not None else ""
    return f"launcher ended{code}" + _because(event.problem or "") + _job_ended(event.scheduler_state)


def _rank_ended(event: events.RankEnded) -> str:
    if event.problem:
        return f"could not be started: {event.problem}"
    how = f"killed by {event.signal}" if event.signal else f"ended with exit code {event.exit_code}"
    if not event.out_of_memory:
        return how
    limit = f" within the limit of {size_text(event.memory_limit_bytes)}" if event.memory_limit_bytes else ""
    return f"{how}, out of memory{limit}"


def _failed(event: events.TaskFailed) -> str:
    return f"failed: {event.error}" + (f"\n{event.traceback.rstrip()}" if event.traceback else "")


def _control_accepted(event: events.ControlAccepted) -> str:
    until = f", to be done by {_clock(event.deadline)}" if event.deadline else ""
    return f"{event.action} accepted{until}"


def _control_done(event: events.ControlDone) -> str:
    if event.refused:
        return f"{event.action} refused: {event.refused}"
    return f"{event.action} carried out" + _because(event.detail)


def _lost(event: events.Loss) -> str:
    return f"lost on {event.stream}: " + (f"{event.count} events, " if event.count else "") + event.detail


def _state(event: events.StateChanged) -> str:
    return event.state + _because(event.reason)


def _log(event: events.Log) -> str:
    return f"{event.level} {event.text}"


def _progress(event: events.Progress) -> str:
    return " ".join(part for part in ("progress", progress_text(event), event.text) if part)


def progress_text(event: events.Progress) -> str:
    """`12/40 tiles (30 %)`; 100 % only when all is done."""
    unit = f" {event.unit}" if event.unit else ""
    if not event.total:
        return f"{event.done:g}{unit}"
    text = f"{event.done:g}/{event.total:g}{unit}"
    percent = 100 * event.done / event.total
    if not math.isfinite(percent):  # a record may say anything
        return text
    whole = math.floor(percent + 1e-9)  # 29 % of 1 is 28.999999999999996 %
    return f"{text} ({min(whole, 99) if event.done < event.total else whole} %)"


def _metric(event: events.Metric) -> str:
    step = f" at step {event.step}" if event.step is not None else ""
    return f"metric {event.name} = {event.value:g}" + (f" {event.unit}" if event.unit else "") + step


def _data(event: events.Data) -> str:
    return f"data {event.name}: {_parts(event.parts)}"


def _result(event: events.Result) -> str:
    return " ".join(part for part in (event.name + ":", event.summary or _parts(event.parts)) if part)


def _parts(parts: list[events.Part]) -> str:
    return ", ".join(part_text(part) for part in parts) or "nothing"


def part_text(part: events.Part) -> str:
    """A piece of a payload in a few words: a short value itself, else what it is and how large."""
    name = f"{part.name} " if part.name else ""
    if part.problem:
        return f"{name}(not sent: {part.problem})"
    if part.path:
        return f"{name}{part.path}"
    if part.sha256:
        return f"{name}({part.mime}, {part.size} bytes)"
    text = part.text if part.text is not None else json_line({"value": part.value})[len('{"value":') : -1]
    return f"{name}{'= ' if name else ''}{text if len(text) <= _SHORT else text[:_SHORT] + '…'}"


_SHORT = 120


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


_SENTENCES: dict[type[events.EventBase], Any] = {
    events.ExecutorAttached: _attached,
    events.ControlRequested: _control,
    events.ControlAccepted: _control_accepted,
    events.ControlDone: _control_done,
    events.JobSubmitted: _job_submitted,
    events.JobChanged: _job_changed,
    events.NodeLost: _node_lost,
    events.AgentGivenUp: _given_up,
    events.ContactChanged: _contact,
    events.RanksStopped: _stopped,
    events.RanksContinued: _continued,
    events.Usage: _usage,
    events.LauncherGone: _gone,
    events.LauncherEnded: _launched,
    events.RankEnded: _rank_ended,
    events.TaskFailed: _failed,
    events.Loss: _lost,
    events.StateChanged: _state,
    events.Log: _log,
    events.Progress: _progress,
    events.Metric: _metric,
    events.Data: _data,
    events.Result: _result,
}
