"""The thin parent of a rank: gives its output to the spool, waits, reports how it ended, ends likewise.

Run as `PYTHON -I -S wrapper.py -- PROGRAM ARGUMENTS…` by `theorbo launch`, mpiexec, mpirun or srun. Rules:

1. It ends **at once, in the same way** as its program: a launcher notices a crash by it, and one that
   lingers makes mpiexec and srun hang. What is left to deliver is the agent's business.
2. It neither heeds nor forwards signals: whoever signals a rank signals its program too. Signals are
   blocked before the spawn, so that none ends the parent alone; the program gets an empty mask.
3. It keeps the descriptors it has inherited, and hands them on: MPICH's ranks find their launcher by an
   open socket that PMI_FD names.
4. It needs the standard library alone, and little of that: there is one for each of thousands of ranks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
import time
from typing import Any, NoReturn

if __name__ == "__main__":  # run with -I -S: nothing of ours is on the path yet
    sys.path.insert(0, os.path.join(os.environ.get("THEORBO_SPOOL", "."), "python"))  # noqa: PTH118 - thin

from theorbo.schemas.names import Channel, Source, SourceKind
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import append, open_append, spool_name

RANK_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "THEORBO_RANK", "SLURM_PROCID")
"""Where the number of a rank is found, the first that is set. SLURM_PROCID comes last: a batch script,
which is no rank, has it too."""

RANKS_PIPE = "ranks.pipe"
"""A FIFO in the spool. Thin parents hold it open while they live and write a line when their program has
started (`started RANK PID PARENT GROUP TICKS`) and ended (`ended RANK STATUS ERRNO`; STATUS negative: by that
signal; ERRNO not 0: why its end record could not be appended), so that `theorbo launch` sees what becomes of
ranks that are not its children, and when all have gone. A program that ends with losses that no file had room
for writes `lost STREAM COUNT WHY` for each (see `reporter`)."""

NOT_FOUND = 127
NOT_EXECUTABLE = 126

_UNHEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def rank_number() -> int | None:
    """The number of this rank, by the environment; None if nothing there tells."""
    for name in RANK_VARIABLES:
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return None


def process_stat(pid: int | str) -> list[str]:
    """Fields 3 and following of /proc/PID/stat (the second, the command's name, may hold anything).

    Raises OSError if there is no such process.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - thin
        return file.read().rpartition(b")")[2].decode().split()


def start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat: tells a process from a later one of the same number. 0 if it has gone."""
    try:
        return int(process_stat(pid)[19])
    except OSError:
        return 0


class MemoryGroup:
    """The cgroup (version 1 or 2) that bounds our memory. The files are few, and read twice in a rank's life.

    The kernel counts a kill before it sends the signal, so what a thin parent reads afterwards is complete.
    """

    def __init__(self, proc: str = "/proc/self") -> None:
        """`proc`: where the files `cgroup` and `mountinfo` are."""
        self.directory = self._top = ""
        self._version = 0
        with contextlib.suppress(OSError, ValueError, IndexError):
            self._find(_text(f"{proc}/cgroup"), _text(f"{proc}/mountinfo"))

    def _find(self, groups: str, mounts: str) -> None:
        paths = {}
        for line in groups.splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                paths[2] = path
            elif "memory" in controllers.split(","):
                paths[1] = path
        for line in mounts.splitlines():
            place, _, what = line.partition(" - ")
            kind, _, options = what.split(" ", 2)
            version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "memory" in options.split(",") else 0
            if version in paths and (not self._version or version == 1):  # where there are both, 1 has the memory
                root, top = place.split()[3:5]  # in a container the mount begins at the container's own group
                within = paths[version].removeprefix(root) if root != "/" else paths[version]
                directory = "/".join([top, within.strip("/")]).rstrip("/")
                known = ".." not in within and os.path.isdir(directory)  # noqa: PTH112 - thin
                self._version, self._top, self.directory = version, top, directory if known else top

    def kills(self) -> int:
        """How many processes of it the kernel has killed for want of memory; -1 if nobody knows."""
        with contextlib.suppress(OSError, ValueError):
            name = "memory.events" if self._version == 2 else "memory.oom_control"
            for line in _text(f"{self.directory}/{name}").splitlines() if self._version else ():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return -1

    def limit_bytes(self) -> int:
        """The smallest bound of the group and those it is in; 0 if there is none."""
        limits = []
        with contextlib.suppress(OSError, ValueError):
            if self._version == 1:
                for line in _text(f"{self.directory}/memory.stat").splitlines():
                    if line.startswith("hierarchical_memory_limit "):
                        limits.append(int(line.split()[1]))
            directory = self.directory
            while self._version == 2 and directory.startswith(self._top):
                with contextlib.suppress(OSError, ValueError):  # the top one has no such file; "max" is no number
                    limits.append(int(_text(f"{directory}/memory.max")))
                directory = directory.rpartition("/")[0]
        return min((limit for limit in limits if limit < _NO_LIMIT), default=0)


_NO_LIMIT = 1 << 60


def _text(path: str) -> str:
    with open(path, errors="replace") as file:  # noqa: PTH123 - thin
        return file.read()


def main(argv: list[str]) -> NoReturn:
    """Start the program after `--`, wait for it, report, and end as it did."""
    program = argv[argv.index("--") + 1 :] if "--" in argv else argv
    spool, rank = os.environ.get("THEORBO_SPOOL"), rank_number()
    if not program or not spool:
        sys.exit("theorbo wrapper: started by theorbo launch as: wrapper.py -- PROGRAM ARGUMENTS…")
    if rank is None:
        sys.exit(f"theorbo wrapper: which rank is this? None of {', '.join(RANK_VARIABLES)} is set")
    source = Source(SourceKind.RANK, rank)
    report = _Reporting(spool, source)
    signal.pthread_sigmask(signal.SIG_BLOCK, _UNHEEDED)
    try:
        pid = _spawn(program, spool, source)
    except OSError as error:
        status = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        report.ended(0, status, problem=_problem(program[0], error))
        os._exit(status)
    for number in _UNHEEDED:
        signal.signal(number, signal.SIG_IGN)  # after the spawn: what is ignored stays so in a child
    report.started(pid)
    _, wait_status, usage = os.wait4(pid, 0)
    status = os.waitstatus_to_exitcode(wait_status)
    report.ended(pid, status, usage)
    _end_likewise(status)


def _spawn(program: list[str], spool: str, source: Source) -> int:
    actions = []
    for channel, descriptor in ((Channel.STDOUT, 1), (Channel.STDERR, 2)):
        opened = open_append(_path(spool, source, channel))
        actions.append((os.POSIX_SPAWN_DUP2, opened, descriptor))
    environment = {**os.environ, "THEORBO_RANK": str(source.index)}
    return os.posix_spawnp(
        program[0], program, environment, file_actions=actions, setsigmask=[],
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP],  # which Python, and theorbo launch, ignore
    )  # fmt: skip


def _problem(name: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        # execvp says the same of a script whose interpreter is missing
        missing = os.sep in name and os.path.exists(name)  # noqa: PTH110 - thin
        return f"interpreter of the script not found: {name}" if missing else f"program not found: {name}"
    return f"program cannot be started: {name}: {error.strerror}"


def _path(spool: str, source: Source, channel: Channel | None = None) -> Any:
    return os.path.join(spool, spool_name(source, channel))  # noqa: PTH118 - thin


class _Reporting:
    """What the thin parent itself reports. Never raises: a full disk must not change how a rank ends."""

    def __init__(self, spool: str, source: Source) -> None:
        self._rank = source.index
        self._records = open_append(_path(spool, source))
        try:
            self._pipe = os.open(os.path.join(spool, RANKS_PIPE), os.O_WRONLY | os.O_NONBLOCK)  # noqa: PTH118
        except OSError:
            self._pipe = -1  # nobody listens: the launch has died
        self._memory = MemoryGroup()
        self._kills = self._memory.kills()

    def started(self, pid: int) -> None:
        group, ticks = os.getpgid(pid), start_ticks(pid)
        self._append(
            kind="rank_started", time=time.time(), pid=pid, host=os.uname().nodename,
            parent_pid=os.getpid(), process_group=group, start_ticks=ticks,
        )  # fmt: skip
        self._note(f"started {self._rank} {pid} {os.getpid()} {group} {ticks}")

    def ended(
        self, pid: int, status: int, usage: resource.struct_rusage | None = None, problem: str | None = None
    ) -> None:
        fields: dict[str, Any] = {"kind": "rank_ended", "time": time.time(), "pid": pid}
        if problem:
            fields["problem"] = problem
        elif status < 0:
            fields["signal"] = _signal_name(-status)
        else:
            fields["exit_code"] = status
        if usage:
            fields.update(user_s=usage.ru_utime, system_s=usage.ru_stime, max_rss_bytes=usage.ru_maxrss * 1024)
        if self._memory.kills() > self._kills >= 0:
            fields.update(out_of_memory=True, memory_limit_bytes=self._memory.limit_bytes())
        number = self._append(**fields)
        self._note(f"ended {self._rank} {status} {number}")

    def _append(self, **fields: Any) -> int:
        """0, or the number of the error."""
        try:
            append(self._records, encode_record(fields))
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _note(self, line: str) -> None:  # short enough to be written as a whole
        if self._pipe >= 0:
            with contextlib.suppress(OSError):
                os.write(self._pipe, f"{line}\n".encode())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_likewise(status: int) -> NoReturn:
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program's core is the one of interest
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-status])
        os.kill(os.getpid(), -status)
    os._exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main(sys.argv[1:])
