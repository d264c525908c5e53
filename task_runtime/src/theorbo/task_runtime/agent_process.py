"""The agent as its keeper sees it: a process, the socket on which it speaks, and the end of what it wrote."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from theorbo.schemas.connection import write_whole
from theorbo.schemas.errors import TheorboError
from theorbo.schemas.limits import GOODBYE_S, LAUNCHER_STDERR_BYTES

AGENT_LOG = "agent.log"
CONNECTION = "connection.json"
"""In the spool: what the connection file says, for a machine that does not see it."""
LEAVE = b"leave\n"
"""Said to an agent by its keeper: leave the rest where it is, and end."""


class AgentProcess:
    """One agent after the other, for one spool."""

    def __init__(
        self, spool: Path, *, broker: Path, connection: dict[str, Any] | None, node: int, spool_bytes: int,
        time_limit_s: float | None,
        grace_s: float,
    ) -> None:  # fmt: skip
        """`connection`: what the connection file `broker` says, should that not be visible on this machine."""
        self._spool = spool
        self._broker, self._connection = broker, connection
        self._options = ["--node", str(node), "--spool-bytes", str(spool_bytes)]
        if time_limit_s is not None:
            self._options += ["--time-limit-s", str(time_limit_s), "--grace-s", str(grace_s)]
        self._process: subprocess.Popen[bytes] | None = None
        self.socket: socket.socket | None = None
        """Readable when the agent says something, or has ended; None if it has."""

    def start(self) -> socket.socket:
        """Start an agent, in a session of its own. Raises OSError, if the machine has no room for another process."""
        command = [
            sys.executable, "-m", "theorbo.task_runtime.agent", "--spool", str(self._spool),
            "--broker", str(connection_file(self._spool, self._broker, self._connection)), *self._options,
        ]  # fmt: skip
        ours, agents = socket.socketpair()
        try:
            with agents, (self._spool / AGENT_LOG).open("ab") as log:
                self._process = subprocess.Popen(
                    [*command, "--launcher-fd", str(agents.fileno())], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
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

    def dismiss(self) -> None:
        """Tell it to leave, if it lives. It heeds no SIGTERM, which a batch scheduler sends to everything at once."""
        if self.socket:
            with contextlib.suppress(OSError):
                self.socket.send(LEAVE)

    def kill(self) -> None:
        """End it by SIGKILL, if it lives."""
        if self._process:
            self._process.kill()

    def stop(self) -> None:
        """End it, and wait."""
        if self._process:
            self.dismiss()
            try:
                self._process.wait(GOODBYE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def connection_file(spool: Path, broker: Path, connection: dict[str, Any] | None) -> Path:
    """The connection file as this machine sees it.

    The one that was named is preferred wherever it can be read: a broker that moves writes it again. What the plan
    says it held is written into the spool for machines without it.
    """
    if connection is None or os.access(broker, os.R_OK):
        return broker
    path = spool / CONNECTION
    with contextlib.suppress(TheorboError):  # a full disk: what an agent before has found is there still
        write_whole(path, json.dumps(connection), 0o600)
    return path


def connection_content(broker: Path) -> dict[str, Any] | None:
    """What the connection file says, to be given to machines that do not see it; None if it cannot be read here."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(broker.read_text())
        if isinstance(content, dict):
            return content
    return None
