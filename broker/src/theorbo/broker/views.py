"""The view of an execution: what LISTING shows of it (`docs/protocol.md`, A view of an execution)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from theorbo.schemas.limits import BEGINNING_CHARACTERS, HOSTS_SHOWN, NAME_CHARACTERS
from theorbo.schemas.names import EXECUTOR, Channel
from theorbo.schemas.states import contact

if TYPE_CHECKING:
    from theorbo.broker.executions import Execution


def view(execution: Execution, now: float) -> dict[str, Any]:
    """As in LISTING; of bounded size."""
    heads = {Channel(channel).text: position for channel, position in sorted(execution.heads.items())}
    standing = execution.speakers.get(EXECUTOR)
    if execution.ended_view is not None:
        epoch = max(standing.epoch if standing else 1, execution.ended_view.get("executor_epoch", 1))
        return {**execution.ended_view, "executor_epoch": epoch, "heads": heads}
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
        "hosts": sorted(hosts)[:HOSTS_SHOWN],
        "contact": {} if final else _contacts(execution.contacts, now),
        "heads": heads,
        "lost": evidence.lost_events,
        "executor_epoch": standing.epoch if standing else 1,
        "executor_host": execution.executor_host[:NAME_CHARACTERS],
    }


def _contacts(contacts: dict[str, float], now: float) -> dict[str, str]:
    """Of the Executor, and of those that were not heard for longest where there are very many."""
    longest = sorted(contacts, key=lambda name: (name != str(EXECUTOR), contacts[name]))[:HOSTS_SHOWN]
    return {name: str(contact(now - contacts[name])) for name in sorted(longest)}
