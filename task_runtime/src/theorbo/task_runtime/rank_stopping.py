"""Holding ranks and letting them go on: which process gets SIGSTOP or SIGCONT, and which ranks really stand. Pure.

A rank counts as stopped when two looks in succession have found the same processes of it, all of them stopped: a
process that was forked between a look and the signal to its parent is seen by the next look, and stopped too. A rank
that starts while ranks are to be stopped is stopped as well.

What others do to a rank that stands (a SIGCONT by hand, by mpirun, by a debugger) is told, and left alone: whoever
continues a process means it.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import NamedTuple

from theorbo.task_runtime.processes import Process
from theorbo.task_runtime.rank_ending import SendSignal

Members = Mapping[int, list[Process]]


class Change(NamedTuple):
    """What follows from a look at the ranks."""

    signals: list[SendSignal]
    stopped: set[int]
    """Ranks that stand since this look."""
    continued: set[int]
    """Ranks that stood, and run again."""


class RankStopping:
    """Whether the ranks of a node are to stand or to run, and which of them stand."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether ranks are to be stopped, also those that start from now on."""
        self.stopped: set[int] = set()
        """The ranks that stand."""
        self._held: set[int] = set()  # ranks that were brought to stand since this was wanted
        self._looked: dict[int, frozenset[int]] = {}  # by rank: its processes, all of which the last look found stopped
        self._told: set[int] = set()  # ranks that have got a signal to stop, and have not been let go
        self._released: set[int] = set()  # ranks that have got SIGCONT
        self.releases = False
        """Whether ranks are to be let go that do not run yet."""

    def recall_stopped(self, ranks: list[int]) -> None:
        """An earlier agent has reported that these ranks stand."""
        self.stopped.update(ranks)
        self._held.update(ranks)
        self._told.update(ranks)

    def recall_continued(self, ranks: list[int]) -> None:
        """An earlier agent has reported that these ranks run again."""
        self.stopped.difference_update(ranks)

    def stop(self) -> None:
        """Bring all ranks to stand."""
        self.wanted, self.releases = True, False
        self._held &= self.stopped
        self._looked.clear()

    def proceed(self) -> None:
        """Let all ranks go on."""
        self.wanted, self.releases = False, True
        self._held.clear()
        self._released.clear()

    def due(self, members: Members) -> Change:
        """What to do now, by the living members of ranks (see `processes.members`)."""
        living = {rank: processes for rank, processes in members.items() if processes}
        for ranks in (self.stopped, self._held, self._told):
            ranks.intersection_update(living)
        before = set(self.stopped)
        signals = self._stop(living) if self.wanted else self._let_go(living) if self.releases else []
        return Change(signals, self.stopped - before, before - self.stopped)

    def is_settled(self, members: Members) -> bool:
        """Whether all ranks are as they are to be."""
        living = {rank for rank, processes in members.items() if processes}
        return living <= self._held if self.wanted else not self.releases

    def unsettled(self, members: Members) -> list[tuple[int, Process]]:
        """The processes, with their ranks, that are not as they are to be."""
        return [
            (rank, process)
            for rank, processes in sorted(members.items())
            if rank not in self._held
            for process in processes
            if process.is_stopped != self.wanted
        ]

    def _stop(self, living: Members) -> list[SendSignal]:
        signals: list[SendSignal] = []
        for rank, processes in living.items():
            running = [process for process in processes if not process.is_stopped]
            if rank in self._held:
                (self.stopped.discard if running else self.stopped.add)(rank)
            elif running:
                self._told.add(rank)
                self._looked.pop(rank, None)
                signals += [SendSignal(process, signal.SIGSTOP) for process in running]
            else:
                found = frozenset(process.pid for process in processes)
                if self._looked.get(rank) == found:
                    self._held.add(rank)
                    self.stopped.add(rank)
                self._looked[rank] = found
        return signals

    def _let_go(self, living: Members) -> list[SendSignal]:
        """A signal to stop may still be under way to a process that seems to run: SIGCONT takes it back."""
        signals: list[SendSignal] = []
        for rank, processes in living.items():
            standing = [process for process in processes if process.is_stopped]
            if rank in self._told and rank not in self._released:
                standing = processes
            if standing:
                self._released.add(rank)
                signals += [SendSignal(process, signal.SIGCONT) for process in standing]
            else:
                self.stopped.discard(rank)
                self._told.discard(rank)
        self.releases = bool(signals)
        return signals
