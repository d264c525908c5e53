"""Requests that are about the ranks of a node, and what was answered to them. Pure.

A request is known by its position: it comes again whenever the agent says HELLO, and is carried out once. Each is
answered twice, by `control_accepted`, which names a deadline, and by `control_done`, at that deadline at the latest. An
agent that takes over finds both in its predecessor's own records, and goes on with what was accepted and not done.

The broker's own request, to a ghost whose execution has long ended, has position 0: it ends whatever ranks there are,
as often as it comes.

Whoever asks last has it: to stop ranks takes back what was to continue them, to end them takes back both.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from theorbo.schemas.frames import Message, decode_json
from theorbo.schemas.limits import (
    COUNT,
    END_S,
    FIRST_LOOK_S,
    GRACE_S,
    LOOK_S,
    PROCESSES_TOLD,
    STACKS_S,
    STOP_S,
)
from theorbo.schemas.records import Piece, split_body
from theorbo.task_runtime import stack_dumps
from theorbo.task_runtime.instructions import ControlInstruction, Inspect, Report, TellLauncher
from theorbo.task_runtime.processes import Inspection, Process, RankProcess, members
from theorbo.task_runtime.rank_ending import RankEnding
from theorbo.task_runtime.rank_stopping import RankStopping

_ENDING = ("cancel", "kill")
_PATIENCE_S = {"stop": STOP_S, "continue": STOP_S, "stacks": STACKS_S}

Living = dict[int, list[Process]]


class _Request(NamedTuple):
    action: str
    deadline: float


class RankControl:
    """The ranks of a node, as far as their records have been read, and what is to be done to them."""

    def __init__(self) -> None:
        self.ending = RankEnding()
        self.stopping = RankStopping()
        self.ranks: dict[int, RankProcess] = {}
        """The ranks that have started and not ended."""
        self.seen = False
        """Whether any rank has started."""
        self.look_at = math.inf
        """When `due` wants to be asked next, with the process table of then."""
        self._pause_s = FIRST_LOOK_S
        self._done: set[int] = set()  # positions of the requests that were carried out
        self._requests: dict[int, _Request] = {}  # by position, those under way
        self._saved_told: set[int] = set()

    # --- what an agent before has left ------------------------------------------------------------

    def recall(self, fields: dict[str, Any]) -> None:
        """A report of an earlier agent, in their order. Raises ValueError, TypeError or KeyError."""
        kind, position = fields["kind"], int(fields.get("request", 0))
        if kind == "control_accepted":
            self._begin(position, _Request(str(fields["action"]), float(fields["deadline"])))
        elif kind == "control_done":
            self._done.add(position)
            self._requests.pop(position, None)
        elif kind == "ranks_stopped":
            self.stopping.recall_stopped(list(map(int, fields["ranks"])))
        elif kind == "ranks_continued":
            self.stopping.recall_continued(list(map(int, fields["ranks"])))
        elif kind == "control_requested":
            self.ending.request(float(fields["time"]) + float(fields["grace_s"]), 0.0)
            self._look_soon()

    def resumed(self, now: float) -> list[ControlInstruction]:
        """What follows from it at once: whoever was told that the ranks are being ended may not have heard it."""
        kill_at = self.ending.kill_at
        return [] if kill_at is None else [TellLauncher(max(0.0, kill_at - now))]

    def checkpoint(self) -> dict[str, Any]:
        """For a second agent, which does not read the ranks' beginnings again."""
        return {"ranks": [list(rank) for rank in self.ranks.values()], "told": sorted(self.ending.told)}

    def restore(self, saved: dict[str, Any]) -> None:
        """The inverse of `checkpoint`. Raises ValueError, TypeError, KeyError or AttributeError."""
        for numbers in saved["ranks"]:
            rank = RankProcess(*map(int, numbers))
            self.ranks[rank.rank] = rank
        self.seen = bool(self.ranks)
        self.ending.told.update(map(int, saved.get("told", [])))
        self.checkpoint_written()

    @property
    def wants_checkpoint(self) -> bool:
        """Whether ranks were told to end since: a second agent should not tell them again."""
        return self.ending.told != self._saved_told

    def checkpoint_written(self) -> None:
        """The checkpoint file says what `checkpoint` says now."""
        self._saved_told = set(self.ending.told)

    # --- what happens -------------------------------------------------------------------------------

    def note(self, rank: int, piece: Piece) -> None:
        """A signal of a rank has been read."""
        try:
            fields = json.loads(piece.record[1:])
        except (ValueError, RecursionError):
            return  # a stranger's; the broker will say so
        if fields["kind"] == "rank_ended":
            self.ranks.pop(rank, None)
        elif fields["kind"] == "rank_started":
            numbers = (fields.get(name) for name in ("pid", "parent_pid", "process_group", "start_ticks"))
            self.ranks[rank] = RankProcess(rank, *(value if isinstance(value, int) else 0 for value in numbers))
            self.seen = True
        else:
            return
        if self._is_active:
            self.look_at = 0.0

    def request(self, message: Message, now: float) -> list[ControlInstruction]:
        """CONTROL. Nothing happens for what is done, or under way."""
        position = message.header.position
        if position and (position in self._requests or position in self._done):
            return []
        fields = decode_json(b"".join(split_body(message.body)))
        action = str(fields.get("action"))
        if action not in (*_ENDING, *_PATIENCE_S):
            known = ", ".join((*_ENDING, *_PATIENCE_S))
            return self._answer(position, action, refused=f"this agent knows {known}, and not {action!r:.80}")
        if self.ending.requested and action == "stop":
            return self._answer(position, action, refused="the ranks are being ended")
        out: list[ControlInstruction] = []
        if action in _ENDING:
            grace_s = 0.0 if action == "kill" else _grace_s(fields.get("grace_s"))
            self.ending.request(grace_s, now)
            out.append(TellLauncher(grace_s))
        deadline = self._deadline(action, now)
        news = position not in self._requests and position not in self._done
        for former, refused in self._taken_back(action):
            out += self._answer(former, self._requests[former].action, refused=refused)
        self._begin(position, _Request(action, deadline))
        accepted = {"kind": "control_accepted", "action": action, "request": position, "deadline": deadline}
        return [*out, Report(accepted)] if news else out

    def another_journal(self) -> None:
        """The broker has another journal than before, in which other requests may have the positions that we know. What
        was begun goes on; requests that are still there come again, and are answered again.
        """
        self._done.clear()
        self._requests.clear()

    def end_by_ourselves(self, grace_s: float, now: float) -> list[ControlInstruction]:
        """End the ranks though nobody has asked for it."""
        self.ending.request(grace_s, now)
        self._look_soon()
        return [TellLauncher(grace_s)]

    def _begin(self, position: int, request: _Request) -> None:
        self._requests[position] = request
        if request.action == "stop":
            self.stopping.stop()
        elif request.action != "stacks":
            self.stopping.proceed()
        if request.action in _ENDING:
            self.ending.request(max(0.0, request.deadline - END_S), 0.0)
        self._look_soon()

    def _deadline(self, action: str, now: float) -> float:
        if action in _ENDING:
            assert self.ending.kill_at is not None
            return max(now, self.ending.kill_at) + END_S
        return now + _PATIENCE_S[action]

    def _taken_back(self, action: str) -> list[tuple[int, str]]:
        """The requests under way that are not carried out any more because of this one, and why."""
        why = {"stop": "stopped again meanwhile", "continue": "continued meanwhile", "stacks": ""}
        refused = why.get(action, "the ranks are being ended")
        contrary = {"stop": ("continue",), "continue": ("stop",), "stacks": ()}.get(action, ("stop", "continue"))
        return [(position, refused) for position, it in self._requests.items() if it.action in contrary]

    # --- what is due --------------------------------------------------------------------------------

    def due(self, table: list[Process], now: float) -> list[ControlInstruction]:
        """What is to be done now, by the present process table."""
        if not self._is_active:
            return []
        living = members(self.ranks.values(), table)
        out: list[ControlInstruction] = [*self.ending.due(living, now)]
        change = self.stopping.due(living)
        out += change.signals
        if change.stopped:
            out.append(Report({"kind": "ranks_stopped", "ranks": sorted(change.stopped)}))
        if change.continued:
            out.append(Report({"kind": "ranks_continued", "ranks": sorted(change.continued)}))
        if any(it.action == "stacks" for it in self._requests.values()):
            out.append(Inspect(living))
        for position, it in list(self._requests.items()):
            out += self._outcome(position, it, living, now)
        self._plan_look(now)
        return out

    def inspected(self, found: dict[int, list[Inspection]]) -> list[ControlInstruction]:
        """What processes are doing, as `Inspect` has asked."""
        dump = stack_dumps.decide(found)
        asking = [position for position, it in self._requests.items() if it.action == "stacks"]
        if not asking:
            return []
        answers = [out for position in asking for out in self._answer(position, "stacks", dump.detail)]
        return [*dump.signals, *answers]

    def done(self) -> list[ControlInstruction]:
        """All ranks have ended: the answers to what was under way."""
        out: list[ControlInstruction] = []
        for position, it in list(self._requests.items()):
            if it.action in _ENDING:
                out += self._answer(position, it.action, self._how_ended())
            else:
                out += self._answer(position, it.action, refused="all ranks of this node have ended")
        return out

    def too_late(self, message: Message) -> list[ControlInstruction]:
        """CONTROL, when all ranks have ended."""
        position = message.header.position
        if position in self._done or position in self._requests:
            return []
        action = str(decode_json(b"".join(split_body(message.body))).get("action"))
        return self._answer(position, action, refused="all ranks of this node have ended")

    @property
    def _is_active(self) -> bool:
        return self.ending.requested or self.stopping.wanted or self.stopping.releases or bool(self._requests)

    def _outcome(self, position: int, it: _Request, living: Living, now: float) -> list[ControlInstruction]:
        """The answer to a request under way, if there is one now."""
        gone = not any(living.values())
        if it.action in _ENDING:
            if gone and (self.seen or now >= it.deadline):
                return self._answer(position, it.action, self._how_ended())
            left = [(rank, process) for rank, processes in living.items() for process in processes]
            why = "not even by SIGKILL ended: "
        elif it.action == "stacks":
            left, why = [], "nobody could tell in time what the ranks do"
        else:
            if self.stopping.is_settled(living):
                return self._answer(position, it.action, _how_settled(it.action, living))
            left = self.stopping.unsettled(living)
            why = "not stopped in time, and tried on: " if it.action == "stop" else "does not go on: "
        if now < it.deadline:
            return []
        return self._answer(position, it.action, refused=why + _processes_text(left))

    def _how_ended(self) -> str:
        if self.ending.killed:
            return f"SIGKILL was needed for {stack_dumps.ranks_text(self.ending.killed)}"
        return "all ranks have ended" if self.seen else "no rank has started on this node"

    def _answer(self, position: int, action: str, detail: str = "", *, refused: str = "") -> list[ControlInstruction]:
        self._requests.pop(position, None)
        if position in self._done:
            return []
        self._done.add(position)
        fields: dict[str, Any] = {"kind": "control_done", "action": action, "detail": detail, "request": position}
        return [Report({**fields, "refused": refused} if refused else fields)]

    def _look_soon(self) -> None:
        self.look_at, self._pause_s = 0.0, FIRST_LOOK_S

    def _plan_look(self, now: float) -> None:
        """After growing pauses: much happens at first, and to read the process table costs something."""
        times = [now + self._pause_s, *(it.deadline for it in self._requests.values())]
        if self.ending.kill_at is not None:
            times.append(self.ending.kill_at)
        self.look_at = min(time for time in times if time > now) if self._is_active else math.inf
        self._pause_s = min(2 * self._pause_s, LOOK_S)


def _grace_s(given: Any) -> float:
    """Whoever asks for an end gets one, also if the rest of the request is nonsense."""
    return float(given) if isinstance(given, (int, float)) and 0.0 <= given <= COUNT else GRACE_S


def _how_settled(action: str, living: Living) -> str:
    ranks = [rank for rank, processes in living.items() if processes]
    if not ranks:
        return "no rank runs on this node" + ("; those that start will be stopped" if action == "stop" else "")
    return f"{stack_dumps.ranks_text(ranks)}: " + ("stopped" if action == "stop" else "continued")


def _processes_text(left: list[tuple[int, Process]]) -> str:
    shown = [f"rank {rank}: process {process.pid}, state {process.state}" for rank, process in left[:PROCESSES_TOLD]]
    more = len(left) - len(shown)
    return "; ".join(shown) + (f"; and {more} processes more" if more > 0 else "")
