"""Payloads: attachments on their way in (ATTACH, STORED) and out (FETCH, CHUNK).

An attachment is *stored* when its file is complete, checked and on disk, and the journal's note that the
execution refers to it is committed. Only then is its sender told so, and sends the record that names it.
"""

from __future__ import annotations

from theorbo.broker.deliveries import check_speaker
from theorbo.broker.sessions import Session
from theorbo.broker.values import Chunk, ChunkRead, ChunkStored, ReadChunk, Refer, Reference, Send, StoreChunk
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import Command, ErrorCode, Header, Message
from theorbo.schemas.limits import ATTACHMENT_BYTES, CHUNK_BYTES

_DIGEST_BYTES = 32


class Payloads:
    """Who waits to hear that an attachment is stored."""

    def __init__(self) -> None:
        self._waiting: dict[Reference, list[bytes]] = {}

    def attach(self, session: Session, message: Message) -> StoreChunk:
        """ATTACH. Raises ProtocolError."""
        header, body = message.header, message.body
        check_speaker(session, header)
        if header.position > ATTACHMENT_BYTES:
            raise ProtocolError(
                ErrorCode.TOO_LARGE, f"attachment of {header.position} bytes; at most {ATTACHMENT_BYTES}, else a path"
            )
        fits = header.count <= CHUNK_BYTES and header.first + header.count <= header.position
        if len(body) - _DIGEST_BYTES != header.count or not fits:
            raise ProtocolError(
                ErrorCode.MALFORMED,
                f"ATTACH of bytes {header.first} to {header.first + header.count} of {header.position} "
                f"has a body of {len(body)} bytes",
            )
        reference = Reference(header.execution, body[:_DIGEST_BYTES], header.position)
        return StoreChunk(session.peer, Chunk(reference, header.first, body[_DIGEST_BYTES:]))

    def stored(self, it: ChunkStored, now: float) -> Send | Refer:
        """A chunk has been written. Raises ProtocolError where it could not be."""
        if it.refusal:
            raise ProtocolError(*it.refusal)
        if not it.complete:
            return _stored(it.peer, it.reference, it.received, now)
        self._waiting.setdefault(it.reference, []).append(it.peer)
        return Refer(it.reference)

    def noted(self, reference: Reference, now: float) -> list[Send]:
        """The journal has committed the reference."""
        return [_stored(peer, reference, reference.size, now) for peer in self._waiting.pop(reference, [])]

    def fetch(self, session: Session, message: Message) -> ReadChunk:
        """FETCH. Raises ProtocolError."""
        header, body = message.header, message.body
        if len(body) != _DIGEST_BYTES or header.count > CHUNK_BYTES or header.first > ATTACHMENT_BYTES:
            raise ProtocolError(ErrorCode.MALFORMED, f"FETCH wants 32 bytes of SHA-256 and at most {CHUNK_BYTES} bytes")
        return ReadChunk(session.peer, header, body)

    def fetched(self, it: ChunkRead, now: float) -> Send:
        """What FETCH asked for. Raises ProtocolError if there is no such attachment."""
        if it.data is None:
            raise ProtocolError(
                ErrorCode.UNKNOWN_ATTACHMENT, f"no such attachment in execution {it.header.execution.hex()}"
            )
        header = it.header._replace(count=len(it.data), position=it.size, time=now)
        return Send(it.peer, Message(Command.CHUNK, header, it.data))


def _stored(peer: bytes, reference: Reference, received: int, now: float) -> Send:
    header = Header(execution=reference.execution, first=received, position=reference.size, time=now)
    return Send(peer, Message(Command.STORED, header, reference.sha256))
