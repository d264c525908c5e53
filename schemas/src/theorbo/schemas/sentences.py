"""Events in words: a sentence for each kind. Needs pydantic."""

from __future__ import annotations

import math
from typing import Any

from theorbo.schemas import events
from theorbo.schemas.frames import Header
from theorbo.schemas.names import Channel
from theorbo.schemas.texts import clock, json_line, numbered, size_text


def kind_of(event: events.EventBase) -> str:
    """The event's kind."""
    return str(event.kind)  # type: ignore[attr-defined]  # every kind of event has it, each with its own literal


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
    return f"node {event.node}{_on(event.host)} is lost" + _because(event.reason)


def _given_up(event: events.AgentGivenUp) -> str:
    return f"node {event.node}{_on(event.host)} is not waited for any more" + _because(event.reason)


def _contact(event: events.ContactChanged) -> str:
    who = event.peer.replace(":", " ")
    if event.contact == "alive":
        return f"{who} is heard again, after {max(0.0, event.time - event.heard):.0f} s"
    return f"{who} is {event.contact}, last heard at {clock(event.heard)}"


def _stopped(event: events.RanksStopped) -> str:
    return f"stopped: {numbered('rank', event.ranks)}"


def _continued(event: events.RanksContinued) -> str:
    return f"running again: {numbered('rank', event.ranks)}"


def _usage(event: events.Usage) -> str:
    ranks = f"{len(event.ranks)} rank{'s' * (len(event.ranks) != 1)} use " if event.ranks else ""
    return (
        f"{event.host}: {ranks}{event.cpu:.1f} cores, {size_text(event.memory_bytes)}; "
        f"the node {event.node_cpu:.1f} cores, {size_text(event.node_memory_bytes)}"
    )


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
    until = f", to be done by {clock(event.deadline)}" if event.deadline else ""
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


def _on(host: str) -> str:
    """Empty for a node that was lost before it could say its name."""
    return f" ({host})" if host else ""


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
