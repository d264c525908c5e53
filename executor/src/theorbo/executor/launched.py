"""What a Session needs of whatever starts the ranks: the protocol that all launchers have."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from theorbo.executor.values import JobTold, LauncherEnded, Notice, Withdrawn
from theorbo.schemas.events import JobSubmitted, LauncherStarted
from theorbo.schemas.launch_plan import LaunchPlan

WORDS_BYTES = 4096
WORDS_LINES = 2


class Launched(Protocol):
    """Something that was launched: a process of this machine, or a job of a batch scheduler."""

    descriptor: int | None
    """Readable when there is something new; None: look now and then."""

    local: bool
    """Whether it is a process of this machine, whose end is seen at once."""

    def news(self) -> list[JobTold | Withdrawn | Notice]:
        """What a scheduler has said since the last call."""

    def ended(self) -> LauncherEnded | None:
        """How it ended, if it has."""

    def withdraw(self) -> None:
        """Take it out of the queue, if it still waits there; `Withdrawn` says what came of it."""

    def terminate(self) -> None:
        """Ask it to end, with all that it has started."""

    def close(self, *, over: bool) -> None:
        """Let go of it, whether it has ended or not. `over`: the execution has, and nobody asks for its files."""


class Launcher(Protocol):
    """Something that can launch, and find again what a former Executor has launched."""

    def launch(self, plan: LaunchPlan, spool: Path) -> Launched:
        """Launch; `spool` is a directory of the Executor's own. Raises OSError or Unavailable."""

    def find(self, launched: LauncherStarted | JobSubmitted | None) -> Launched | None:
        """What a former Executor has launched; None if it cannot be seen from here. Raises ProcessLookupError if it has
        ended, and nobody can tell how.
        """


def last_words(text: bytes) -> str:
    """The last lines of what a launcher has said."""
    lines = text[-WORDS_BYTES:].decode(errors="backslashreplace").split("\n")
    words = [line.strip() for line in lines if line.strip()]
    return " ".join(words[-WORDS_LINES:])
