"""Fetching what results name but do not hold: attachments, chunk by chunk, checked by their digest."""

from __future__ import annotations

import hashlib

from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.events import Part
from theorbo.schemas.frames import Command, Header
from theorbo.schemas.limits import ATTACHMENT_BYTES, CHUNK_BYTES
from theorbo.schemas.link import Link, open_link


def fetched(broker: str | None, execution: bytes, part: Part) -> bytes:
    """The bytes of the attachment that `part` names, from the broker of the connection file `broker`."""
    if not part.sha256:
        raise UsageError(f"part {part.name!r} ({part.mime}) is no attachment; its content is in the event itself")
    link = open_link(broker, "observer")
    try:
        return fetch(link, execution, part.sha256)
    finally:
        link.close()


def fetch(link: Link, execution: bytes, sha256: str) -> bytes:
    """An attachment of an execution, by a link that nobody else uses meanwhile.

    Raises UsageError if `sha256` is none, Refused if the broker has no such attachment, Unavailable if it does
    not answer or if what it sends is not what the digest says.
    """
    digest = _digest(sha256)
    content = bytearray()
    while True:
        header = Header(execution=execution, first=len(content), count=CHUNK_BYTES)
        chunk = link.ask(Command.FETCH, header, digest)
        content += chunk.body
        if len(content) >= chunk.header.position:
            break
        if not chunk.body or len(content) > ATTACHMENT_BYTES:
            raise Unavailable(f"attachment {sha256}: the broker stopped at {len(content)} bytes")
    if hashlib.sha256(content).digest() != digest:
        raise Unavailable(f"attachment {sha256}: what the broker sent has another digest; its journal is damaged")
    return bytes(content)


def _digest(sha256: str) -> bytes:
    try:
        digest = bytes.fromhex(sha256)
    except ValueError:
        digest = b""
    if len(digest) != hashlib.sha256().digest_size:
        raise UsageError(f"{sha256[:80]!r} is no SHA-256; the record that names it is damaged")
    return digest
