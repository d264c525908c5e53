"""Batches: what the broker can do with a sequence of records without opening one."""

from __future__ import annotations

from collections.abc import Iterator

from theorbo.broker.values import Batch
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import ErrorCode, Header
from theorbo.schemas.limits import BATCH_EVENTS, LIVE_BYTES, RECORD_BYTES
from theorbo.schemas.names import SourceKind
from theorbo.schemas.records import LF, RS


def check(header: Header, body: bytes) -> None:
    """What can be said of a PUT from outside: its counts and sizes. Raises ProtocolError."""
    if header.source is None or not header.channel or header.first < 1:
        raise ProtocolError(ErrorCode.MALFORMED, "PUT wants a channel, a source, and first from 1")
    if header.source.kind is SourceKind.BROKER:
        raise ProtocolError(ErrorCode.NOT_ALLOWED, "only the broker reports as the broker")
    if not header.count and not body:
        return  # the question how far the journal is in this stream
    if header.count > BATCH_EVENTS:
        raise ProtocolError(ErrorCode.TOO_LARGE, f"PUT of {header.count} records; at most {BATCH_EVENTS}")
    records, ends = body.count(RS), body.count(LF)
    if (
        not header.count
        or not records == ends == header.count
        or body.count(LF + RS) != records - 1
        or body[:1] != RS
        or body[-1:] != LF
    ):
        raise ProtocolError(
            ErrorCode.MALFORMED, f"PUT says {header.count} records, its body has {records} RS and {ends} LF"
        )
    if len(body) > RECORD_BYTES and (largest := max(map(len, body.split(RS))) + 1) > RECORD_BYTES:
        raise ProtocolError(ErrorCode.TOO_LARGE, f"a record of {largest} bytes; at most {RECORD_BYTES}")


def cut(batch: Batch, first: int, last: int) -> Batch:
    """The part of a batch whose positions lie between `first` and `last`, both included."""
    if first <= batch.position and batch.last_position <= last:
        return batch
    begin, end = max(first, batch.position), min(last, batch.last_position)
    records = batch.body.split(RS)[1 + begin - batch.position : 2 + end - batch.position]
    return _part(batch, begin - batch.position, records)


def live_pieces(batch: Batch) -> Iterator[Batch]:
    """The batch in pieces of at most LIVE_BYTES of records, or one record, each."""
    if len(batch.body) <= LIVE_BYTES:
        yield batch
        return
    skip, size, records = 0, 0, list[bytes]()
    for record in batch.body.split(RS)[1:]:
        if records and size + len(record) + 1 > LIVE_BYTES:
            yield _part(batch, skip, records)
            skip, size, records = skip + len(records), 0, []
        records.append(record)
        size += len(record) + 1
    yield _part(batch, skip, records)


def _part(batch: Batch, skip: int, records: list[bytes]) -> Batch:
    """Of a batch, the `records` (without their RS) that come after its first `skip`."""
    return batch._replace(
        position=batch.position + skip,
        first=batch.first + skip,
        count=len(records),
        body=b"".join(RS + record for record in records),
    )
