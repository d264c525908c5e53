"""The agent as `theorbo launch` sees it: a process, the socket on which it speaks, and the end of what it wrote."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path

from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.limits import GOODBYE_S, LAUNCHER_STDERR_BYTES

AGENT_LOG = "agent.log"


class AgentProcess:
    """One agent after the other, for one spool."""

    def __init__(self, spool: Path, plan: LaunchPlan) -> None:
        self._spool = spool
        self._command = [
            sys.executable, "-m", "theorbo.task_runtime.agent", "--spool", str(spool),
            "--broker", str(Path(plan.broker).absolute()), "--spool-bytes", str(plan.spool_bytes), "--launcher-fd",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.socket: socket.socket | None = None
        """Readable when the agent says something, or has ended; None if it has."""

    def start(self) -> socket.socket:
        """Start an agent, in a session of its own. Raises OSError, if the machine has no room for another process."""
        ours, agents = socket.socketpair()
        try:
            with agents, (self._spool / AGENT_LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [*self._command, str(agents.fileno())], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    pass_fds=(agents.fileno(),), start_new_session=True, cwd="/",
                )  # fmt: skip
        except OSError:
            ours.close()
            raise
        ours.setblocking(False)
        self.socket = ours
        return ours

    def ended(self) -> int | None:
        """The status of a process that has just ended; None if it lives, or there is none."""
        status = self._process.poll() if self._process else None
        if status is not None:
            self._process = None
        return status

    def said(self) -> list[str]:
        """The lines that it has said since; see `agent.READY`. When it has closed its end, `socket` is None."""
        if self.socket is None:
            return []
        try:
            text = self.socket.recv(4096)
        except BlockingIOError:
            return []
        except OSError:
            text = b""
        if not text:
            self.socket.close()
            self.socket = None
        return text.decode().splitlines()

    def words(self) -> str:
        """The last line it has written to stderr."""
        with contextlib.suppress(OSError):
            lines = (self._spool / AGENT_LOG).read_bytes()[-LAUNCHER_STDERR_BYTES:].decode(errors="replace")
            return lines.strip().rpartition("\n")[2].removeprefix("theorbo agent: ")
        return ""

    def signal(self, number: signal.Signals) -> None:
        """Signal it, if it lives."""
        if self._process:
            self._process.send_signal(number)

    def stop(self) -> None:
        """End it, and wait."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(GOODBYE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
