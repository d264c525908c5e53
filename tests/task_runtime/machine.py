"""Other machines, as far as one can play them: each has its own host name, processes and place for spools."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

MAKE = """
set -e
hostname "$1"
mount -t proc proc /proc
mount -t tmpfs -o mode=0700 tmpfs "$2"
echo ready
read forever
"""


class Machine:
    """Namespaces of the kernel that look like a machine of its own from within. It shares the network."""

    def __init__(self, name: str, spools: Path) -> None:
        self.name = name
        command = ["unshare", "--mount", "--uts", "--pid", "--fork", "sh", "-c", MAKE, "sh", name, str(spools)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "ready\n", "namespaces of one's own are not allowed here"
        self._init = int(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text())

    @property
    def shell(self) -> list[str]:
        """What runs a program there, as `ssh HOST` does: its death does not end the program."""
        return ["nsenter", "--target", str(self._init), "--mount", "--uts", "--pid"]

    def exists(self, path: Path) -> bool:
        """Whether a file is there."""
        return Path(f"/proc/{self._init}/root{path}").exists()

    def processes(self, word: str) -> list[int]:
        """The programs there (by the numbers they have here) that have this word in their command line."""
        space = os.readlink(f"/proc/{self._init}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == space:
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                    if word in words:
                        found.append(int(entry.name))
            except OSError:
                continue
        return found

    def cut_power(self) -> None:
        """All its processes are gone at once, and what its spools held."""
        os.kill(self._init, 9)
        self._process.communicate(timeout=20)

    def close(self) -> None:
        """Switch it off, if that was not done."""
        if self._process.poll() is None:
            self._process.communicate(timeout=20)
