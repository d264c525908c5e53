"""`theorbo journal export`: events of a journal as lines of JSON, as `theorbo tail --json` shows them."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from theorbo.broker.journal_reader import JournalReader
from theorbo.broker.values import Batch, ReadJournal
from theorbo.schemas import events
from theorbo.schemas.errors import UsageError
from theorbo.schemas.frames import NO_EXECUTION
from theorbo.schemas.limits import JOURNAL_READ_BYTES
from theorbo.schemas.names import EXECUTOR, Channel
from theorbo.schemas.presentation import as_object, json_line, single_events
from theorbo.schemas.records import split_body


class Export:
    """One export. It reads up to the journal's end as it was at the beginning, with short statements."""

    def __init__(self, connection: sqlite3.Connection, reader: JournalReader) -> None:
        """Both of the same journal."""
        self._connection = connection
        self._reader = reader
        self._views: dict[bytes, dict[str, Any]] = {}
        self.events = 0
        """How many were given."""
        self.damaged: list[Batch] = []
        """Batches that were not, for their checksum is wrong."""

    def lines(self, executions: list[bytes], since: float) -> Iterator[str]:
        """One line an event, without its end: one execution after the other, or all in the order of the journal."""
        through = self._reader.last_sequence()
        for execution in executions or [NO_EXECUTION]:
            wish = ReadJournal(b"", 0, execution, None, 0, 0, 0, JOURNAL_READ_BYTES, since)
            while wish.after < through:
                found = self._reader.read(wish, through)
                if found.problem:
                    raise sqlite3.OperationalError(found.problem)
                for batch in found.batches:
                    yield from self._of(batch)
                self.damaged += found.damaged
                wish = wish._replace(after=found.looked_to, since=0.0)

    def _of(self, batch: Batch) -> Iterator[str]:
        view = self._view(batch.execution)
        for header, event in single_events(batch.header(), batch.body):
            self.events += 1
            yield json_line(as_object(header, view, event))

    def _view(self, execution: bytes) -> dict[str, Any]:
        """Task, experiment and run: of the view if the execution has ended, else of its first event."""
        found = self._views.get(execution)
        if found is None:
            row = self._connection.execute("SELECT view FROM executions WHERE execution = ?", (execution,)).fetchone()
            found = (json.loads(row[0]) if row else {}) or self._submitted(execution)
            self._views = {execution: found} if len(self._views) > _VIEWS else {**self._views, execution: found}
        return found

    def _submitted(self, execution: bytes) -> dict[str, Any]:
        wish = ReadJournal(b"", 0, execution, frozenset({Channel.SIGNALS}), 0, 1, 1, 1)
        for batch in self._reader.read(wish, self._reader.last_sequence()).batches:
            event = events.decode_event(split_body(batch.body)[0])
            if batch.source == EXECUTOR and isinstance(event, events.ExecutionSubmitted):
                return {"task": event.task, "experiment": event.experiment, "run": event.run}
        return {}


_VIEWS = 1000
"""Views that are remembered."""


def chosen(connection: sqlite3.Connection, texts: list[str]) -> list[bytes]:
    """The executions that these name: by the id, or enough digits from its beginning or end. Raises UsageError."""
    known = [row[0].hex() for row in connection.execute("SELECT execution FROM executions ORDER BY submitted DESC")]
    return [bytes.fromhex(_one(text, known)) for text in texts]


def _one(text: str, known: list[str]) -> str:
    digits = text.replace("-", "").lower()
    newest = f"the latest: {', '.join(known[:3])}" if known else "the journal has none yet"
    if not re.fullmatch(r"[0-9a-f]{4,32}", digits):
        raise UsageError(f"{text!r} is no execution: 4 to 32 hexadecimal digits are wanted; {newest}")
    found = [each for each in known if each.startswith(digits)] or [each for each in known if each.endswith(digits)]
    if not found:
        raise UsageError(f"there is no execution {text!r} in this journal; {newest}")
    if len(found) > 1:
        raise UsageError(f"{text!r} may be any of {len(found)} executions; give more digits: {', '.join(found[:5])}")
    return found[0]
