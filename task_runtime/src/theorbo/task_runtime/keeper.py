"""What `theorbo launch` and `theorbo node` have in common: each keeps the spool of one machine. A skin.

It keeps the agent, hears the ranks of this machine on their FIFO, waits for signals, children and what they write,
and performs what its core decides.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from theorbo.schemas.spool import END, tell_cancelled
from theorbo.task_runtime import processes
from theorbo.task_runtime.agent_keeping import AgentKeeping, DismissAgent, KillAgent, StartAgent
from theorbo.task_runtime.agent_process import AgentProcess
from theorbo.task_runtime.phase import Finish, Phase
from theorbo.task_runtime.processes import Process, RankProcess
from theorbo.task_runtime.rank_ending import SendSignal
from theorbo.task_runtime.ranks_pipe import RanksPipe


class KeeperCore(Protocol):
    """What decides: `supervision.Supervision` or `node_supervision.NodeSupervision`."""

    phase: Phase
    agent: AgentKeeping
    ranks: dict[int, RankProcess]

    def wants_table(self, now: float) -> bool:
        """Whether `due` needs the process table."""

    def due(self, table: list[Process], now: float) -> Sequence[Any]:
        """What is to be done now."""

    def next_at(self, now: float) -> float | None:
        """When `due` is to be asked again even if nothing happens."""

    def agent_ready(self) -> Sequence[Any]:
        """The broker has welcomed the agent."""


class Keeper:
    """The spool of one machine while its ranks run. What differs is in methods that begin with `_on` or `_perform`."""

    def __init__(self, spool: Path, ranks_pipe: RanksPipe | None, core: KeeperCore, agent: AgentProcess) -> None:
        self._spool = spool
        self._ranks_pipe = ranks_pipe
        self._keeper_core = core
        self._agent = agent
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._left: set[int] = set()  # what ranks have left behind, and we watch
        self._finish: Finish | None = None

    # --- the loop ---------------------------------------------------------------------------------

    def _keep(self, first: Callable[[], Sequence[Any]]) -> Finish:
        """Perform what `first` says, then whatever follows, until the core says `Finish`."""
        self._wakeup = _wake_on_signals()
        self.watch(self._wakeup.fileno(), self._on_wakeup)
        if self._ranks_pipe:
            self.watch(self._ranks_pipe.descriptor, self._on_ranks_pipe)
        core = self._keeper_core
        self._perform(first())
        while self._finish is None:
            now = time.monotonic()
            table = processes.process_table() if core.wants_table(now) else []
            if core.phase is Phase.CLEARING:
                self._watch_left_behind(table)
            phase = core.phase
            self._perform(core.due(table, now))
            if self._finish is None and core.phase is phase:
                self._wait(now)
        self._agent.stop()
        return self._finish

    def _wait(self, now: float) -> None:
        next_at = self._keeper_core.next_at(now)
        # At most a day at a time: poll takes no more than 24, and a grace may be infinite.
        timeout_ms = None if next_at is None else max(0, int(min(next_at - now, 24 * 3600) * 1000) + 1)
        for descriptor, _ in self._poll.poll(timeout_ms):
            if descriptor in self._readers:
                self._readers[descriptor]()

    def watch(self, descriptor: int, reader: Callable[[], None]) -> None:
        """Call `reader` when there is something to read."""
        self._readers[descriptor] = reader
        self._poll.register(descriptor, select.POLLIN)

    def unwatch(self, descriptor: int) -> None:
        """No more."""
        del self._readers[descriptor]
        self._poll.unregister(descriptor)

    # --- what has happened --------------------------------------------------------------------------

    def _on_wakeup(self) -> None:
        now = time.monotonic()
        for number in self._wakeup.recv(4096):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._on_termination(signal.Signals(number).name, now)
        status = self._agent.ended()
        if status is not None:
            self._on_agent()  # what it said before
            self._on_agent_ended(status, self._agent.words(), now)
        self._on_children(now)

    def _on_termination(self, name: str, now: float) -> None:
        """SIGTERM or SIGINT has come."""
        raise NotImplementedError

    def _on_agent_ended(self, status: int, words: str, now: float) -> None:
        """The agent's process has ended."""
        raise NotImplementedError

    def _on_children(self, now: float) -> None:
        """SIGCHLD has come, perhaps for others than the agent."""

    def _on_agent(self) -> None:
        descriptor = self._agent.socket.fileno() if self._agent.socket else None
        for line in self._agent.said():
            word, _, number = line.partition(" ")
            if word == "ready":
                self._perform(self._keeper_core.agent_ready())
            elif word == "ending":
                self._on_agent_ends_ranks(float(number))
            elif word == "fenced":
                self._keeper_core.agent.fenced()
        if descriptor is not None and self._agent.socket is None:
            self.unwatch(descriptor)

    def _on_agent_ends_ranks(self, grace_s: float) -> None:
        """The agent was told to end the ranks, and does so."""
        raise NotImplementedError

    def _on_ranks_pipe(self) -> None:
        if self._ranks_pipe is None:
            return
        former = self._ranks_pipe.descriptor
        said = self._ranks_pipe.read()
        for line in said.lines:
            with contextlib.suppress(ValueError, TypeError):  # any program of a rank may write there
                self._on_rank_line(line)
        if said.all_gone:
            self.unwatch(former)
            self.watch(self._ranks_pipe.descriptor, self._on_ranks_pipe)
            if self._keeper_core.ranks:
                self._on_ranks_gone()

    def _on_rank_line(self, line: str) -> None:
        """What a thin parent of this machine says; see `wrapper.RANKS_PIPE`."""
        raise NotImplementedError

    def _on_ranks_gone(self) -> None:
        """No thin parent lives on this machine any more, for the moment."""
        raise NotImplementedError

    def _watch_left_behind(self, table: list[Process]) -> None:
        """Be woken when what ranks have left behind has gone."""
        for living in processes.members(self._keeper_core.ranks.values(), table).values():
            for process in living:
                if process.pid not in self._left:
                    self._left.add(process.pid)
                    with contextlib.suppress(OSError):
                        self._watch_once(os.pidfd_open(process.pid))

    def _watch_once(self, descriptor: int) -> None:
        def gone() -> None:
            self.unwatch(descriptor)
            os.close(descriptor)

        self.watch(descriptor, gone)

    # --- what the core decided ------------------------------------------------------------------------

    def _perform(self, instructions: Sequence[Any]) -> None:
        for it in instructions:
            if isinstance(it, StartAgent):
                self._start_agent()
            elif isinstance(it, DismissAgent):
                self._agent.dismiss()
            elif isinstance(it, KillAgent):
                self._agent.kill()
            elif isinstance(it, SendSignal):
                if it.number == signal.SIGTERM:
                    tell_cancelled(self._spool)
                processes.send_signal(it.process, it.number)
            elif isinstance(it, Finish):
                self._finish = it
            else:
                self._perform_own(it)

    def _perform_own(self, it: Any) -> None:
        """An instruction that the other of the two does not know."""
        raise NotImplementedError

    def _start_agent(self) -> None:
        now = time.monotonic()
        try:
            self.watch(self._agent.start().fileno(), self._on_agent)
        except OSError as error:  # no process, no descriptor, no disk: perhaps there is one later
            self._on_agent_ended(-1, f"the agent cannot be started: {error.strerror}", now)
        else:
            self._keeper_core.agent.started(now)

    def _touch_end(self) -> None:
        """Tell the agent that nothing more will come."""
        with contextlib.suppress(OSError):
            os.close(os.open(self._spool / END, os.O_WRONLY | os.O_CREAT, 0o600))


def _wake_on_signals() -> socket.socket:
    """A socket from which the numbers of the signals that have arrived can be read."""
    ours, interpreters = socket.socketpair()
    interpreters.setblocking(False)
    signal.set_wakeup_fd(interpreters.detach())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # an Executor that lets go is no reason to end
    return ours
