"""`theorbo launch`: the parent of all that runs for one execution on this node. The skin of `supervision`.

Standard library only, and no sockets to anywhere: it makes the spool, starts the agent beside the ranks, `theorbo node`
on the other machines, the ranks each under a thin parent (`wrapper`), directly or by mpiexec and its like, waits for
signals, children and what they write, and performs what the core decides.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from theorbo.schemas import __version__
from theorbo.schemas.command import guarded
from theorbo.schemas.errors import ExitStatus, Unavailable, UsageError
from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.limits import LAUNCHER_STDERR_BYTES, NAME_CHARACTERS, OWN_RECORDS_BYTES
from theorbo.schemas.names import LAUNCHER
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import append, checked_execution, default_root, make_spool, open_append, spool_name
from theorbo.task_runtime import processes, scheduler, wrapper
from theorbo.task_runtime.agent_keeping import Warn
from theorbo.task_runtime.agent_process import AgentProcess, connection_content
from theorbo.task_runtime.file_space import reserve
from theorbo.task_runtime.keeper import Keeper
from theorbo.task_runtime.launch_help import PLANS
from theorbo.task_runtime.mpi_abort import WHY, aborted
from theorbo.task_runtime.node_command import NodeCommands
from theorbo.task_runtime.node_protocol import NodePlan, Said
from theorbo.task_runtime.nodes import EndCommand, ReportLost, StartNodes, TellNodes
from theorbo.task_runtime.phase import Finish, MarkEnd
from theorbo.task_runtime.processes import RankProcess
from theorbo.task_runtime.rank_environment import make_rank_directories, rank_environment
from theorbo.task_runtime.ranks_pipe import RanksPipe
from theorbo.task_runtime.supervision import HERE, SignalLauncher, StartRanks, Supervision


class Launch(Keeper):
    """One launch, from `run` to its exit status."""

    def __init__(self, plan: LaunchPlan) -> None:
        """Make the spool. Raises UsageError or Unavailable."""
        self._plan = plan
        checked_execution(plan.execution)
        self._root = (Path(plan.spool_root) if plan.spool_root else default_root()).absolute()
        spool = make_spool(self._root, plan.execution)
        if (spool / spool_name(LAUNCHER)).exists():
            raise UsageError(f"execution {plan.execution} was launched before: its spool is {spool}")
        try:
            make_rank_directories(spool)
            ranks_pipe = RanksPipe(spool)
            self._records = open_append(spool / spool_name(LAUNCHER))
            reserve(self._records, OWN_RECORDS_BYTES)
        except OSError as error:
            raise Unavailable(f"cannot write to {spool}: {error.strerror}") from None
        self._grace_s = scheduler.ask_grace(plan.grace_s)
        self._core = Supervision(has_launcher=bool(plan.launcher_command), grace_s=self._grace_s, nodes=plan.nodes)
        self._broker = Path(plan.broker).absolute()
        agent = AgentProcess(
            spool, broker=self._broker, connection=plan.connection, node=HERE, spool_bytes=plan.spool_bytes,
            time_limit_s=plan.time_limit_s, grace_s=plan.grace_s,
        )  # fmt: skip
        super().__init__(spool, ranks_pipe, self._core, agent)
        self._nodes = NodeCommands(plan.nodes, self)
        self._started: list[subprocess.Popen[bytes]] = []
        self._ended_launcher = False
        self._problem: str | None = None
        self._output = b""  # the end of what the launcher itself has written
        self._output_pipe = -1
        self._aborted: dict[int, int] = {}
        self._lost: Counter[tuple[str, str]] = Counter()  # (stream, why) → events, which ranks could not report

    def run(self) -> int:
        """Launch, wait, drain. Raises Unavailable if nothing was started, or not all could be delivered."""
        self._report(
            "launcher_started", host=socket.gethostname(), agents=1 + sum(start.nodes for start in self._plan.nodes),
            start_ticks=wrapper.start_ticks(os.getpid()), command=list(self._plan.launcher_command),
            job=scheduler.job(),
        )  # fmt: skip
        finish = self._keep(lambda: self._core.start(time.monotonic()))
        self._nodes.stop()
        return self._over(finish)

    def _over(self, finish: Finish) -> int:
        delivered = self._core.agent.problem is None
        if (delivered or not finish.started) and not self._plan.keep_spool:
            shutil.rmtree(self._spool, ignore_errors=True)
        if not finish.started:
            raise Unavailable(f"nothing was started: {finish.problem}")
        if finish.problem is None:
            return ExitStatus.COMPLETED if self._all_well() else ExitStatus.FAILED
        places = [] if delivered else [(HERE, "")]
        places += [(number, host or f"node {number}") for number, host, _ in self._core.nodes.undelivered()]
        again = [self._by_hand(number, host) for number, host in places]
        away = "machine" if delivered else "broker"
        raise Unavailable(
            f"{finish.problem}. Nothing is lost: the rest is in {self._spool}; deliver it when the {away} is back by\n"
            + "\n".join(f"  {line}" for line in again)
        )

    def _all_well(self) -> bool:
        statuses = self._core.statuses
        if any(statuses.values()):
            return False
        # Of a node that was lost nobody has told how its ranks ended. If everything it had is delivered by now, they
        # have ended as the launcher says.
        told_by_launcher = self._core.nodes.recovered and [child.returncode for child in self._started] == [0]
        return len(statuses) == self._plan.ranks or told_by_launcher

    def _by_hand(self, number: int, host: str) -> str:
        command = ["theorbo", "agent", "--spool", str(self._spool), "--broker", self._plan.broker]
        return shlex.join([*command, "--node", str(number)]) + f"     # on {host}" if number else shlex.join(command)

    # --- what has happened --------------------------------------------------------------------------

    def _on_termination(self, name: str, now: float) -> None:
        self._perform(self._core.told_to_end(name, now))

    def _on_agent_ended(self, status: int, words: str, now: float) -> None:
        self._perform(self._core.agent_ended(status, words, now))

    def _on_agent_ends_ranks(self, grace_s: float) -> None:
        self._core.agent_ends_ranks(grace_s, time.monotonic())

    def _on_children(self, now: float) -> None:
        self._nodes.reap()
        if self._started and all([child.poll() is not None for child in self._started]):  # noqa: C419 - reap all
            self._on_ranks_pipe()  # what they said before
            self._perform(self._core.started_ended(now))

    def _on_rank_line(self, line: str) -> None:
        self._heard(line, HERE)

    def _heard(self, line: str, node: int) -> None:
        """What a thin parent says, here or on another machine."""
        word, _, rest = line.partition(" ")
        if word == "started" and node == HERE:
            self._core.rank_started(RankProcess(*map(int, rest.split())))
        elif word == "started":
            self._core.rank_started_on(node)
        elif word == "ended":
            rank, status, error = map(int, rest.split())
            self._core.rank_ended(rank, status, error, time.monotonic())
        elif word == "aborted":
            rank, code = map(int, rest.split())
            self._aborted[rank] = code
        elif word == "lost":
            stream, count, why = rest.split(" ", 2)
            self._lost[stream, why] += int(count)

    def _on_ranks_gone(self) -> None:
        self._core.ranks_gone(time.monotonic())

    def _on_output(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._output_pipe >= 0:
                text = os.read(self._output_pipe, 65536)
                self._output = (self._output + text)[-LAUNCHER_STDERR_BYTES:]
                if not text:
                    self.unwatch(self._output_pipe)
                    os.close(self._output_pipe)
                    self._output_pipe = -1

    # --- other machines -------------------------------------------------------------------------------

    def on_said(self, said: Said) -> None:
        """What a node says; see `node_protocol`."""
        try:
            self._take(said)
        except (ValueError, TypeError):
            self._perform_own(Warn(f"{said.host}: what it says is not understood: {said.fields}"[:NAME_CHARACTERS]))

    def _take(self, said: Said) -> None:
        now, number, fields = time.monotonic(), said.node, said.fields
        if said.says == "ready":
            self._perform(self._core.node_ready(number, said.host))
        elif said.says == "rank":
            self._heard(str(fields.get("line")), number)
        elif said.says == "gone":
            self._core.ranks_gone(now, number)
        elif said.says == "ending":
            self._core.agent_ends_ranks(float(fields.get("grace_s", 0.0)), now)
        elif said.says == "warn":
            self._perform_own(Warn(f"{said.host}: {fields.get('text')}"))
        elif said.says == "cleared":
            self._core.nodes.cleared(number)
        elif said.says == "alive":
            self._core.nodes.alive(number)
        elif said.says == "done":
            self._core.nodes.done(number, said.host)
        elif said.says == "failed":
            self._perform(self._core.nodes.failed(number, said.host, str(fields.get("text"))))

    def on_command_ended(self, index: int, status: int, words: str, name: str) -> None:
        """A command that starts nodes has ended."""
        self._perform(self._core.nodes.command_ended(index, status, words, name, time.monotonic()))

    def _start_nodes(self, index: int, purpose: str) -> None:
        plan = self._plan
        needed = NodePlan(
            version=__version__, execution=plan.execution, spool_root=str(self._root), broker=str(self._broker),
            connection=plan.connection or connection_content(self._broker), spool_bytes=plan.spool_bytes,
            grace_s=self._grace_s, time_limit_s=plan.time_limit_s, keep_spool=plan.keep_spool, purpose=purpose,
        )  # fmt: skip
        self._nodes.start(index, needed)

    # --- what the core decided ------------------------------------------------------------------------

    def _perform_own(self, it: Any) -> None:
        if isinstance(it, StartRanks):
            self._start_ranks()
        elif isinstance(it, StartNodes):
            self._start_nodes(it.command, it.purpose)
        elif isinstance(it, TellNodes):
            self._nodes.tell({"tell": it.word, "grace_s": it.grace_s})
        elif isinstance(it, EndCommand):
            self._nodes.end(it.command)
        elif isinstance(it, ReportLost):
            self._report("node_lost", node=it.node, host=it.host, reason=it.reason)
        elif isinstance(it, SignalLauncher):
            self._ended_launcher = True
            for child in self._started:
                if child.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, it.number)
        elif isinstance(it, Warn):
            self._report("log", level="WARNING", text=it.text, logger="theorbo.launch")
        elif isinstance(it, MarkEnd):
            self._mark_end(it.problem)

    def _report(self, kind: str, **fields: Any) -> None:
        """A full disk must not end the launch; the Executor sees its end in any case."""
        with contextlib.suppress(OSError):
            append(self._records, encode_record({"kind": kind, "time": time.time(), "pid": os.getpid(), **fields}))

    def _start_ranks(self) -> None:
        plan = self._plan
        environment = rank_environment(plan, self._spool)
        thin_parent = [sys.executable, "-I", "-S", wrapper.__file__, "--", *plan.command]
        self._output_pipe, writer = os.pipe()
        os.set_blocking(self._output_pipe, False)
        self.watch(self._output_pipe, self._on_output)
        try:
            if not Path(plan.work_dir).is_dir():
                self._problem = f"working directory not found: {plan.work_dir}"
            elif plan.launcher_command:
                self._start([*plan.launcher_command, *thin_parent], environment, writer)
            else:
                for rank in range(plan.ranks):
                    self._start(thin_parent, {**environment, "THEORBO_RANK": str(rank)}, writer)
        except FileNotFoundError:
            self._problem = (
                f"launcher not found: {plan.launcher_command[0] if plan.launcher_command else sys.executable}"
            )
        except OSError as error:
            self._problem = f"cannot start the ranks: {error.strerror}"
        finally:
            os.close(writer)
        if not self._started:
            self._perform(self._core.started_ended(time.monotonic()))

    def _start(self, command: list[str], environment: dict[str, str], output: int) -> None:
        """In a session of its own: else the kernel would send SIGHUP to ranks that are stopped when we die."""
        self._started.append(
            subprocess.Popen(
                command, env=environment, cwd=self._plan.work_dir, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )
        )  # fmt: skip

    def _mark_end(self, problem: str | None) -> None:
        if self._ended_launcher:  # it may have been about to start a rank, and its own helpers need not be in its group
            processes.end_users_of_spool(self._spool)
        self._on_output()
        self._on_ranks_pipe()
        codes = [child.returncode for child in self._started]
        fields: dict[str, Any] = {"exit_code": next((code for code in codes if code), 0) if codes else None}
        if problem or self._problem:
            fields["problem"] = problem or self._problem
        output = self._output.decode(errors="replace")
        if output:
            fields["stderr"] = output
        if not self._all_well():
            fields["scheduler_state"] = scheduler.ask_state(output)
        self._aborted.update(aborted(self._spool, self._core.silent))
        unrecorded = self._core.unrecorded
        if unrecorded or self._aborted:
            fields["unrecorded"] = {**self._aborted, **{rank: self._core.statuses[rank] for rank in unrecorded}}
            whys = {os.strerror(number) for number in unrecorded.values()} | ({WHY} if self._aborted else set())
            fields["unrecorded_why"] = "; ".join(sorted(whys))
        self._report("launcher_ended", **fields)
        for (stream, why), count in self._lost.items():  # last: they may be many, and room is for the end first
            self._report("loss", stream=stream, count=count, detail=f"dropped by the rank: {why}")
        self._touch_end()


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    parser = argparse.ArgumentParser(
        prog="theorbo launch",
        description="Start the ranks of one execution, and an agent on each machine where they run, wait for their "
        "end, and see to it that everything they reported reaches the broker. theorbo run calls it, with a plan that "
        "it has written; so may anything else.",
        epilog=PLANS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--plan", type=Path, required=True, metavar="FILE", help="a launch plan in JSON")
    arguments = parser.parse_args(argv)
    return Launch(LaunchPlan.take(arguments.plan)).run()


if __name__ == "__main__":
    sys.exit(guarded("launch", lambda: main(sys.argv[1:])))
