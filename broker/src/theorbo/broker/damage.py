"""Damage: rows of the journal whose checksum is wrong. Each is set aside and reported as a loss, once."""

from __future__ import annotations

from collections.abc import Iterable

from theorbo.broker.deliveries import Deliveries
from theorbo.broker.executions import Execution
from theorbo.broker.values import Batch, Instruction, Note, Recall, SetAside
from theorbo.schemas import events
from theorbo.schemas.names import Channel, Stream
from theorbo.schemas.records import encode_record


class Damage:
    """Rows that were found damaged, until they are out of the journal."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._waiting: dict[bytes, list[Batch]] = {}
        """For their execution to be recalled."""
        self._reported: dict[int, int] = {}
        """Sequence of the loss event, by that of the damaged row."""

    def found(self, rows: Iterable[Batch], executions: dict[bytes, Execution], now: float) -> list[Instruction]:
        """A reader has come across these."""
        out: list[Instruction] = []
        for row in rows:
            execution = executions.get(row.execution)
            if row.sequence in self._reported:
                continue
            if execution:
                out += self._report(execution, row, now)
                continue
            waiting = self._waiting.setdefault(row.execution, [])
            if row.sequence not in [each.sequence for each in waiting]:
                waiting.append(row)
            if len(waiting) == 1:
                out.append(Recall(row.execution, None))
        return out

    def recalled(self, execution: bytes, known: Execution | None, now: float) -> list[Instruction]:
        """An execution was looked up in the journal."""
        out: list[Instruction] = []
        for row in self._waiting.pop(execution, []):
            if known:
                out += self._report(known, row, now)
            else:  # retention has just removed it
                out.append(SetAside(row.sequence))
        return out

    def committed(self, batch: Batch) -> None:
        """Something is on disk: if it is the loss event of a row, that row has left the journal along with it."""
        if self._reported:
            self._reported = {row: loss for row, loss in self._reported.items() if loss != batch.sequence}

    def _report(self, execution: Execution, row: Batch, now: float) -> list[Instruction]:
        if row.sequence in self._reported:
            return []
        if head := execution.streams.get((row.source, row.channel)):
            head.missing += row.count
        loss = events.Loss(
            time=now,
            stream=str(Stream(row.source, Channel(row.channel))),
            count=row.count,
            first=row.first,
            last=row.last,
            detail="damaged in the journal",
        )
        (append,) = self._deliveries.own(execution, [encode_record(events.record_fields(loss))])
        self._reported[row.sequence] = append.batch.sequence
        fields = {"execution": execution.id.hex(), "stream": loss.stream, "first": loss.first, "last": loss.last}
        note = Note("error", "a row of the journal is damaged; it is set aside, and reported as a loss", fields)
        return [append, SetAside(row.sequence), note]
