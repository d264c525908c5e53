"""`theorbo launch`: the parent of all that runs for one execution on this node. The skin of `supervision`.

Standard library only, and no sockets to anywhere: it makes the spool, starts the agent beside the ranks,
the ranks each under a thin parent (`wrapper`), directly or by mpiexec and its like, waits for signals,
children and what they write, and performs what the core decides.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from theorbo.schemas.command import guarded
from theorbo.schemas.errors import ExitStatus, Unavailable, UsageError
from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.limits import LAUNCHER_STDERR_BYTES, OWN_RECORDS_BYTES
from theorbo.schemas.names import LAUNCHER
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import (
    END,
    append,
    checked_execution,
    default_root,
    make_spool,
    open_append,
    spool_name,
)
from theorbo.task_runtime import processes, wrapper
from theorbo.task_runtime.agent_process import AgentProcess
from theorbo.task_runtime.file_space import reserve
from theorbo.task_runtime.processes import RankProcess
from theorbo.task_runtime.rank_ending import SendSignal
from theorbo.task_runtime.rank_environment import make_rank_directories, rank_environment
from theorbo.task_runtime.ranks_pipe import RanksPipe
from theorbo.task_runtime.supervision import (
    Finish,
    LaunchInstruction,
    MarkEnd,
    Phase,
    SignalAgent,
    SignalLauncher,
    StartAgent,
    StartRanks,
    Supervision,
    Warn,
)


class Launch:
    """One launch, from `run` to its exit status."""

    def __init__(self, plan: LaunchPlan) -> None:
        """Make the spool. Raises UsageError or Unavailable."""
        self._plan = plan
        checked_execution(plan.execution)
        root = Path(plan.spool_root) if plan.spool_root else default_root()
        self._spool = make_spool(root.absolute(), plan.execution)
        if (self._spool / spool_name(LAUNCHER)).exists():
            raise UsageError(f"execution {plan.execution} was launched before: its spool is {self._spool}")
        try:
            make_rank_directories(self._spool)
            self._ranks_pipe = RanksPipe(self._spool)
            self._records = open_append(self._spool / spool_name(LAUNCHER))
            reserve(self._records, OWN_RECORDS_BYTES)
        except OSError as error:
            raise Unavailable(f"cannot write to {self._spool}: {error.strerror}") from None
        self._core = Supervision(has_launcher=bool(plan.launcher_command), grace_s=plan.grace_s)
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._agent = AgentProcess(self._spool, plan)
        self._started: list[subprocess.Popen[bytes]] = []
        self._problem: str | None = None
        self._output = b""  # the end of what the launcher itself has written
        self._output_pipe = -1
        self._lost: Counter[tuple[str, str]] = Counter()  # (stream, why) → events, which ranks could not report
        self._left: set[int] = set()  # what ranks have left behind, and we watch
        self._finish: Finish | None = None

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Launch, wait, drain. Raises Unavailable if nothing was started, or not all could be delivered."""
        self._wakeup = _wake_on_signals()
        self._watch(self._wakeup.fileno(), self._on_wakeup)
        self._watch(self._ranks_pipe.descriptor, self._on_ranks_pipe)
        self._report(
            "launcher_started", host=socket.gethostname(), agents=1, start_ticks=wrapper.start_ticks(os.getpid()),
            command=list(self._plan.launcher_command),
        )  # fmt: skip
        self._perform(self._core.start(time.monotonic()))
        while self._finish is None:
            now = time.monotonic()
            table = processes.process_table() if self._core.wants_table(now) else []
            if self._core.phase is Phase.CLEARING:
                self._watch_left_behind(table)
            phase = self._core.phase
            self._perform(self._core.due(table, now))
            if self._finish is None and self._core.phase is phase:
                self._wait(now)
        self._agent.stop()
        return self._over(self._finish)

    def _wait(self, now: float) -> None:
        next_at = self._core.next_at(now)
        # At most a day at a time: poll takes no more than 24, and a grace may be infinite.
        timeout_ms = None if next_at is None else max(0, int(min(next_at - now, 24 * 3600) * 1000) + 1)
        for descriptor, _ in self._poll.poll(timeout_ms):
            if descriptor in self._readers:
                self._readers[descriptor]()

    def _watch(self, descriptor: int, reader: Callable[[], None]) -> None:
        self._readers[descriptor] = reader
        self._poll.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        del self._readers[descriptor]
        self._poll.unregister(descriptor)

    def _over(self, finish: Finish) -> int:
        if finish.problem is None or not finish.started:
            if not self._plan.keep_spool:
                shutil.rmtree(self._spool, ignore_errors=True)
            if finish.problem is not None:
                raise Unavailable(f"nothing was started: {finish.problem}")
            ended_well = len(self._core.statuses) == self._plan.ranks and not any(self._core.statuses.values())
            return ExitStatus.COMPLETED if ended_well else ExitStatus.FAILED
        again = shlex.join(["theorbo", "agent", "--spool", str(self._spool), "--broker", self._plan.broker])
        raise Unavailable(
            f"{finish.problem}. Nothing is lost: the rest is in {self._spool}; deliver it when the broker is back by\n"
            f"  {again}"
        )

    # --- what has happened --------------------------------------------------------------------------

    def _on_wakeup(self) -> None:
        now = time.monotonic()
        for number in self._wakeup.recv(4096):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._perform(self._core.told_to_end(signal.Signals(number).name, now))
        status = self._agent.ended()
        if status is not None:
            self._on_agent()  # what it said before
            self._perform(self._core.agent_ended(status, self._agent.words(), now))
        if self._started and all([child.poll() is not None for child in self._started]):  # noqa: C419 - reap all
            self._on_ranks_pipe()  # what they said before
            self._core.started_ended()

    def _on_agent(self) -> None:
        descriptor = self._agent.socket.fileno() if self._agent.socket else None
        for line in self._agent.said():
            word, _, number = line.partition(" ")
            if word == "ready":
                self._perform(self._core.agent_ready())
            elif word == "ending":
                self._core.agent_ends_ranks(float(number), time.monotonic())
            elif word == "fenced":
                self._core.agent_fenced()
        if descriptor is not None and self._agent.socket is None:
            self._unwatch(descriptor)

    def _on_ranks_pipe(self) -> None:
        now, former = time.monotonic(), self._ranks_pipe.descriptor
        said = self._ranks_pipe.read()
        for line in said.lines:
            word, _, rest = line.partition(" ")
            if word == "started":
                self._core.rank_started(RankProcess(*map(int, rest.split())))
            elif word == "ended":
                rank, status, error = map(int, rest.split())
                self._core.rank_ended(rank, status, error, now)
            elif word == "lost":
                stream, count, why = rest.split(" ", 2)
                self._lost[stream, why] += int(count)
        if said.all_gone:
            self._unwatch(former)
            self._watch(self._ranks_pipe.descriptor, self._on_ranks_pipe)
            if self._core.ranks:
                self._core.ranks_gone(now)

    def _on_output(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._output_pipe >= 0:
                text = os.read(self._output_pipe, 65536)
                self._output = (self._output + text)[-LAUNCHER_STDERR_BYTES:]
                if not text:
                    self._unwatch(self._output_pipe)
                    os.close(self._output_pipe)
                    self._output_pipe = -1

    def _watch_left_behind(self, table: list[processes.Process]) -> None:
        """Be woken when what ranks have left behind has gone."""
        for living in processes.members(self._core.ranks.values(), table).values():
            for process in living:
                if process.pid not in self._left:
                    self._left.add(process.pid)
                    with contextlib.suppress(OSError):
                        self._watch_once(os.pidfd_open(process.pid))

    def _watch_once(self, descriptor: int) -> None:
        def gone() -> None:
            self._unwatch(descriptor)
            os.close(descriptor)

        self._watch(descriptor, gone)

    # --- what the core decided ------------------------------------------------------------------------

    def _perform(self, instructions: list[LaunchInstruction]) -> None:
        for it in instructions:
            if isinstance(it, StartAgent):
                self._start_agent()
            elif isinstance(it, StartRanks):
                self._start_ranks()
            elif isinstance(it, SendSignal):
                processes.send_signal(it.process, it.number)
            elif isinstance(it, SignalLauncher):
                for child in self._started:
                    if child.returncode is None:
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(child.pid, it.number)
            elif isinstance(it, SignalAgent):
                self._agent.signal(it.number)
            elif isinstance(it, Warn):
                self._report("log", level="WARNING", text=it.text, logger="theorbo.launch")
            elif isinstance(it, MarkEnd):
                self._mark_end()
            elif isinstance(it, Finish):
                self._finish = it

    def _report(self, kind: str, **fields: Any) -> None:
        """A full disk must not end the launch; the Executor sees its end in any case."""
        with contextlib.suppress(OSError):
            append(self._records, encode_record({"kind": kind, "time": time.time(), "pid": os.getpid(), **fields}))

    def _start_agent(self) -> None:
        now = time.monotonic()
        try:
            self._watch(self._agent.start().fileno(), self._on_agent)
        except OSError as error:  # no process, no descriptor, no disk: perhaps there is one later
            self._perform(self._core.agent_ended(-1, f"the agent cannot be started: {error.strerror}", now))
        else:
            self._core.agent_started(now)

    def _start_ranks(self) -> None:
        plan = self._plan
        environment = rank_environment(plan, self._spool)
        thin_parent = [sys.executable, "-I", "-S", wrapper.__file__, "--", *plan.command]
        self._output_pipe, writer = os.pipe()
        os.set_blocking(self._output_pipe, False)
        self._watch(self._output_pipe, self._on_output)
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
            self._core.started_ended()

    def _start(self, command: list[str], environment: dict[str, str], output: int) -> None:
        self._started.append(
            subprocess.Popen(
                command, env=environment, cwd=self._plan.work_dir, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, process_group=0,
            )
        )  # fmt: skip

    def _mark_end(self) -> None:
        self._on_output()
        self._on_ranks_pipe()
        codes = [child.returncode for child in self._started]
        fields: dict[str, Any] = {"exit_code": next((code for code in codes if code), 0) if codes else None}
        if self._problem:
            fields["problem"] = self._problem
        if self._output:
            fields["stderr"] = self._output.decode(errors="replace")
        unrecorded = self._core.unrecorded
        if unrecorded:
            fields["unrecorded"] = {rank: self._core.statuses[rank] for rank in unrecorded}
            fields["unrecorded_why"] = "; ".join(sorted({os.strerror(number) for number in unrecorded.values()}))
        self._report("launcher_ended", **fields)
        for (stream, why), count in self._lost.items():  # last: they may be many, and room is for the end first
            self._report("loss", stream=stream, count=count, detail=f"dropped by the rank: {why}")
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


def main(argv: list[str]) -> int:
    """Run the command. Raises TheorboError for what its user can mend."""
    parser = argparse.ArgumentParser(
        prog="theorbo launch",
        description="Start the agent and the ranks of one execution on this node, wait for their end, and see to it "
        "that everything they reported reaches the broker. theorbo run calls it, with a plan that it has written.",
        epilog="The plan holds the whole environment of the program; it is removed as soon as it has been read.\n"
        "Exit status: 0 all ranks ended well, 1 not all did, 6 nothing could be started, or not all be delivered.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--plan", type=Path, required=True, metavar="FILE", help="a launch plan in JSON")
    arguments = parser.parse_args(argv)
    return Launch(LaunchPlan.take(arguments.plan)).run()


if __name__ == "__main__":
    sys.exit(guarded("launch", lambda: main(sys.argv[1:])))
