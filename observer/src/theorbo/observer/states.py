"""The view of an execution in words: as cells of a table, and as one sentence."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from theorbo.schemas.presentation import first_line, numbered
from theorbo.schemas.states import State

View = Mapping[str, Any]


def has_ended(view: View) -> bool:
    """Whether the state is a final one; one that we do not know is not."""
    try:
        return State(str(view.get("state"))).final
    except ValueError:
        return False


def state_of(view: View) -> str:
    """The state; how many ranks are stopped; of an execution whose last events are still under way also that."""
    state = str(view.get("state") or "?")
    if stopped := _number(view, "stopped"):
        running = max(stopped, _number(view, "ranks_started") - _number(view, "ranks_ended"))
        ranks = f"{stopped} of {running} rank{'s' * (running != 1)}"
        state = f"{state} {ranks}" if state == State.STOPPED else f"{state}, {ranks} stopped"
    return f"{state} (ended, delivering)" if view.get("delivering") else state


def _number(view: View, name: str) -> int:
    value = view.get(name)
    return value if isinstance(value, int) else 0


def ranks_of(view: View) -> str:
    """Ranks that have ended, that have started, and all: `1/4/4`."""
    return "/".join(str(view.get(name) or 0) for name in ("ranks_ended", "ranks_started", "ranks"))


def contact_of(view: View) -> str:
    """The worst contact, and with whom: `alive`, `node2 silent since 12:03:10`; empty for what has ended."""
    contact = view.get("contact")
    if not isinstance(contact, dict) or not contact:
        return ""
    nodes = {f"agent:{node.get('node')}": node for node in nodes_of(view)}
    if lost := [str(node.get("host") or name) for name, node in nodes.items() if node.get("lost")]:
        return f"{_several(lost)} lost"
    for bad in ("silent", "suspect"):
        peers = [str(peer) for peer, value in contact.items() if value == bad]
        if peers:
            names = [str(nodes.get(peer, {}).get("host") or peer) for peer in peers]
            heard = [since for peer in peers if (since := nodes.get(peer, {}).get("heard"))]
            return f"{_several(names)} {bad}" + (f" since {clock(min(heard))}" if heard else "")
    return "alive"


def nodes_of(view: View) -> list[View]:
    """What the view says of each node; of one of a former version nothing."""
    nodes = view.get("nodes")
    return [node for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []


def _several(names: list[str]) -> str:
    return ",".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


_NAMED = 3


def hosts_of(view: View) -> str:
    """The agents' hosts in the order of their nodes, at most three by name."""
    hosts = list(dict.fromkeys(str(node["host"]) for node in nodes_of(view) if node.get("host")))
    return _several(hosts or [str(host) for host in view.get("hosts") or []])


def job_of(view: View) -> str:
    """The batch scheduler's job in its words: `slurm 4711 PENDING (Resources)`; empty if there is none."""
    job = view.get("job")
    if not isinstance(job, dict):
        return ""
    words = [str(job[name]) for name in ("scheduler", "job", "state") if job.get(name)]
    reason = str(job.get("reason") or "")
    return " ".join(words) + (f" ({reason})" if reason not in ("", "None") else "")


def silence_of(view: View) -> str:
    """Ranks of which nothing has come for long: `rank 37 of 512 silent since 12:01:07`."""
    ranks = view.get("silent_ranks")
    silent = [each for each in ranks if isinstance(each, dict)] if isinstance(ranks, list) else []
    if not silent:
        return ""
    names = numbered("rank", [int(each.get("rank", 0)) for each in silent])
    return f"{names} of {view.get('ranks')} silent since {clock(min(each.get('since', 0.0) for each in silent))}"


def note_of(view: View) -> str:
    """The reason of the state, and what else one has to know."""
    parts = (first_line(str(view.get("reason") or "")), silence_of(view))
    return "; ".join(part for part in parts if part)


def clock(at: float) -> str:
    """A time of the last day as `12:03:10`, any other with its date; local."""
    try:
        today = 0 <= time.time() - at < 86400
        return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", time.localtime(at))
    except (ValueError, OverflowError, OSError, TypeError):  # a record may say anything
        return "?"


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
    parts += [part for part in (job_of(view), silence_of(view)) if part]
    if contact_of(view) not in ("", "alive"):
        parts.append(contact_of(view))
    return ", ".join(parts)
