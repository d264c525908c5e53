"""One execution in detail, for `theorbo ps EXECUTION`: a line for each thing there is to know. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from theorbo.observer.states import View, clock, duration_s, job_of, nodes_of, silence_of, span, state_of
from theorbo.schemas.presentation import visible


def details(view: View, now: float) -> list[str]:
    """Lines for people."""
    lines = [(name, visible(text).replace("\t", " ")) for name, text in _lines(view, now) if text]
    width = max(len(name) for name, _ in lines)
    return [f"{name:<{width}}  {text}" for name, text in lines]


def _lines(view: View, now: float) -> Iterator[tuple[str, str]]:
    yield "execution", str(view.get("execution"))
    yield "task", str(view.get("task") or "")
    yield "experiment", str(view.get("experiment") or "")
    yield "run", str(view.get("run") or "")
    reason = str(view.get("reason") or "").strip()
    yield "state", state_of(view) + (f": {reason}" if reason else "")
    yield "job", job_of(view)
    yield "submitted", _when(view, "submitted") + f", by {view.get('user') or '?'} on {view.get('host') or '?'}"
    yield "started", _when(view, "started")
    yield "ended", _when(view, "ended")
    yield "duration", span(duration_s(view, now))
    counts = (view.get(name) or 0 for name in ("ranks", "ranks_started", "ranks_ended"))
    yield "ranks", "{}, {} started, {} ended".format(*counts)
    yield "silent", silence_of(view)
    contact = view.get("contact")
    known = contact if isinstance(contact, dict) else {}
    executor = str(view.get("executor_host") or view.get("host") or "")
    yield "executor", executor + (f": {known['executor']}" if known.get("executor") else "")
    nodes = nodes_of(view)
    for node in nodes:
        yield f"node {node.get('node')}", _node(node)
    if not nodes:
        yield "hosts", ", ".join(map(str, view.get("hosts") or []))
    yield "lost", f"{view['lost']} events" if view.get("lost") else ""


def _when(view: View, name: str) -> str:
    at = view.get(name)
    return clock(at) if isinstance(at, int | float) else ""


def _node(node: View) -> str:
    words: list[Any] = [node.get("host") or "?"]
    if contact := node.get("contact"):
        since = f" since {clock(node['heard'])}" if contact != "alive" and node.get("heard") else ""
        words.append(f"{contact}{since}")
    if node.get("lost"):
        words.append(f"lost: {node['lost']}")
    if started := node.get("ranks_started"):
        words.append(f"{started} rank{'s' * (started != 1)} started, {node.get('ranks_ended') or 0} ended")
    return ", ".join(map(str, words))
