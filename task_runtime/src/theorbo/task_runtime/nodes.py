"""What `theorbo launch` knows of the other machines: which are ready, have cleared up, are done, are lost. Pure.

A node's life, as far as the head sees it::

    AWAITED ──ready──> READY ──`over` was told, leftovers have gone──> CLEARED ──all is delivered──> DONE
        any of them ──its command has ended too early, or it says that it cannot go on──> LOST

While ranks run it is looked now and then whether the machine of a lost node still answers. One that does not is gone,
and with it its ranks; some launchers would never notice.

One command may have started several nodes. What a lost node has in its spool is *swept* once, after the ranks'
end: the same command again, which finds the spool there.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import NamedTuple, Union

from theorbo.schemas.launch_plan import NodeStart
from theorbo.schemas.limits import DRAIN_S, GOODBYE_S, NODE_LOOK_S, NODES_CLEAR_S, NODES_READY_S
from theorbo.task_runtime.agent_keeping import Warn
from theorbo.task_runtime.node_protocol import KEEP, LOOK, SWEEP

_DONE_S = DRAIN_S + 2 * GOODBYE_S  # a node gives up by itself after DRAIN_S, and says so


class NodeState(enum.Enum):
    """See the drawing above."""

    AWAITED = "awaited"
    READY = "ready"
    CLEARED = "cleared"
    DONE = "done"
    LOST = "lost"


class StartNodes(NamedTuple):
    """Run the command of this number in `plan.nodes`, for this purpose; see `node_protocol`."""

    command: int
    purpose: str = KEEP


class TellNodes(NamedTuple):
    """Say this to all of them: see `node_protocol`."""

    word: str
    grace_s: float = 0.0


class EndCommand(NamedTuple):
    """End that command; nobody waits for it any more."""

    command: int


class ReportLost(NamedTuple):
    """Report `node_lost`."""

    node: int
    host: str
    reason: str


NodesInstruction = Union[StartNodes, TellNodes, EndCommand, ReportLost, Warn]


class _Node:
    def __init__(self, index: int) -> None:
        self.index = index
        """Of its command."""
        self.host = ""
        self.state = NodeState.AWAITED
        self.was_ready = False
        self.answers = False
        """Whether its machine has answered a look."""
        self.problem: str | None = None
        """Why it could not be started, or what it could not deliver."""


class Nodes:
    """All machines but the head's own. `now` is any clock in seconds that never goes back."""

    def __init__(self, starts: Sequence[NodeStart]) -> None:
        self._all = {
            start.first + number: _Node(index) for index, start in enumerate(starts) for number in range(start.nodes)
        }
        self._commands = range(len(starts))
        self._running: set[int] = set()
        self._swept: set[int] = set()
        self.gone = ""
        """The machine that was lost and does not answer a look."""
        self._looking: dict[int, float] = {}  # command → until when it may take
        self._look_at: dict[int, float] = {}
        self._ranks_ended = False
        self._draining = False
        self._ready_by: float | None = None
        self._clear_by: float | None = None
        self._done_by: float | None = None

    # --- what there is to know --------------------------------------------------------------------

    @property
    def all_ready(self) -> bool:
        """Whether ranks may be started on all of them."""
        return all(node.state is NodeState.READY for node in self._all.values())

    @property
    def all_cleared(self) -> bool:
        """Whether nothing more of ranks is to be expected from any."""
        return all(node.state not in (NodeState.AWAITED, NodeState.READY) for node in self._all.values())

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be expected at all: all commands have ended, and no sweep is due."""
        return not self._running and not self._to_sweep()

    @property
    def start_problem(self) -> str | None:
        """Why ranks cannot be started."""
        return next((node.problem for node in self._all.values() if node.state is NodeState.LOST), None)

    @property
    def recovered(self) -> bool:
        """Whether any was lost, and has delivered everything in the end."""
        return bool(self._swept) and not self.undelivered()

    def undelivered(self) -> list[tuple[int, str, str]]:
        """Number, host and reason of the nodes that have not delivered everything."""
        return [
            (number, node.host, node.problem or "it has not said that all is delivered")
            for number, node in self._all.items()
            if node.state is not NodeState.DONE
        ]

    # --- what has happened ------------------------------------------------------------------------

    def start(self, now: float) -> list[NodesInstruction]:
        """Start all of them."""
        if self._all:
            self._ready_by = now + NODES_READY_S
        self._running.update(self._commands)
        return [StartNodes(index) for index in self._commands]

    def ready(self, number: int, host: str) -> None:
        """Its agent was welcomed by the broker."""
        node = self._all.get(number)
        if node:
            node.host = host
            if node.state is NodeState.AWAITED:
                node.state, node.was_ready = NodeState.READY, True
        if self.all_ready:
            self._ready_by = None

    def cleared(self, number: int) -> None:
        """Its ranks have ended, and what they have left behind."""
        node = self._all.get(number)
        if node and node.state is NodeState.READY:
            node.state = NodeState.CLEARED

    def done(self, number: int, host: str) -> None:
        """Everything is delivered."""
        node = self._all.get(number)
        if node:
            node.host, node.state, node.problem = host, NodeState.DONE, None

    def alive(self, number: int) -> None:
        """Its machine has answered a look."""
        node = self._all.get(number)
        if node:
            node.answers = True

    def failed(self, number: int, host: str, problem: str) -> list[NodesInstruction]:
        """It says that it could not begin, or not deliver everything. It ends."""
        node = self._all.get(number)
        return self._lost(number, node, host, problem) if node else []

    def command_ended(self, index: int, status: int, words: str, command: str, now: float) -> list[NodesInstruction]:
        """A command has ended, which is too early for the nodes that have not said what became of them."""
        self._running.discard(index)
        if self._looking.pop(index, None) is not None:
            self._looked(index, now)
            return []
        out: list[NodesInstruction] = []
        how = f"{command} was killed by signal {-status}" if status < 0 else f"{command} ended with status {status}"
        said = f"{words} ({how})" if words else how
        for number, node in self._all.items():
            if node.index == index and node.state not in (NodeState.DONE, NodeState.LOST):
                out += self._lost(number, node, node.host, said)
                if node.was_ready and not self._ranks_ended:
                    self._look_at[index] = now
        return out

    def _looked(self, index: int, now: float) -> None:
        silent = [node.host for node in self._all.values() if node.index == index and not node.answers]
        if silent:
            self.gone = silent[0]
        elif not self._ranks_ended:
            self._look_at[index] = now + NODE_LOOK_S

    def _lost(self, number: int, node: _Node, host: str, reason: str) -> list[NodesInstruction]:
        known = node.state is NodeState.LOST
        node.host, node.state = host or node.host, NodeState.LOST
        node.problem = f"{node.host or f'node {number}'}: {reason}"
        return [] if known or self._draining else [ReportLost(number, node.host, reason)]

    def over(self, now: float) -> list[NodesInstruction]:
        """The ranks and their launcher have ended."""
        self._ready_by = None
        self._clear_by = now + NODES_CLEAR_S
        self._ranks_ended = True
        self._look_at.clear()
        return [*self.tell("over"), *(EndCommand(index) for index in self._looking)]

    def tell(self, word: str, grace_s: float = 0.0) -> list[NodesInstruction]:
        """Say it to all, if there are any."""
        return [TellNodes(word, grace_s)] if self._all else []

    def drain(self, now: float) -> list[NodesInstruction]:
        """The head has marked the end; now all is to be delivered."""
        self._draining, self._clear_by = True, None
        self._done_by = now + _DONE_S
        return self.due(now)

    # --- what is due ------------------------------------------------------------------------------

    def due(self, now: float) -> list[NodesInstruction]:
        """What is to be done now, also because time has passed."""
        out: list[NodesInstruction] = []
        if self._ready_by is not None and now >= self._ready_by:
            self._ready_by = None
            out += self._too_late(NodeState.AWAITED, f"not ready within {NODES_READY_S:.0f} s")
        if self._clear_by is not None and now >= self._clear_by:
            self._clear_by = None
            out += self._too_late(NodeState.READY, f"no answer for {NODES_CLEAR_S:.0f} s")
        if self._done_by is not None and now >= self._done_by:
            self._done_by = None
            self._swept.update(self._commands)
            out += [EndCommand(index) for index in sorted(self._running)]
        for index in [index for index, at in self._look_at.items() if now >= at]:
            del self._look_at[index]
            out += self._look(index, now)
        for index in [index for index, until in self._looking.items() if now >= until]:
            self._looking[index] = math.inf
            out.append(EndCommand(index))
        if self._draining:
            for index in sorted(self._to_sweep() - self._running):
                self._swept.add(index)
                self._running.add(index)
                self._done_by = now + _DONE_S
                out.append(StartNodes(index, SWEEP))
        return out

    def _look(self, index: int, now: float) -> list[NodesInstruction]:
        for node in self._all.values():
            if node.index == index:
                node.answers = False
        self._looking[index] = now + NODES_READY_S
        self._running.add(index)
        return [StartNodes(index, LOOK)]

    def _to_sweep(self) -> set[int]:
        """Commands to be run once more. Where nothing was ever ready no rank has left anything."""
        lost = {node.index for node in self._all.values() if node.state is NodeState.LOST and node.was_ready}
        return lost - self._swept

    def times(self) -> list[float | None]:
        """When `due` is to be asked again."""
        return [self._ready_by, self._clear_by, self._done_by, *self._look_at.values(), *self._looking.values()]

    def _too_late(self, state: NodeState, what: str) -> list[NodesInstruction]:
        out: list[NodesInstruction] = []
        for number, node in self._all.items():
            if node.state is state:
                out += self._lost(number, node, node.host, what)
        late = {node.index for node in self._all.values() if node.state is NodeState.LOST}
        return [*out, *(EndCommand(index) for index in sorted(late & self._running) if self._wholly_lost(index))]

    def _wholly_lost(self, index: int) -> bool:
        return all(node.state is NodeState.LOST for node in self._all.values() if node.index == index)
