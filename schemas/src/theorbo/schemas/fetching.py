"""Getting attachments from the broker: in chunks, checked by their digest, with bounded memory. Needs pyzmq."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from theorbo.schemas.errors import ProtocolError, UsageError
from theorbo.schemas.frames import Command, ErrorCode, Header
from theorbo.schemas.limits import CHUNK_BYTES
from theorbo.schemas.link import Link
from theorbo.schemas.records import Attachment


def attachment_of(sha256: str, size: int) -> Attachment:
    """Checked: what names a file must be a digest. Raises UsageError."""
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef") or size < 0:
        raise UsageError(f"a record names an attachment {sha256[:80]!r} of {size} bytes, which is none")
    return Attachment(sha256, size)


def chunk(link: Link, execution: bytes, attachment: Attachment, offset: int, length: int) -> bytes:
    """Some bytes of an attachment. Raises Refused, Unavailable, or ProtocolError if it is of another size."""
    header = Header(execution=execution, first=offset, count=length)
    answer = link.ask(Command.FETCH, header, bytes.fromhex(attachment.sha256))
    if answer.header.position != attachment.size or (not answer.body and offset < attachment.size):
        raise ProtocolError(
            ErrorCode.MALFORMED,
            f"attachment {attachment.sha256} has {answer.header.position} bytes at the broker, its record says "
            f"{attachment.size}",
        )
    return answer.body


def chunks(link: Link, execution: bytes, attachment: Attachment) -> Iterator[bytes]:
    """All bytes of an attachment. Raises as `chunk`; ProtocolError at the end if the digest is wrong."""
    digest, offset = hashlib.sha256(), 0
    while offset < attachment.size:
        piece = chunk(link, execution, attachment, offset, CHUNK_BYTES)
        digest.update(piece)
        offset += len(piece)
        yield piece
    if offset != attachment.size or digest.hexdigest() != attachment.sha256:
        raise ProtocolError(
            ErrorCode.MALFORMED,
            f"attachment {attachment.sha256} is damaged: {offset} bytes with the digest {digest.hexdigest()} arrived",
        )
