"""Messages of the wire: three frames, command (or topic), header, body. See `docs/protocol.md`.

The header has a fixed size and the same fields in every message; what a command does not use is zero.
Nothing here opens a body but `encode_json` and `decode_json`, for the few commands whose body is one
JSON object.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.names import Channel, Source, SourceKind

PROTOCOL_VERSION = 1
MAGIC = b"TB"

_HEADER = struct.Struct("!2sBBBBII16sQIQQd")
HEADER_BYTES = _HEADER.size
NO_EXECUTION = bytes(16)


class Command:
    """First frame of a conversation's messages. Client to broker first, then broker to client."""

    HELLO = b"HELLO"
    PING = b"PING"
    PUT = b"PUT"
    ATTACH = b"ATTACH"
    READ = b"READ"
    CREDIT = b"CREDIT"
    CLOSE = b"CLOSE"
    LIST = b"LIST"
    FETCH = b"FETCH"
    REQUEST = b"REQUEST"
    BYE = b"BYE"

    WELCOME = b"WELCOME"
    REFUSED = b"REFUSED"
    PONG = b"PONG"
    ACK = b"ACK"
    STORED = b"STORED"
    EVENTS = b"EVENTS"
    END = b"END"
    LISTING = b"LISTING"
    CHUNK = b"CHUNK"
    REQUESTED = b"REQUESTED"
    CONTROL = b"CONTROL"
    GOODBYE = b"GOODBYE"


class ErrorCode:
    """What REFUSED says; the table with remedies is in `docs/protocol.md`."""

    MALFORMED = "malformed"
    VERSION = "version"
    UNKNOWN_COMMAND = "unknown_command"
    UNKNOWN_PEER = "unknown_peer"
    UNKNOWN_EXECUTION = "unknown_execution"
    UNKNOWN_ATTACHMENT = "unknown_attachment"
    TOO_LARGE = "too_large"
    NOT_ALLOWED = "not_allowed"
    JOURNAL = "journal"
    FENCED = "fenced"
    ENDED = "ended"
    BUSY = "busy"


class Flag:
    """Bits of the header's flags."""

    REWIND = 1
    """On ACK: the sender must send again from the number after the acknowledged one."""
    LATE = 2
    """On EVENTS and published events: arrived after the execution's state was final."""


class Header(NamedTuple):
    """The fixed-size second frame. Sizes and order of the fields: `docs/protocol.md`, section Header."""

    request: int = 0
    """Chosen by the client, repeated in each answer to it; 0 where nothing was asked."""
    execution: bytes = NO_EXECUTION
    channel: int = 0
    source: Source | None = None
    first: int = 0
    """Number in its stream of the first event in the body; on ACK the last number in the journal."""
    count: int = 0  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    position: int = 0
    """Position of the first event in (execution, channel); 0 before it is in the journal."""
    sequence: int = 0
    """Place of the batch in the whole journal; 0 before it is in the journal."""
    time: float = 0.0
    """Unix time in seconds: of sending, or of the journal's commit once there is a position."""
    flags: int = 0

    @property
    def last(self) -> int:
        """Number of the last event in the body."""
        return self.first + self.count - 1

    def encode(self) -> bytes:
        """The header's bytes."""
        source = self.source
        kind, index = source if source is not None else (0, 0)
        return _HEADER.pack(
            MAGIC, PROTOCOL_VERSION, self.flags, self.channel, kind, index, self.request,
            self.execution, self.first, self.count, self.position, self.sequence, self.time,
        )  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """The inverse of `encode`.

        Raises ProtocolError with code `malformed` or `version`; a version is recognised whatever follows.
        """
        if len(data) < 3 or data[:2] != MAGIC:
            raise ProtocolError(ErrorCode.MALFORMED, f"header of {len(data)} bytes does not begin with {MAGIC!r}")
        if data[2] != PROTOCOL_VERSION:
            raise ProtocolError(
                ErrorCode.VERSION,
                f"peer speaks protocol version {data[2]}, this side version {PROTOCOL_VERSION}; "
                "install matching versions",
            )
        if len(data) != HEADER_BYTES:
            raise ProtocolError(ErrorCode.MALFORMED, f"header has {len(data)} bytes, expected {HEADER_BYTES}")
        _, _, flags, channel, kind, index, request, execution, first, count, position, sequence, time = _HEADER.unpack(
            data
        )
        try:
            source = Source(SourceKind(kind), index) if kind else None
            if channel:
                channel = Channel(channel)
        except ValueError as error:
            raise ProtocolError(ErrorCode.MALFORMED, f"header: {error}") from None
        return cls(request, execution, channel, source, first, count, position, sequence, time, flags)


class Message(NamedTuple):
    """Three frames. `command` is the topic where the message was published."""

    command: bytes
    header: Header = Header()
    body: bytes = b""

    def encode(self) -> tuple[bytes, bytes, bytes]:
        """The three frames."""
        return self.command, self.header.encode(), self.body


def decode_message(frames: list[bytes]) -> Message:
    """The message in three frames. Raises ProtocolError."""
    if len(frames) != 3:
        raise ProtocolError(ErrorCode.MALFORMED, f"message has {len(frames)} frames, expected 3")
    return Message(frames[0], Header.decode(frames[1]), frames[2])


def encode_json(**fields: Any) -> bytes:
    """A body that is one JSON object."""
    return json.dumps(fields, separators=(",", ":")).encode()


def decode_json(body: bytes) -> dict[str, Any]:
    """The object in a body. Raises ProtocolError with code `malformed`."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(ErrorCode.MALFORMED, f"body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError(ErrorCode.MALFORMED, f"body is a JSON {type(value).__name__}, expected an object")
    return value
