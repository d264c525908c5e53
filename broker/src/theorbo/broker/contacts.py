"""Contacts: when the peers of an execution and its ranks were last heard, and what of it has been told. Pure.

A change of contact (alive, suspect, silent) is an event of the broker's own, so that everybody sees it, with its
time, also later. It is told at the next tick, and only when the one before it is on disk: a full disk piles up
nothing. To be alive again a peer must have been heard: a new lease, which everybody has when the broker was restarted
or did not run, is none.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from theorbo.schemas import events
from theorbo.schemas.limits import GIVEN_UP_AT_ONCE, SILENT_RANK_S, SILENT_RANKS_SHOWN
from theorbo.schemas.names import Source
from theorbo.schemas.states import Contact, contact


class Contacts:
    """Of one execution. All times are the broker's."""

    def __init__(self) -> None:
        self._heard: dict[str, float] = {}
        """By source (`executor`, `agent:0` …); who says BYE is taken out."""
        self._leased: set[str] = set()
        """Those who have a lease and have not been heard since."""
        self._told: dict[str, tuple[Contact, float]] = {}
        """What the journal says of those that are not alive, and when they were last heard."""
        self._closed: set[str] = set()
        """Agents that have delivered everything: their silence is no news."""
        self._under_way = 0
        """Events that are on their way to the disk."""
        self._ranks: dict[int, float] = {}
        """When something of a rank was last committed."""

    # --- who was heard ---------------------------------------------------------------------------

    def heard(self, source: Source, now: float) -> None:
        """Who speaks for the source was heard."""
        name = str(source)
        self._heard[name] = now
        self._leased.discard(name)

    def lease(self, source: Source, now: float) -> None:
        """It is there, as the journal has it."""
        name = str(source)
        self._heard[name] = now
        self._leased.add(name)

    def left(self, source: Source) -> None:
        """It has said BYE."""
        name = str(source)
        self._heard.pop(name, None)
        self._told.pop(name, None)
        self._leased.discard(name)

    def closed(self, source: Source) -> None:
        """An agent has said its last word."""
        self._closed.add(str(source))

    def renew(self, now: float) -> None:
        """The broker itself did not listen: nobody's silence counts."""
        self._heard = dict.fromkeys(self._heard, now)
        self._leased = set(self._heard)
        self._ranks = dict.fromkeys(self._ranks, now)

    def heard_at(self, source: Source) -> float:
        """When it was last heard; 0: never, or it has said BYE."""
        return self._heard.get(str(source), 0.0)

    def since(self, source: Source) -> float:
        """The same for people: 0 also where this broker knows only that it is there."""
        name = str(source)
        return 0.0 if name in self._leased else self._heard.get(name, 0.0)

    def of(self, source: Source, now: float) -> Contact | None:
        """The contact with it; None: it was never heard, or has said BYE."""
        name = str(source)
        return contact(now - self._heard[name]) if name in self._heard else None

    def all(self, now: float, most: int, first: Source) -> dict[str, str]:
        """By name: of `first`, and of those that were not heard for longest where there are very many."""
        longest = heapq.nsmallest(most, self._heard, key=lambda name: (name != str(first), self._heard[name]))
        return {name: str(contact(now - self._heard[name])) for name in sorted(longest)}

    # --- what is told ----------------------------------------------------------------------------

    def changes(self, now: float) -> list[events.ContactChanged]:
        """What has changed since it was told; nothing while that is still on its way to the disk."""
        if self._under_way:
            return []
        changed = list(itertools.islice(self._changed(now), GIVEN_UP_AT_ONCE))
        self._under_way = len(changed)
        return changed

    def _changed(self, now: float) -> Iterable[events.ContactChanged]:
        for name, heard in self._heard.items():
            previous, before = self._told.get(name, (Contact.ALIVE, heard))
            current = contact(now - heard)
            known = current is previous or (current is Contact.SUSPECT and previous is Contact.SILENT)
            if known or name in self._closed or (current is Contact.ALIVE and name in self._leased):
                continue
            last = before if current is Contact.ALIVE else heard
            yield events.ContactChanged(time=now, peer=name, contact=current.value, previous=previous.value, heard=last)

    def told(self, event: events.ContactChanged) -> None:
        """A change is in the journal."""
        self._under_way = max(0, self._under_way - 1)
        if event.contact == "alive":
            self._told.pop(event.peer, None)
        else:
            self._told[event.peer] = Contact(event.contact), event.heard

    # --- ranks -----------------------------------------------------------------------------------

    def reported(self, rank: int, now: float) -> None:
        """Something of a rank is in the journal."""
        self._ranks[rank] = now

    def silent_ranks(self, running: Iterable[int], now: float) -> list[dict[str, float]]:
        """Those of the running ranks of which nothing has come for longest, if that is long: rank, and since when."""
        since = ((self._ranks[rank], rank) for rank in running if rank in self._ranks)
        silent = heapq.nsmallest(SILENT_RANKS_SHOWN, (each for each in since if now - each[0] > SILENT_RANK_S))
        return [{"rank": rank, "since": at} for at, rank in silent]
