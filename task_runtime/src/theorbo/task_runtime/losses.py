"""What an agent tells of losses: each once, also over the death of an agent, and in bounded number. Pure.

Damage in a file is found in the order of the file. So it is enough to know up to which offset of each file it was
told; a second agent finds that in its predecessor's own records. Much damage in one reading is told as one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from theorbo.schemas.delivery import Missing
from theorbo.schemas.limits import DAMAGES_TOLD, REPORTS_HELD
from theorbo.schemas.names import Channel, Stream
from theorbo.schemas.records import Damage
from theorbo.task_runtime.spool_reader import SpoolFile

Fields = dict[str, Any]


class Losses:
    """Makes the fields of `loss` events. While too many wait to be written, further ones are summed."""

    def __init__(self) -> None:
        self._told_to: dict[str, int] = {}  # by file: damage that begins before this offset was told
        self._further: Counter[str] = Counter()  # by stream: events in losses that could not be told one by one

    def recall(self, fields: Fields) -> None:
        """A loss that an earlier agent has told. Raises ValueError or TypeError if it is another one's."""
        if "file" in fields:
            self._told_to[str(fields["file"])] = int(fields.get("until", 0))

    def damaged(self, file: SpoolFile, damages: list[Damage]) -> list[Fields]:
        """Damage that one reading has found, but for what was told already; one by one, unless it is much."""
        told_to = self._told_to.get(file.name, 0)
        new = [damage for damage in damages if damage.start >= told_to]
        if not new:
            return []
        self._told_to[file.name] = new[-1].end
        single, rest = new[:DAMAGES_TOLD], new[DAMAGES_TOLD:]
        told = [self._damage(file, [damage], damage.why) for damage in single]
        if rest:
            told.append(self._damage(file, rest, f"{len(rest)} damaged records, the first: {rest[0].why}"))
        return told

    def _damage(self, file: SpoolFile, damages: list[Damage], why: str) -> Fields:
        stream = Stream(file.source, file.channel or Channel.LOG)
        start, end = damages[0].start, damages[-1].end
        detail = f"{file.name}, bytes {start} to {end}: {why}"
        return self._loss(stream, len(damages), detail, file=file.name, offset=start, until=end)

    def replaced(self, file: SpoolFile, damage: Damage) -> Fields:
        """The file is not what it was, and is read from its beginning."""
        self._told_to[file.name] = 0
        stream = Stream(file.source, file.channel or Channel.LOG)
        return self._loss(stream, 0, damage.why, file=file.name, offset=damage.start, until=0)

    def missing(self, hole: Missing, why: str) -> Fields:
        """Numbers that nobody can deliver any more."""
        count = hole.last - hole.first + 1
        return self._loss(hole.stream, count, why, first=hole.first, last=hole.last)

    def unknown(self, stream: Stream, detail: str) -> Fields:
        """Something of a stream, nobody can tell how many events."""
        return self._loss(stream, 0, detail)

    def _loss(self, stream: Stream, count: int, detail: str, **more: Any) -> Fields:
        return {"kind": "loss", "stream": str(stream), "count": count, "detail": detail, **more}

    def admitted(self, fields: Fields, waiting: int) -> bool:
        """Whether there is room for this report while `waiting` are not written; if not, a loss is kept as a number.

        Numbered losses are always admitted, for without them their stream stands still: one per stream at most.
        """
        if waiting < REPORTS_HELD or fields["kind"] != "loss" or "first" in fields:
            return True
        self._further[fields["stream"]] += fields["count"]
        return False

    def further(self, waiting: int) -> list[Fields]:
        """What was kept as numbers, once there is room for it."""
        if not self._further or waiting:
            return []
        kept, self._further = self._further, Counter()
        why = "further losses, for whose description there was no room"
        return [self._loss(Stream.parse(stream), count, why) for stream, count in kept.items()]
