"""Rows of the journal's table of batches, with their checksums. The layout is told in `docs/journal.md`."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from theorbo.broker.values import Batch
from theorbo.schemas.names import Channel, Source, SourceKind

PLACE = "sequence, execution, channel, position, source_kind, source_index, first, count, flags, time"
COLUMNS = f"{PLACE}, checksum, body"
"""In this order for `encoded` and `decoded`, whatever their order in the table."""

INSERT = f"INSERT INTO batches ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - no text of others
SET_ASIDE = f"INSERT INTO damaged ({COLUMNS}) SELECT {COLUMNS} FROM batches WHERE sequence = ?"  # noqa: S608

_FIELDS = struct.Struct("!Q16sBQBIQIBd")
_SOURCE_KINDS = {int(kind): kind for kind in SourceKind}
_CHANNELS = frozenset(map(int, Channel))

Row = tuple[Any, ...]


def checksum(place: Row, body: bytes) -> int:
    """CRC-32 over the fields of a row, as `PLACE` has them, and its body. Raises struct.error for no such fields."""
    return zlib.crc32(body, zlib.crc32(_FIELDS.pack(*place)))


def encoded(batch: Batch) -> Row:
    """A batch as a row."""
    place = (*batch[:4], int(batch.source.kind), batch.source.index, *batch[5:9])
    return *place, checksum(place, batch.body), batch.body


def decoded(row: Row) -> Batch | None:
    """The batch of a row, or None if the row is damaged. A row of schema version 1 has no checksum."""
    *place, stated, body = row
    try:
        if stated is not None and stated != checksum(tuple(place), body):
            return None
    except (struct.error, TypeError):
        return None
    return placed(tuple(place), body)


def placed(place: Row, body: bytes = b"") -> Batch | None:
    """The batch of these fields, or None if they cannot be those of any."""
    sequence, execution, channel, position, kind, index, first, count, flags, time = place
    if kind not in _SOURCE_KINDS or channel not in _CHANNELS or not isinstance(body, bytes):
        return None
    source = Source(_SOURCE_KINDS[kind], index)
    return Batch(sequence, execution, channel, position, source, first, count, flags, time, body)
