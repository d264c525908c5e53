"""The view of an execution: what LISTING shows of it (`docs/protocol.md`, A view of an execution)."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from theorbo.schemas.limits import BEGINNING_CHARACTERS, HOSTS_SHOWN, NAME_CHARACTERS
from theorbo.schemas.names import EXECUTOR, Channel, Source, SourceKind

if TYPE_CHECKING:
    from theorbo.broker.executions import Execution
    from theorbo.schemas.outcome import Evidence

OLDER: dict[str, Any] = {
    "executor_epoch": 1, "executor_host": "", "job": None, "nodes": [], "stopped": 0, "silent_ranks": [],
}  # fmt: skip
"""What views of former versions, which the journal keeps of ended executions, do not have."""


def view(execution: Execution, now: float) -> dict[str, Any]:
    """As in LISTING; of bounded size."""
    heads = {Channel(channel).text: position for channel, position in sorted(execution.heads.items())}
    standing = execution.speakers.get(EXECUTOR)
    if execution.ended_view is not None:
        epoch = max(standing.epoch if standing else 1, execution.ended_view.get("executor_epoch", 1))
        return {**OLDER, **execution.ended_view, "executor_epoch": epoch, "heads": heads}
    evidence, submitted = execution.evidence, execution.evidence.submitted
    final = execution.state.final
    hosts = {agent.host[:NAME_CHARACTERS] for agent in evidence.agents_started.values()}
    return {
        "execution": execution.id.hex(),
        "task": submitted.task if submitted else "",
        "experiment": submitted.experiment if submitted else "",
        "run": submitted.run if submitted else "",
        "user": submitted.user[:NAME_CHARACTERS] if submitted else "",
        "host": submitted.host[:NAME_CHARACTERS] if submitted else "",
        "state": str(execution.state),
        "reason": execution.reason[:BEGINNING_CHARACTERS],
        "delivering": evidence.ended and not final,
        "submitted": submitted.time if submitted else None,
        "started": execution.started_at,
        "ended": execution.ended_at,
        "ranks": evidence.ranks,
        "ranks_started": len(evidence.ranks_started),
        "ranks_ended": len(evidence.ranks_ended),
        "stopped": len(evidence.alive) - len(evidence.running),
        "silent_ranks": [] if final else execution.contacts.silent_ranks(evidence.running, now),
        "hosts": sorted(hosts)[:HOSTS_SHOWN],
        "nodes": _nodes(execution, now),
        "job": _job(evidence),
        "contact": {} if final else execution.contacts.all(now, HOSTS_SHOWN, EXECUTOR),
        "heads": heads,
        "lost": evidence.lost_events,
        "executor_epoch": standing.epoch if standing else 1,
        "executor_host": execution.executor_host[:NAME_CHARACTERS],
    }


def _nodes(execution: Execution, now: float) -> list[dict[str, Any]]:
    """By number; where there are very many those whose agents were not heard for longest."""
    evidence, contacts = execution.evidence, execution.contacts
    known = evidence.agents_started.keys() | evidence.nodes_lost.keys() | evidence.agents_given_up.keys()
    longest = heapq.nsmallest(HOSTS_SHOWN, known, key=lambda node: (contacts.heard_at(_agent(node)), node))
    return [_node(execution, node, now) for node in sorted(longest)]


def _node(execution: Execution, node: int, now: float) -> dict[str, Any]:
    evidence, contacts = execution.evidence, execution.contacts
    started, lost = evidence.agents_started.get(node), evidence.nodes_lost.get(node)
    given_up = evidence.agents_given_up.get(node)
    over = execution.state.final or node in evidence.agents_closed
    host = started.host if started else lost.host if lost else given_up.host if given_up else ""
    contact = None if over else contacts.of(_agent(node), now)
    why = "" if node in evidence.agents_closed else given_up.reason if given_up else lost.reason if lost else ""
    return {
        "node": node,
        "host": host[:NAME_CHARACTERS],
        "contact": str(contact) if contact else None,
        "heard": None if over else contacts.since(_agent(node)) or None,
        "ranks_started": evidence.started_on[host],
        "ranks_ended": evidence.ended_on[host],
        "lost": why[:NAME_CHARACTERS],
    }


def _agent(node: int) -> Source:
    return Source(SourceKind.AGENT, node)


def _job(evidence: Evidence) -> dict[str, str] | None:
    """Of the batch scheduler, in its own words."""
    submitted, changed = evidence.job, evidence.job_changed
    if submitted is None and changed is None:
        return None
    job = {
        "scheduler": submitted.scheduler if submitted else "",
        "job": submitted.job if submitted else changed.job if changed else "",
        "state": changed.state if changed else "",
        "reason": changed.reason if changed else "",
    }
    return {name: text[:NAME_CHARACTERS] for name, text in job.items()}
