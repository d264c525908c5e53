"""A small file system that only the broker sees, and a broker on it. Wants root, and leaves nothing behind.

The file system is mounted in a mount namespace of its own, which ends with the process that holds it: nothing
is left even if the tests are killed. Tests look into it by way of /proc.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import DEADLINE_S
from theorbo.schemas.connection import Connection

_HOLD = "mount -t tmpfs -o {options} tmpfs {place} && echo mounted && read _"


class SmallDisk:
    """A tmpfs at `place`, of `options` such as `size=4m`."""

    def __init__(self, place: Path, options: str) -> None:
        place.mkdir(exist_ok=True)
        self.place = place
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
        self._holder = subprocess.Popen(
            [*command, _HOLD.format(options=options, place=place)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._holder.stdout
        said = self._holder.stdout.readline()
        assert said == "mounted\n", f"only root may mount a small file system: {said}"
        self.inside = Path(f"/proc/{self._holder.pid}/root{place}")
        """The same directory as seen from outside."""
        self.enter = ("nsenter", "--target", str(self._holder.pid), "--mount")
        """The beginning of a command that is to see it."""

    def fill(self, leave_bytes: int = 0) -> None:
        """Nothing more can be written but `leave_bytes`."""
        with (self.inside / "ballast").open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):  # whoever writes there at the same time was faster
                    while self._free_bytes() >= size + leave_bytes:
                        file.write(bytes(size))

    def _free_bytes(self) -> int:
        space = os.statvfs(self.inside)
        return space.f_bavail * space.f_frsize

    def free(self) -> None:
        """Whatever `fill` has taken."""
        (self.inside / "ballast").unlink(missing_ok=True)

    def use_up_inodes(self) -> list[Path]:
        """No file can be made any more but by removing one of these."""
        files: list[Path] = []
        while os.statvfs(self.inside).f_favail:
            files.append(self.inside / f"inode-{len(files)}")
            files[-1].touch()
        return files

    def remount(self, option: str) -> None:
        subprocess.run([*self.enter, "mount", "-o", f"remount,{option}", str(self.place)], check=True)

    def close(self) -> None:
        assert self._holder.stdin
        assert self._holder.stdout
        self._holder.stdin.close()
        self._holder.wait(DEADLINE_S)
        self._holder.stdout.close()


class BrokerOnDisk:
    """A broker that sees the small disk, on the same ports whenever it is started; its connection file is elsewhere."""

    def __init__(self, disk: SmallDisk, state: Path, outside: Path) -> None:
        self.connection_file = outside / "connection.json"
        self._log_file = outside / "broker.log"
        self._command = [*disk.enter, sys.executable, "-m", "theorbo.broker", "--state", str(state)]
        self._addresses = ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
        self.start()

    def start(self) -> None:
        """Start it, and return when it is ready. Raises OSError with its words if it does not get ready."""
        words = self.try_to_start()
        if not words.startswith("ready "):
            raise OSError(words)
        connection = Connection.load(self.connection_file)
        self._addresses = (connection.router[0], connection.publisher[0])

    def try_to_start(self) -> str:
        """What it says of being ready: `ready …`, else why it is not, and it has ended."""
        reader, writer = os.pipe()
        bind, publisher = self._addresses
        with self._log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self._command, "--connection", str(self.connection_file),
                    "--bind", bind, "--publisher", publisher, "--ready-fd", str(writer),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writer,),
            )  # fmt: skip
        os.close(writer)
        with open(reader, "rb") as answer:
            words = answer.read().decode()
        if not words.startswith("ready "):
            self.process.wait(DEADLINE_S)
        return words or self.log

    @property
    def log(self) -> str:
        return self._log_file.read_text()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(DEADLINE_S)
