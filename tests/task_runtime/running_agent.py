"""A real agent on a spool in which a test plays the ranks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

from tests.task_runtime.launching import Client
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import END, append, make_spool, open_append
from theorbo.task_runtime.agent import READY


def log(number, **fields):
    return encode_record({"kind": "log", "time": time.time(), "text": str(number), **fields})


class RunningAgent:
    """An agent on a spool in which a test plays the ranks."""

    def __init__(self, broker, tmp_path, first="", root=None):
        self.client = Client(broker.connection_file)
        self.spool = make_spool(root or tmp_path, self.client.execution.hex())
        self.broker = broker
        self.start(first)

    def stop(self, number=signal.SIGKILL):
        """What it wrote to stderr, and its exit status."""
        self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=20)
        self.launcher.close()
        return self.process.returncode, stderr

    def start(self, first=""):
        """`first` is done in the agent's process before anything else: limits that a test can reach."""
        self.launcher, agents = socket.socketpair()
        program = (
            f"import sys; from theorbo.schemas import limits; {first or 'pass'}; "
            "from theorbo.task_runtime import agent; "
            'from theorbo.schemas.command import guarded; sys.exit(guarded("agent", lambda: agent.main(sys.argv[1:])))'
        )
        with agents:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-c", program, "--spool", str(self.spool),
                    "--broker", str(self.broker.connection_file), "--launcher-fd", str(agents.fileno()),
                ],
                pass_fds=(agents.fileno(),), stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self.launcher.recv(100) == READY, self.process.communicate(timeout=20)

    def append(self, name, *records):
        descriptor = open_append(self.spool / name)
        for record in records:
            append(descriptor, record)
        os.close(descriptor)

    def end(self):
        (self.spool / END).touch()
        self.client.follow(lambda client: client.events("agent_closed"))
        assert self.process.wait(20) == 0
        self.client.check_numbers()
