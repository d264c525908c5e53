"""How an execution has ended, as the Executor's caller gets it."""

from __future__ import annotations

import dataclasses
import shlex
import signal
from pathlib import Path
from typing import Any

from theorbo.executor.reported import Reported
from theorbo.schemas.errors import ExitStatus
from theorbo.schemas.events import Part
from theorbo.schemas.limits import OUTCOME_LINES
from theorbo.schemas.presentation import first_line, part_text, visible
from theorbo.schemas.states import EXIT_STATUSES, State


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The state of an execution when its Executor left it: final, unless the Task was let go."""

    execution: str
    """32 hexadecimal digits."""
    task: str
    experiment: str
    run: str
    state: State
    reason: str
    duration_s: float
    """From the submission to the end of the supervision."""
    results: tuple[Reported, ...]
    """The `result` events in order, the first `OUTCOME_RESULTS` of them."""
    broker: Path
    """The connection file of the broker that has it all."""
    interrupted: bool = False
    """Whether Ctrl-C let go of the Task before its end."""
    fenced: bool = False
    """Whether another Executor has taken over before its end."""
    redelivered: int = 0
    """How many events were given to hooks although a former Executor may have had them (see `Reported`)."""

    @property
    def exit_status(self) -> int:
        """What `theorbo run` exits with: an ExitStatus, 0 for a Task that was let go; if by Ctrl-C, 130, so that
        a shell does not go on with what was to follow, and 6 if another Executor has taken over.
        """
        if self.fenced:
            return ExitStatus.UNAVAILABLE
        if self.interrupted:
            return 128 + signal.SIGINT
        return EXIT_STATUSES.get(self.state, ExitStatus.COMPLETED)

    def payload(self, part: Part) -> bytes:
        """The bytes of a part that travelled as an attachment, checked by its digest; asks the broker.

        Raises UsageError if the part is none, Refused or Unavailable if the broker cannot give it.
        """
        from theorbo.executor.results import fetched

        return fetched(str(self.broker), bytes.fromhex(self.execution), part)

    def as_object(self) -> dict[str, Any]:
        """The last line of `theorbo run --json`."""
        return {
            "kind": "outcome",
            **{key: getattr(self, key) for key in ("execution", "task", "experiment", "run")},
            "state": str(self.state),
            "reason": self.reason,
            "final": self.state.final,
            "exit_status": int(self.exit_status),
            "duration_s": round(self.duration_s, 3),
            "redelivered": self.redelivered,
            "results": [
                {"rank": result.rank, "name": result.name, "summary": result.summary, "position": result.position}
                for result in self.results
            ],
        }

    def sentences(self, broker: str = "") -> list[str]:
        """The last lines for people: what came out, where it is, and at the very end how it has ended.

        The commands in them can be typed as they are: `broker` is what --broker named, if anything.
        """
        there = f" --broker {shlex.quote(broker)}" if broker else ""
        if not self.state.final:
            goes_on = f"{self.task} goes on as execution {self.execution} ({self.state})"
            again = f"take it up again: theorbo attach {self.execution}{there}"
            if self.fenced:
                goes_on = f"{self.reason}; {goes_on}"
                again = f"take it back: theorbo attach {self.execution} --take-over{there}"
            lines = [goes_on, again, f"follow it: theorbo tail --execution {self.execution}{there}"]
        else:
            how = f"{self.state}" + (f": {first_line(self.reason)}" if self.reason else "")
            lines = [*self._result_lines(there), f"{self.task} {how} ({self.duration_s:.1f} s)"]
        return [visible(line) for line in lines]

    def _result_lines(self, there: str) -> list[str]:
        if not self.results:
            return []
        several = len({result.rank for result in self.results}) > 1
        lines = []
        for result in self.results[:OUTCOME_LINES]:
            words = first_line(result.summary) or ", ".join(part_text(part) for part in result.parts)
            lines.append((f"rank {result.rank} " if several else "") + f"{result.name}: {words}")
        if len(self.results) > OUTCOME_LINES:
            lines.append(f"and {len(self.results) - OUTCOME_LINES} more results")
        return [*lines, f"to see or save them: theorbo result {self.execution}{there} [--save DIR]"]
