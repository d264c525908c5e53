"""`theorbo node`: keeps the agent of one machine, for a launch on another. The skin of `node_supervision`.

Started by `theorbo launch` (the head) over ssh or srun, and told by it what to do; see `node_protocol`. It makes the
spool, starts the agent beside the ranks, tells the head what becomes of ranks here, and ends when everything is
delivered. Standard library only, and no sockets to anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

from theorbo.schemas import __version__
from theorbo.schemas.command import guarded
from theorbo.schemas.errors import ExitStatus, TheorboError, Unavailable, UsageError
from theorbo.schemas.spool import checked_execution, make_spool
from theorbo.task_runtime import processes
from theorbo.task_runtime.agent_keeping import Warn
from theorbo.task_runtime.agent_process import AgentProcess
from theorbo.task_runtime.keeper import Keeper
from theorbo.task_runtime.mpi_abort import aborted
from theorbo.task_runtime.node_protocol import LOOK, SWEEP, NodePlan, decode_plan, encode_line
from theorbo.task_runtime.node_supervision import NodeSupervision, Say
from theorbo.task_runtime.phase import MarkEnd
from theorbo.task_runtime.processes import RankProcess
from theorbo.task_runtime.rank_environment import make_rank_directories
from theorbo.task_runtime.ranks_pipe import RanksPipe
from theorbo.task_runtime.wrapper import RANKS_PIPE


class Head:
    """The two pipes to `theorbo launch`, wherever that is."""

    def __init__(self, node: int, down: int = 0, up: int = 1) -> None:
        self.descriptor = down
        self._who = {"node": node, "host": socket.gethostname()}
        self._up = up
        self._text = b""

    def first_line(self) -> bytes:
        """The node's plan. Raises UsageError, if the head ends without a word."""
        while b"\n" not in self._text:
            text = os.read(self.descriptor, 65536)
            if not text:
                raise UsageError("stdin ended before a plan came; theorbo node is started by theorbo launch")
            self._text += text
        line, _, self._text = self._text.partition(b"\n")
        return line

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """What it tells, and whether it has gone."""
        gone = False
        while select.select([self.descriptor], [], [], 0)[0]:
            try:
                text = os.read(self.descriptor, 65536)
            except OSError:
                text = b""
            if not text:
                gone = True
                break
            self._text += text
        *lines, self._text = self._text.split(b"\n")
        told = []
        for line in lines:
            with contextlib.suppress(ValueError):
                fields = json.loads(line)
                if isinstance(fields, dict):
                    told.append(fields)
        return told, gone

    def say(self, word: str, **fields: Any) -> None:
        """One line up. The head may be gone."""
        with contextlib.suppress(OSError):
            os.write(self._up, encode_line({**self._who, "says": word, **fields}))


class Node(Keeper):
    """One machine of an execution, from `run` to its exit status."""

    def __init__(self, plan: NodePlan, number: int, head: Head) -> None:
        """Make the spool, or find it again in a sweep. Raises UsageError or Unavailable."""
        self._plan, self._head = plan, head
        root = Path(plan.spool_root)
        spool = root / f"theorbo-{os.getuid()}" / plan.execution
        ranks_pipe = None if plan.purpose == SWEEP else _made(spool, root, plan.execution)
        self._core = NodeSupervision(grace_s=plan.grace_s, sweep=plan.purpose == SWEEP)
        agent = AgentProcess(
            spool, broker=Path(plan.broker), connection=plan.connection, node=number,
            spool_bytes=plan.spool_bytes, time_limit_s=plan.time_limit_s, grace_s=plan.grace_s,
        )  # fmt: skip
        super().__init__(spool, ranks_pipe, self._core, agent)

    def run(self) -> int:
        """Keep the agent until everything is delivered. Tells the head how that went."""
        self.watch(self._head.descriptor, self._on_head)
        if self._plan.purpose == SWEEP:
            processes.end_users_of_spool(self._spool)
        finish = self._keep(lambda: self._core.start(time.monotonic()))
        if (finish.problem is None or not finish.started) and not self._plan.keep_spool:
            shutil.rmtree(self._spool, ignore_errors=True)
        if finish.problem is None:
            self._head.say("done")
            return ExitStatus.COMPLETED
        kept = f"; the rest is in {self._spool}" if finish.started else ""
        raise Unavailable(f"{finish.problem}{kept}")

    # --- what has happened --------------------------------------------------------------------------

    def _on_head(self) -> None:
        now = time.monotonic()
        told, gone = self._head.read()
        for fields in told:
            what = fields.get("tell")
            if what == "over":
                self._core.told_over()
            elif what == "leave":
                self._perform(self._core.told_to_leave())
            elif what == "end":
                self._core.told_to_end(float(fields.get("grace_s", 0.0)), now)
        if gone:
            self.unwatch(self._head.descriptor)
            self._perform(self._core.head_gone(now))

    def _on_termination(self, name: str, now: float) -> None:
        self._perform(self._core.terminated(name, now))

    def _on_agent_ended(self, status: int, words: str, now: float) -> None:
        self._perform(self._core.agent_ended(status, words, now))

    def _on_agent_ends_ranks(self, grace_s: float) -> None:
        self._head.say("ending", grace_s=grace_s)

    def _on_rank_line(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "started":
            self._core.rank_started(RankProcess(*map(int, rest.split())))
        elif word == "ended":
            self._core.rank_ended(int(rest.split()[0]))
        self._head.say("rank", line=line)

    def _on_ranks_gone(self) -> None:
        self._core.ranks_gone()
        self._head.say("gone")

    # --- what the core decided ------------------------------------------------------------------------

    def _start_agent(self) -> None:
        if self._plan.purpose == SWEEP and not self._spool.is_dir():
            self._perform(self._core.spool_gone())
        else:
            super()._start_agent()

    def _perform_own(self, it: Any) -> None:
        if isinstance(it, Say):
            if it.word == "cleared":
                if self._core.ending.requested:  # a rank may have been about to start
                    processes.end_users_of_spool(self._spool)
                for rank, code in aborted(self._spool, self._core.silent).items():
                    self._head.say("rank", line=f"aborted {rank} {code}")
            self._head.say(it.word)
        elif isinstance(it, Warn):
            self._head.say("warn", text=it.text)
        elif isinstance(it, MarkEnd):
            self._touch_end()


def _made(spool: Path, root: Path, execution: str) -> RanksPipe:
    if (spool / RANKS_PIPE).exists():
        raise UsageError(
            f"the spool {spool} is there already: is {root} shared between machines? Name a directory that each has "
            "for itself (--spool-root)"
        )
    make_spool(root, execution)
    try:
        make_rank_directories(spool)
        return RanksPipe(spool)
    except OSError as error:
        raise Unavailable(f"cannot write to {spool}: {error.strerror}") from None


def run(number: int, head: Head) -> int:
    """Take the plan from the head, and be a node. The head is told of whatever goes wrong."""
    try:
        plan = decode_plan(head.first_line())
        if plan.version != __version__:
            raise UsageError(f"Theorbo {__version__} here, {plan.version} at the launch; install the same version")
        checked_execution(plan.execution)
        if plan.purpose == LOOK:
            head.say("alive")
            return ExitStatus.COMPLETED
        return Node(plan, number, head).run()
    except TheorboError as error:
        head.say("failed", text=str(error))
        raise


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    parser = argparse.ArgumentParser(
        prog="theorbo node",
        description="Keep the agent of one machine of an execution whose launch runs on another. theorbo launch "
        "starts it there, by ssh or srun, and talks with it over stdin and stdout.",
    )
    parser.add_argument("--number", type=int, required=True, metavar="N", help="of this node, from 1 on")
    parser.add_argument(
        "--several", action="store_true",
        help="srun has started several: SLURM_PROCID is added to the number",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    number = arguments.number
    if arguments.several:
        number += int(os.environ.get("SLURM_PROCID", "0"))
    return run(number, Head(number))


if __name__ == "__main__":
    sys.exit(guarded("node", lambda: main(sys.argv[1:])))
