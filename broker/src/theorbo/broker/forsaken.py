"""Agents that are given up: what they have not delivered is not waited for any more. Pure.

When launcher and ranks have ended an execution waits for its agents, for they have its last words. Not for ever: where
the launcher says that a node was lost, or the batch scheduler that the job has ended, an agent that has been silent for
`SILENT_S` since then is given up, by an event of the broker's own. An agent whose node is not said to have gone has its
spool and comes back; only the silence of all of them, for much longer, makes an execution LOST.
"""

from __future__ import annotations

from collections.abc import Iterable

from theorbo.broker.contacts import Contacts
from theorbo.schemas import events
from theorbo.schemas.limits import GIVEN_UP_AT_ONCE, SILENT_S
from theorbo.schemas.names import Source, SourceKind
from theorbo.schemas.outcome import Evidence


class Forsaken:
    """Of one execution."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        """Agents that may be gone for good, and since when that is known here."""
        self._given_up: set[int] = set()
        """Those of which it is on its way to the disk, or there, that they are given up."""

    def renew(self, now: float) -> None:
        """The broker itself did not listen: nobody's silence counts."""
        self._since = dict.fromkeys(self._since, now)

    def given_up(
        self, evidence: Evidence, greeted: Iterable[int], contacts: Contacts, now: float
    ) -> list[events.AgentGivenUp]:
        """To be asked each second: those whose time is over now; mostly none. Of those that have `greeted` (said HELLO)
        nothing else may have come.
        """
        if not evidence.ended:
            return []
        due: list[events.AgentGivenUp] = []
        expected = {*range(evidence.expected_agents), *evidence.agents_started, *greeted}
        for node in sorted(expected - self._given_up):
            if not evidence.forsaken(node):
                self._since.pop(node, None)
                continue
            heard = contacts.heard_at(Source(SourceKind.AGENT, node))
            if now - max(self._since.setdefault(node, now), heard) >= SILENT_S and len(due) < GIVEN_UP_AT_ONCE:
                due.append(_given_up(evidence, contacts, node, now))
        self._given_up.update(event.node for event in due)
        return due


def _given_up(evidence: Evidence, contacts: Contacts, node: int, now: float) -> events.AgentGivenUp:
    agent = Source(SourceKind.AGENT, node)
    heard, lost, started = contacts.heard_at(agent), evidence.nodes_lost.get(node), evidence.agents_started.get(node)
    since = f"agent {node} was silent for {now - heard:.0f} s" if heard else f"agent {node} was never heard"
    said = lost.reason if lost else f"its job has ended: {evidence.scheduler_state}"
    host = started.host if started else lost.host if lost else ""
    return events.AgentGivenUp(time=now, node=node, host=host, reason=f"{since}; {said}", heard=contacts.since(agent))
