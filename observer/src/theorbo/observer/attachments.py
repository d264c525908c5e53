"""Getting attachments from the broker: in chunks, checked by their digest, with bounded memory."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from theorbo.schemas.errors import ProtocolError, UsageError
from theorbo.schemas.frames import Command, ErrorCode, Header
from theorbo.schemas.limits import CHUNK_BYTES
from theorbo.schemas.link import Link
from theorbo.schemas.records import Attachment

_NPY_HEADER_BYTES = 10_000  # numpy's own limit


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


class NpyHeader(NamedTuple):
    """What an .npy file says of its array."""

    shape: tuple[int, ...]
    dtype: str
    """As numpy writes it: `<f8`, `|u1`, or the list of fields of a structured type."""


def npy_header(beginning: bytes) -> NpyHeader | None:
    """The header of an .npy file, from its first 10 KiB; None if it is none. Nothing is executed."""
    if beginning[:6] != b"\x93NUMPY" or len(beginning) < 12:
        return None
    start = 10 if beginning[6] == 1 else 12
    length = int.from_bytes(beginning[8:start], "little")
    text = beginning[start : start + length]
    if length > _NPY_HEADER_BYTES or len(text) < length:
        return None
    try:
        fields: Any = ast.literal_eval(text.decode("latin-1").strip())  # literals only
        shape, dtype = fields["shape"], fields["descr"]
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError, KeyError):
        return None
    if not isinstance(shape, tuple) or not all(isinstance(length, int) for length in shape):
        return None
    return NpyHeader(shape, dtype if isinstance(dtype, str) else repr(dtype))


def attachment_of(sha256: str, size: int) -> Attachment:
    """Checked: what names a file must be a digest. Raises UsageError."""
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef") or size < 0:
        raise UsageError(f"a record names an attachment {sha256[:80]!r} of {size} bytes, which is none")
    return Attachment(sha256, size)
