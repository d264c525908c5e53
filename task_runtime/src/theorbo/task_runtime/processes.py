"""Which processes belong to a rank, by /proc, and signals to them.

A rank's program may have children, and they may have gone into process groups of their own. Its launcher
may have put several ranks, or itself, into one group. So signals go to processes, not to groups, and never
to a thin parent (see `wrapper`): it must live to report the end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from theorbo.schemas.limits import LEFTOVER_S
from theorbo.task_runtime import wrapper
from theorbo.task_runtime.wrapper import process_stat

ENDED_STATES = frozenset("ZX")
STOPPED_STATES = frozenset("Tt")
"""By a signal, or by a debugger."""

_INSPECTED_BYTES = 64 * 1024  # a page of /proc is shorter


class RankProcess(NamedTuple):
    """A rank as its thin parent has announced it."""

    rank: int
    pid: int
    parent_pid: int
    process_group: int
    start_ticks: int


class Process(NamedTuple):
    """A line of the process table."""

    pid: int
    parent_pid: int
    group: int
    start_ticks: int
    state: str = "R"
    """As in /proc/PID/stat: R, S, D (waits, and heeds no signal), T (stopped) …"""

    @property
    def is_stopped(self) -> bool:
        """Whether none of its threads runs, until SIGCONT."""
        return self.state in STOPPED_STATES


class Inspection(NamedTuple):
    """What a process is doing, as far as it can be seen from outside."""

    process: Process
    command: str
    threads: int
    wait_channel: str
    """Where in the kernel it waits; empty if it does not, or may not be known."""
    caught: int
    """Bit n - 1: it catches signal n."""

    def catches(self, number: int) -> bool:
        """Whether it has a handler for this signal."""
        return bool(self.caught >> (number - 1) & 1)


def process_table() -> list[Process]:
    """All processes of this machine that have not ended."""
    table = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - often
        if name.isdigit():
            process = _process(int(name))
            if process:
                table.append(process)
    return table


def _process(pid: int) -> Process | None:
    try:
        fields = process_stat(pid)
    except OSError:
        return None
    if fields[0] in ENDED_STATES:
        return None
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[19]), fields[0])


def inspect(process: Process) -> Inspection | None:
    """What this process is doing now; None if it has ended."""
    now = _process(process.pid)
    if now is None or now.start_ticks != process.start_ticks:
        return None
    status = dict(line.partition(":\t")[::2] for line in _proc_text(process.pid, "status").splitlines())
    try:
        threads, caught = int(status.get("Threads", "0")), int(status.get("SigCgt", "0"), 16)
    except ValueError:
        threads, caught = 0, 0
    wait_channel = _proc_text(process.pid, "wchan").strip()
    return Inspection(now, status.get("Name", "?"), threads, "" if wait_channel == "0" else wait_channel, caught)


def _proc_text(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 - often
            return file.read(_INSPECTED_BYTES).decode(errors="replace")
    except OSError:
        return ""


def members(ranks: Iterable[RankProcess], table: list[Process]) -> dict[int, list[Process]]:
    """By rank: its program, the program's descendants, and all of its process group if that is its own.

    A group is a rank's own if its thin parent or its program leads it. Thin parents are left out, and so are
    processes that are older than the rank: they only have the number of one that has ended.
    """
    ranks = list(ranks)
    thin_parents = {rank.parent_pid for rank in ranks}
    children: dict[int, list[Process]] = {}
    for process in table:
        children.setdefault(process.parent_pid, []).append(process)
    found = {}
    for rank in ranks:
        own_group = rank.process_group in (rank.pid, rank.parent_pid)
        mine = {
            process.pid: process
            for process in table
            if (process.pid == rank.pid and process.start_ticks == rank.start_ticks)
            or (own_group and process.group == rank.process_group and process.start_ticks >= rank.start_ticks)
        }
        waiting = list(mine)
        while waiting:
            for child in children.get(waiting.pop(), []):
                if child.pid not in mine:
                    mine[child.pid] = child
                    waiting.append(child.pid)
        found[rank.rank] = [process for pid, process in mine.items() if pid not in thin_parents]
    return found


def send_signal(process: Process, number: signal.Signals) -> None:
    """Signal just this process, not a later one of the same number. Nothing happens if it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    except OSError:  # no such call in old kernels
        descriptor = -1
    try:
        now = _process(process.pid)
        if now is None or now.start_ticks != process.start_ticks:
            return
        if descriptor >= 0:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def end_users_of_spool(spool: Path) -> None:
    """End what an execution has left here, where nobody knows its ranks any more: SIGTERM, a moment, SIGKILL.

    Thin parents are spared: they end with their programs, and say how those did.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        users = set(users_of_spool(spool))
        left = [process for process in process_table() if process.pid in users]
        descriptors = []
        for process in left:
            if not _is_thin_parent(process.pid):
                send_signal(process, number)
            with contextlib.suppress(OSError):
                descriptors.append(os.pidfd_open(process.pid))
        _wait_for_all(descriptors, LEFTOVER_S)


def _is_thin_parent(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.fsencode(wrapper.__file__) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


def _wait_for_all(descriptors: list[int], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for descriptor in descriptors:
        select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        os.close(descriptor)


def users_of_spool(spool: Path) -> list[int]:
    """The processes, apart from this one, that were started with THEORBO_SPOOL naming this spool.

    Reads /proc/PID/environ of all our processes: for the rare case that nobody else can tell whether
    anything of an execution still runs.
    """
    entry = b"\0THEORBO_SPOOL=" + os.fsencode(spool) + b"\0"
    found = []
    for process in process_table():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if process.pid != os.getpid() and entry in b"\0" + environment:
            found.append(process.pid)
    return found
