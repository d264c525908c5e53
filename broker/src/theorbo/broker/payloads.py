"""Payloads: attachments on their way in (ATTACH, STORED) and out (FETCH, CHUNK).

An attachment is *stored* when its file is complete, checked and on disk, and the journal's note that the
execution refers to it is committed. Only then is its sender told so, and sends the record that names it.

Of each peer one chunk is read at a time; what it asks for meanwhile waits. So nobody can make the broker read
more than it takes away, and nobody waits for somebody else's gigabyte.
"""

from __future__ import annotations

from collections import deque

from theorbo.broker.deliveries import check_speaker
from theorbo.broker.sessions import Session
from theorbo.broker.values import Chunk, ChunkRead, ChunkStored, ReadChunk, Refer, Reference, Send, StoreChunk
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import Command, ErrorCode, Header, Message
from theorbo.schemas.limits import ATTACHMENT_BYTES, CHUNK_BYTES, CHUNKS_PENDING_BYTES, FETCHES_PER_PEER

_DIGEST_BYTES = 32
_CHUNKS_AT_ONCE = CHUNKS_PENDING_BYTES // CHUNK_BYTES


class Payloads:
    """Who waits to hear that an attachment is stored, and who for a chunk of one."""

    def __init__(self) -> None:
        self._waiting: dict[Reference, dict[bytes, None]] = {}
        self._storing = 0  # chunks that are being written, or wait for it
        self._fetches: dict[bytes, deque[ReadChunk]] = {}  # by peer; the first is being read, or its turn comes next
        self._turns: deque[bytes] = deque()  # peers whose first is not being read yet
        self._reading = 0

    def attach(self, session: Session, message: Message) -> list[StoreChunk]:
        """ATTACH; nothing is done if too much waits to be written already. Raises ProtocolError."""
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
        if self._storing >= _CHUNKS_AT_ONCE:
            return []  # its sender sends it again
        self._storing += 1
        return [StoreChunk(session.peer, Chunk(reference, header.first, body[_DIGEST_BYTES:]))]

    def stored(self, it: ChunkStored, now: float) -> Send | Refer | None:
        """A chunk has been written; None if its sender waits already. Raises ProtocolError where it could not be."""
        self._storing = max(0, self._storing - 1)
        if it.refusal:
            raise ProtocolError(*it.refusal)
        if not it.complete:
            return _stored(it.peer, it.reference, it.received, now)
        waiting = self._waiting.setdefault(it.reference, {})
        if it.peer in waiting:
            return None  # it asks again while the journal cannot be written; it is told when that is over
        waiting[it.peer] = None
        return Refer(it.reference)

    def noted(self, reference: Reference, now: float) -> list[Send]:
        """The journal has committed the reference."""
        return [_stored(peer, reference, reference.size, now) for peer in self._waiting.pop(reference, {})]

    def fetch(self, session: Session, message: Message) -> list[ReadChunk]:
        """FETCH: read now, or when what the peer has asked for before has been read. Raises ProtocolError."""
        header, body = message.header, message.body
        if len(body) != _DIGEST_BYTES or header.count > CHUNK_BYTES or header.first > ATTACHMENT_BYTES:
            raise ProtocolError(ErrorCode.MALFORMED, f"FETCH wants 32 bytes of SHA-256 and at most {CHUNK_BYTES} bytes")
        fetches = self._fetches.setdefault(session.peer, deque())
        if len(fetches) >= FETCHES_PER_PEER:
            raise ProtocolError(ErrorCode.BUSY, f"more than {FETCHES_PER_PEER} FETCHes at the same time")
        fetches.append(ReadChunk(session.peer, header, body))
        if len(fetches) == 1:
            self._turns.append(session.peer)
        return self._start()

    def next_fetch(self, it: ChunkRead) -> list[ReadChunk]:
        """A chunk was read: what is to be read next."""
        self._reading = max(0, self._reading - 1)
        fetches = self._fetches.get(it.peer)
        if fetches and fetches[0].header == it.header:  # else the peer went, and came back
            fetches.popleft()
            if fetches:
                self._turns.append(it.peer)
            else:
                del self._fetches[it.peer]
        return self._start()

    def _start(self) -> list[ReadChunk]:
        out: list[ReadChunk] = []
        while self._turns and self._reading < _CHUNKS_AT_ONCE:
            if fetches := self._fetches.get(self._turns.popleft()):
                self._reading += 1
                out.append(fetches[0])
        return out

    def drop(self, peer: bytes) -> None:
        """A peer has gone, and with it what it wanted to fetch."""
        self._fetches.pop(peer, None)

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
