"""Programs that report, run as real processes, and what they have left in the spool."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from theorbo.schemas.events import EventBase, InvalidEvent, UnknownEvent, decode_event
from theorbo.schemas.records import LF, RS, Damage, Piece, RecordReader
from theorbo.schemas.spool import PRESSURE, make_spool

EXECUTION = "0123456789abcdef" * 2
MAIN = ("-m", "theorbo.task_runtime.main")


class Rank:
    """One rank of an execution: a spool without an agent, and the programs that report into it."""

    def __init__(self, root: Path, number: int = 0) -> None:
        self.directory = root
        self.number = number
        self.spool = make_spool(root, EXECUTION)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "THEORBO_SPOOL": str(self.spool), "THEORBO_RANK": str(self.number)}

    def python(
        self, *arguments: str, python: str | Path = sys.executable, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python as the program of this rank."""
        return run(python, *arguments, environment={**self.environment, **variables}, check=check)

    def script(self, code: str, *, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `code` from a file, with the API imported."""
        path = self.directory / "script.py"
        path.write_text(f"from theorbo.task_runtime import *\n{textwrap.dedent(code)}")
        return self.python(str(path), check=check, **variables)

    def task(self, code: str, *, check: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the Task `Mine` of a file that holds `code`."""
        path = self.directory / "mine.py"
        path.write_text(f"from theorbo.task_runtime import *\n{textwrap.dedent(code)}")
        return self.python(*MAIN, f"{path}:Mine", check=check, **variables)

    def press(self, value: bytes) -> None:
        """Set the pressure byte, as an agent does."""
        with (self.spool / PRESSURE).open("r+b") as file:
            file.write(value)

    def pieces(self) -> tuple[list[Piece], list[Damage]]:
        """All records in this rank's file, and what is no record."""
        path = self.spool / f"rank-{self.number}.rec"
        return RecordReader().feed(path.read_bytes() if path.exists() else b"", final=True)

    def events(self, kind: str | None = None) -> list[EventBase]:
        """All events, none of them torn, unknown or invalid."""
        pieces, damages = self.pieces()
        assert damages == []
        events = [decode_event(piece.record.strip(RS + LF)) for piece in pieces]
        assert [event for event in events if isinstance(event, (UnknownEvent, InvalidEvent))] == []
        return [event for event in events if kind in (None, event.kind)]

    def only(self, kind: str) -> EventBase:
        """The one event of a kind."""
        (event,) = self.events(kind)
        return event

    def texts(self, level: str | None = None) -> list[str]:
        """The texts of all log lines."""
        return [event.text for event in self.events("log") if level in (None, event.level)]

    def attachment(self, sha256: str) -> bytes:
        """The content of an attachment in the spool."""
        return (self.spool / "attachments" / sha256).read_bytes()


def run(
    python: str | Path, *arguments: str, environment: dict[str, str], check: bool = True, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run Python and wait for its end."""
    command = [str(python), *arguments]
    done = subprocess.run(
        command, input=stdin, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def run_without_bus(*arguments: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python where there is no spool."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THEORBO_")}
    return run(sys.executable, *arguments, environment=environment, check=check, stdin=stdin)
