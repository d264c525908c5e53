"""The invariants of those who read: hooks of Executors, and what observers see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from theorbo.schemas import limits
from theorbo.schemas.frames import Header
from theorbo.schemas.names import BROKER, Channel, Source
from theorbo.schemas.states import State

from .checks import Checks
from .known import is_part, said

if TYPE_CHECKING:
    from .executor_party import ExecutorParty
    from .observer_party import ObserverParty
    from .world import World

Event = tuple[bytes, Source, int, int]
"""Execution, source, channel, number."""


class Readers:
    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._hooked: dict[Event, int] = {}
        """By which life of its Executor first."""
        self._hooked_in: set[tuple[int, Event]] = set()
        self._sequences: dict[tuple[int, int], int] = {}
        self.hooks = 0
        self.redelivered = 0
        self.seen = 0

    # --- Executors -------------------------------------------------------------------------------

    def hook(self, executor: ExecutorParty, reported: Any) -> None:
        """The hooks of an event are called now."""
        require, header = self._checks.require, reported.header
        event = (header.execution, header.source, header.channel, header.first)
        life, recovered = executor.life, self._checks.recoveries > 0
        row = self._checks.rows.get(header.sequence)
        require("hooks hear only what is committed", row is not None or recovered, lambda: f"{event}")
        require(
            "hooks hear an event once while an Executor lives",
            (life, event) not in self._hooked_in or (header.source == BROKER and recovered),
            lambda: f"{event} again in life {life}",
        )
        require(
            "what comes again to hooks is marked",
            self._hooked.get(event, life) >= life or reported.redelivered or recovered,
            lambda: f"{event} in life {life} was given to life {self._hooked[event]}",
        )
        before = self._sequences.get((executor.number, life), 0)
        require(
            "hooks hear events in the journal's order",
            header.sequence >= before,
            lambda: f"{event}: {header.sequence} after {before}",
        )
        self._sequences[executor.number, life] = header.sequence
        self._hooked_in.add((life, event))
        self._hooked[event] = min(life, self._hooked.get(event, life))
        self.hooks += 1
        self.redelivered += reported.redelivered
        executor.world.story.mark("hook", event, reported.redelivered)

    # --- observers -------------------------------------------------------------------------------

    def joined(self, observer: ObserverParty, sequence: int) -> None:
        """A snapshot: all up to this sequence is in it."""
        observer.snapshot_sequence = sequence
        observer.seen.clear()
        for row in self._checks.rows.values():
            if row.sequence <= sequence:
                key = row.execution, row.channel
                observer.seen[key] = max(observer.seen.get(key, 0), row.last_position)

    def _last_seen(self, observer: ObserverParty, execution: bytes, channel: int) -> int:
        return observer.seen.get((execution, channel), 0)

    def _sound_last(self, observer: ObserverParty, execution: bytes, channel: int) -> int:
        """The last position of the snapshot, where a recovery has left out a damaged row that stood there."""
        return max(
            (
                row.last_position
                for row in self._checks.rows.values()
                if (row.execution, row.channel) == (execution, channel)
                and row.sequence <= observer.snapshot_sequence
                and row.sequence not in self._checks.damaged_rows
            ),
            default=0,
        )

    def observed(self, observer: ObserverParty, header: Header, body: bytes) -> None:
        require = self._checks.require
        row = self._checks.rows.get(header.sequence)
        stale = self._checks.recoveries and row is None  # of the journal that was, not yet known to be another
        require(
            "observers see only what is committed",
            bool(stale) or (row is not None and is_part(header, body, row)),
            lambda: f"{observer}: {header} of {row}",
        )
        last = header.position + header.count - 1
        if stale:  # what it follows on is not known any more either
            observer.seen[header.execution, header.channel] = last
        else:
            self._next(observer, header.execution, header.channel, header.position, last)
        self.seen += header.count
        observer.world.story.mark("seen", str(observer), header)

    def missed(self, observer: ObserverParty, execution: bytes, channel: int, first: int, last: int) -> None:
        if observer.plan.policy == "complete":
            known = self._checks.known(execution)
            damaged = any(
                row.execution == execution
                and row.channel == channel
                and row.position <= last
                and first <= row.last_position
                for sequence in self._checks.damaged_rows
                if (row := self._checks.rows.get(sequence)) is not None
            )
            self._checks.require(
                "who reads completely misses only what is damaged",
                damaged or self._checks.recoveries > 0,
                lambda: f"{observer}: {first} to {last} of {Channel(channel).text}, the journal has {known.positions}",
            )
        self._next(observer, execution, channel, first, last)

    def _next(self, observer: ObserverParty, execution: bytes, channel: int, first: int, last: int) -> None:
        expected = self._last_seen(observer, execution, channel) + 1
        if first < expected and self._checks.recoveries:
            expected = self._sound_last(observer, execution, channel) + 1
        self._checks.require(
            "observers see each position once, in order, or are told",
            first == expected and last >= first,
            lambda: f"{observer}: {Channel(channel).text} {first} to {last}, expected {expected}",
        )
        observer.seen[execution, channel] = last

    def bounded(self, observer: ObserverParty) -> None:
        held = observer.subscription._splice.held_bytes
        bound = limits.HELD_BYTES
        self._checks.require("an observer's memory is bounded", held <= bound, lambda: f"{observer} holds {held}")

    # --- the end ---------------------------------------------------------------------------------

    def behind(self, observer: ObserverParty) -> str:
        """What an observer has still to see, or to be told."""
        if observer.snapshot_sequence < 0:
            return "it has not joined"
        for execution, known in self._checks.executions.items():
            for channel, head in known.positions.items():
                if channel in observer.filter.channels:
                    seen = self._last_seen(observer, execution, channel)
                    if seen < head:
                        return f"{execution[:2].hex()} {Channel(channel).text}: {seen} of {head}"
        return ""

    def complete(self, world: World) -> None:
        """Whoever has seen the final state has heard of all that is before it."""
        for executor in world.executors.values():
            state = getattr(executor.outcome, "state", State.PENDING)
            if not state.final or self._checks.recoveries:
                continue
            for row in self._checks.rows.values():
                if row.execution == executor.execution and row.sequence not in self._checks.damaged_rows:
                    for number in range(row.first, row.last + 1):
                        event = (row.execution, row.source, row.channel, number)
                        self._checks.require(
                            "hooks hear everything",
                            event in self._hooked or row.sequence > executor.final_sequence,
                            said(f"{executor} has not heard {event}"),
                        )
