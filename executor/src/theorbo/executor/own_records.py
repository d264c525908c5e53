"""The records of an Executor's own spool, and their numbers. Pure.

A record carries no number: the first one of a spool is number 1 if it is the submission, and says its own number if
it is `executor_attached`; each other one follows on the one before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from theorbo.schemas.limits import COUNT
from theorbo.schemas.records import LF, RS


class OwnRecords:
    """What can be offered again: numbers `base` + 1, `base` + 2 … without gaps."""

    def __init__(self, records: Sequence[bytes] = ()) -> None:
        """Of a spool as it was found; of gaps in it (see `session.OwnSpool`) the part behind the last one counts."""
        self.base = 0
        self.records: list[bytes] = []
        self._owners: set[str] = set()
        for record in records:
            fields = _owner_fields(record)
            number = fields.get("number", self.next_number)
            if number != self.next_number:
                self.base, self.records = number - 1, []
            if "incarnation" in fields:
                self._owners.add(str(fields["incarnation"]))
            self.records.append(record)

    @property
    def next_number(self) -> int:
        """Of the next record."""
        return self.base + len(self.records) + 1

    def add(self, record: bytes) -> None:
        """The next record."""
        self.records.append(record)

    def belongs_to(self, incarnation: str) -> bool:
        """Whether the Executor of this incarnation has written to the spool. An empty one is anybody's."""
        return not self.records or incarnation in self._owners

    def forget(self) -> None:
        """Nothing of it is to be offered."""
        self.records.clear()

    def continue_after(self, number: int) -> None:
        """The broker has all up to `number`: if the spool ends earlier, what follows is numbered from there."""
        if self.next_number <= number or not self.records:
            self.base, self.records = number, []
        self.base = min(self.base, number)


def owner_of(records: Sequence[bytes]) -> int:
    """The epoch of the Executor that wrote to a spool last; 0 if it holds none of those records that say it."""
    epochs = [int(fields.get("epoch", 1)) for fields in map(_owner_fields, records) if fields]
    return epochs[-1] if epochs else 0


def _owner_fields(record: bytes) -> dict[str, Any]:
    """The fields of a record with which an Executor begins; of others nothing, nor of one that has no such numbers."""
    try:
        fields = json.loads(record.strip(RS + LF))
        numbers = fields.get("number", 1), fields.get("epoch", 1)
        begins = fields["kind"] in ("execution_submitted", "executor_attached") and all(map(_is_number, numbers))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
    return fields if begins else {}


def _is_number(value: object) -> bool:
    """Strangers may have written to the spool."""
    return isinstance(value, int) and 1 <= value <= COUNT
