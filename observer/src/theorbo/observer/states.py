"""The view of an execution in words: as cells of a table, and as one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from theorbo.schemas.presentation import first_line
from theorbo.schemas.states import State

View = Mapping[str, Any]


def has_ended(view: View) -> bool:
    """Whether the state is a final one; one that we do not know is not."""
    try:
        return State(str(view.get("state"))).final
    except ValueError:
        return False


def state_of(view: View) -> str:
    """The state; of an execution whose last events are still under way also that."""
    state = str(view.get("state") or "?")
    return f"{state} (ended, delivering)" if view.get("delivering") else state


def ranks_of(view: View) -> str:
    """Ranks that have ended, that have started, and all: `1/4/4`."""
    return "/".join(str(view.get(name) or 0) for name in ("ranks_ended", "ranks_started", "ranks"))


def contact_of(view: View) -> str:
    """The worst contact, and with whom: `alive`, `agent:1 silent`; empty for what has ended."""
    contact = view.get("contact")
    if not isinstance(contact, dict) or not contact:
        return ""
    order = ("silent", "suspect", "alive")
    rank = {value: place for place, value in enumerate(order)}
    peer, worst = min(contact.items(), key=lambda item: rank.get(str(item[1]), len(order)))
    return "alive" if worst == "alive" else f"{peer} {worst}"


def hosts_of(view: View) -> str:
    """The agents' hosts, at most three by name."""
    hosts = [str(host) for host in view.get("hosts") or []]
    return ",".join(hosts[:3]) + (f" and {len(hosts) - 3} more" if len(hosts) > 3 else "")


def duration_s(view: View, now: float) -> float | None:
    """How long it runs or ran; if it has not started, how long it waits. None if there is no time at all."""
    since = view.get("started") or view.get("submitted")
    return None if since is None else max(0.0, (view.get("ended") or now) - since)


def span(duration: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`, `5 d 3 h`."""
    if duration is None or not math.isfinite(duration):  # a record may say anything
        return ""
    if duration < 10:
        return f"{duration:.1f} s"
    seconds = int(duration)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def present_state(view: View) -> str:
    """`RUNNING, 4 of 4 ranks started, experiment mfx1, run 12, agent:0 silent`."""
    parts = [state_of(view)]
    if view.get("reason"):
        parts[0] += f": {first_line(str(view['reason']))}"
    parts.append(f"{view.get('ranks_started') or 0} of {view.get('ranks') or 0} ranks started")
    parts += [f"{name} {view[name]}" for name in ("experiment", "run") if view.get(name)]
    if contact_of(view) not in ("", "alive"):
        parts.append(contact_of(view))
    return ", ".join(parts)
