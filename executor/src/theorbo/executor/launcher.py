"""The process of `theorbo launch` on this machine, as its parent sees it, or another Executor that has attached. A
skin.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from theorbo.executor.launched import WORDS_BYTES, Launched, last_words
from theorbo.executor.provenance import host
from theorbo.executor.values import JobTold, LauncherEnded, Notice, Withdrawn
from theorbo.schemas.events import JobSubmitted, LauncherStarted
from theorbo.schemas.launch_plan import LaunchPlan


class LocalLauncher:
    """Launches on this machine."""

    def launch(self, plan: LaunchPlan, spool: Path) -> Launched:
        """Start the process. Raises OSError or Unavailable."""
        return LaunchProcess(plan, spool)

    def find(self, launched: LauncherStarted | JobSubmitted | None) -> Launched | None:
        """The process, if it is one of this machine. Raises ProcessLookupError if it has ended."""
        if not isinstance(launched, LauncherStarted) or launched.host != host() or not launched.start_ticks:
            return None  # elsewhere, or it cannot be told from another process
        return FormerProcess(launched.pid, launched.start_ticks)


class LaunchProcess:
    """`theorbo launch`, in a session of its own, so that a terminal's Ctrl-C reaches the Executor alone."""

    local = True

    def __init__(self, plan: LaunchPlan, spool: Path) -> None:
        """Start it; what it says beside its reports is kept in `spool`. Raises OSError or Unavailable."""
        # Beside the spool, which goes when we let go of the Task: the launcher may not have read it by then.
        self._plan_file = spool.with_name(f"{plan.execution}.plan.json")
        plan.save(self._plan_file)
        self._words = (spool / "launcher.log").open("w+b")
        # -P: our working directory may have a select.py.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "theorbo.task_runtime.launch", "--plan", str(self._plan_file)],
            stdin=subprocess.DEVNULL, stdout=self._words, stderr=self._words, start_new_session=True,
        )  # fmt: skip
        try:
            self.descriptor: int | None = os.pidfd_open(self._process.pid)
            """None on an old kernel."""
        except OSError:
            self.descriptor = None

    def news(self) -> list[JobTold | Withdrawn | Notice]:
        """Nothing: it tells all by the bus."""
        return []

    def ended(self) -> LauncherEnded | None:
        """How it ended, if it has."""
        code = self._process.poll()
        if code is None:
            return None
        size = self._words.seek(0, os.SEEK_END)
        self._words.seek(max(0, size - WORDS_BYTES))
        return LauncherEnded(code, last_words(self._words.read()))

    def withdraw(self) -> None:
        """Nothing: it waits in no queue."""

    def terminate(self) -> None:
        """Ask it to end, with all that it has started."""
        self._process.terminate()

    def close(self, *, over: bool = False) -> None:  # noqa: ARG002 - as of Launched
        """Let go of it, whether it has ended or not."""
        if self._process.poll() is None:
            self._process.returncode = 0  # it lives on without us; Popen need not warn of that
        else:
            self._plan_file.unlink(missing_ok=True)  # where it could not even read that
        self._words.close()
        if self.descriptor is not None:
            os.close(self.descriptor)


class FormerProcess:
    """A launcher on this machine that a former Executor has started."""

    local = True

    def __init__(self, pid: int, start_ticks: int) -> None:
        """Raises ProcessLookupError if the process with this number that began then has ended."""
        self.descriptor: int | None = None
        """As of `LaunchProcess`."""
        self._pid, self._start_ticks = pid, start_ticks
        with contextlib.suppress(OSError):  # an old kernel, or it has ended
            self.descriptor = os.pidfd_open(pid)
        if self.ended():
            self.close()
            raise ProcessLookupError

    def news(self) -> list[JobTold | Withdrawn | Notice]:
        """Nothing: it tells all by the bus."""
        return []

    def ended(self) -> LauncherEnded | None:
        """That it ended, if it has; only its parent can know how."""
        return LauncherEnded(None) if _start_ticks(self._pid) != self._start_ticks else None

    def withdraw(self) -> None:
        """Nothing: it waits in no queue."""

    def terminate(self) -> None:
        """Ask it to end, with all that it has started."""
        if not self.ended():
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGTERM)

    def close(self, *, over: bool = False) -> None:  # noqa: ARG002 - as of Launched
        """Let go of it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def _start_ticks(pid: int) -> int:
    """Field 22 of /proc/PID/stat; 0 if the process has gone, or has ended and nobody has waited for it yet."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in ("Z", "X") else int(fields[19])
