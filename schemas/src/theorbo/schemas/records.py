"""The record: one JSON text framed as RFC 7464 has it (RS, JSON, LF), as it stands in a spool file.

A record carries no number: its place in the file is its number, counted per channel by whoever reads
the file, so that threads, children and foreign programs may share a file without sharing a counter.
JSON has neither a raw RS nor a raw LF inside, hence a torn record is one without LF before the next RS.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from theorbo.schemas.limits import LINE_BYTES, RECORD_BYTES
from theorbo.schemas.names import FOREIGN_CHANNEL, KIND_CHANNELS, OUTPUT_KIND, Channel

RS = b"\x1e"
LF = b"\n"

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_KIND = re.compile(rb'\x1e\{"kind": ?"([a-z_]+)"')
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_CHANNELS_BY_KIND = {kind.encode(): channel for kind, channel in KIND_CHANNELS.items()}


def encode_record(fields: dict[str, Any]) -> bytes:
    """One record. `fields` begins with "kind" (readers look there first).

    JSON has no non-finite numbers: they become the strings "NaN", "Infinity" and "-Infinity". Lone
    surrogates (bytes of an unknown encoding, as os.fsdecode makes them) become their escapes as text.

    Raises TypeError for a value that JSON cannot carry.
    """
    try:
        text = _dumps(fields)
    except ValueError:
        text = _dumps(_finite(fields))
    try:
        return b"\x1e" + text.encode() + b"\n"
    except UnicodeEncodeError:
        text = _LONE_SURROGATE.sub(lambda match: f"\\\\u{ord(match.group()):04x}", text)
        return b"\x1e" + text.encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def encode_output(line: bytes, time_s: float) -> bytes:
    r"""A line of a program's stdout or stderr as a record; bytes that are no UTF-8 become `\\xNN`."""
    text = line.decode("utf-8", "backslashreplace")
    return encode_record({"kind": OUTPUT_KIND, "time": time_s, "text": text})


def split_body(body: bytes) -> list[bytes]:
    """The JSON texts in the body of a message, without their frame. `len()` must be the header's count."""
    return [part.rstrip(LF) for part in body.split(RS)[1:]]


def drop_first(body: bytes, count: int) -> bytes:
    """The body without its first `count` records."""
    return b"".join(RS + part for part in body.split(RS)[1 + count :])


class Attachment(NamedTuple):
    """Names bytes that travel beside a record: their SHA-256 in hexadecimal digits and their length."""

    sha256: str
    size: int


def attachments_of(record: bytes) -> list[Attachment]:
    """The attachments that a record names (see `docs/protocol.md`, section Attachments); usually none."""
    if b'"attachments"' not in record:
        return []
    try:
        named = json.loads(record.strip(RS + LF)).get("attachments", [])
        return [Attachment(str(item["sha256"]), int(item["size"])) for item in named]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


class Piece(NamedTuple):
    """One numbered thing found in a spool file, ready for the wire."""

    channel: Channel
    record: bytes
    end: int  # offset in the file just behind it


class Damage(NamedTuple):
    """Bytes of a spool file that are no record: torn by a kill, written by a stranger, or too large."""

    start: int
    end: int
    why: str


class RecordReader:
    """Finds records in what is read from a spool file, piece by piece. No input or output of its own.

    Call `feed` with successive bytes from `offset` on. What `feed` returns depends on the file's content
    alone, never on how the reads were cut.
    """

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset  # everything before it has been returned or was damage
        self._tail = b""

    def feed(self, chunk: bytes, *, final: bool = False) -> tuple[list[Piece], list[Damage]]:
        """The complete records so far. `final` declares an unfinished tail to be torn."""
        text = self._tail + chunk
        pieces: list[Piece] = []
        damages: list[Damage] = []
        base, at = self.offset, 0
        while at < len(text):
            if text[at : at + 1] != RS:
                start, at = at, text.find(RS, at)
                at = at if at >= 0 else len(text)
                damages.append(Damage(base + start, base + at, "foreign bytes between records"))
                continue
            lf, rs = text.find(LF, at), text.find(RS, at + 1)
            if lf < 0 and rs < 0:
                if len(text) - at <= RECORD_BYTES:
                    break
                damages.append(Damage(base + at, base + len(text), f"record larger than {RECORD_BYTES} bytes"))
                at = len(text)  # what follows up to the next RS counts as foreign bytes
                continue
            if lf < 0 or 0 <= rs < lf:
                damages.append(Damage(base + at, base + rs, "record torn in mid-write"))
                at = rs
                continue
            record = text[at : lf + 1]
            if len(record) > RECORD_BYTES:
                damages.append(Damage(base + at, base + lf + 1, f"record larger than {RECORD_BYTES} bytes"))
            else:
                pieces.append(Piece(channel_of(record), record, base + lf + 1))
            at = lf + 1
        if final and at < len(text):
            damages.append(Damage(base + at, base + len(text), "record torn at the end"))
            at = len(text)
        self._tail = text[at:]
        self.offset = base + at
        return pieces, damages

    @property
    def next_read(self) -> int:
        """The offset from which the next chunk is to be read."""
        return self.offset + len(self._tail)


def channel_of(record: bytes) -> Channel:
    """The channel on which a record travels, by its kind."""
    match = _KIND.match(record)
    return _CHANNELS_BY_KIND.get(match.group(1), FOREIGN_CHANNEL) if match else _slow_channel_of(record)


def _slow_channel_of(record: bytes) -> Channel:
    """For writers that do not put the kind first."""
    try:
        return KIND_CHANNELS.get(json.loads(record.strip(RS + LF))["kind"], FOREIGN_CHANNEL)
    except (ValueError, TypeError, KeyError):
        return FOREIGN_CHANNEL


_LINE_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)


class LineReader:
    """Finds lines in what a program wrote to stdout or stderr: ended by LF, CR LF, or CR (progress bars).

    Where lines are cut depends on the file's content alone, so that a second reader numbers them alike.
    """

    def __init__(self, channel: Channel, offset: int = 0) -> None:
        self.offset = offset
        self._channel = channel
        self._tail = b""

    def feed(self, chunk: bytes, time_s: float, *, final: bool = False) -> list[Piece]:
        """The complete lines so far, stamped with `time_s`. `final` takes an unfinished line as one."""
        text = self._tail + chunk
        pieces: list[Piece] = []
        at = 0
        while at < len(text):
            end = _LINE_END.search(text, at, at + LINE_BYTES + 2)
            if end is not None and end.start() - at <= LINE_BYTES:
                line, after = text[at : end.start()], end.end()
            elif len(text) - at > LINE_BYTES + 1:
                line, after = text[at : at + LINE_BYTES], at + LINE_BYTES
            elif final:
                line, after = text[at : at + LINE_BYTES].rstrip(b"\r\n"), min(len(text), at + LINE_BYTES)
            else:
                break
            at = after
            pieces.append(Piece(self._channel, encode_output(line, time_s), self.offset + at))
        self._tail = text[at:]
        self.offset += at
        return pieces

    @property
    def next_read(self) -> int:
        """The offset from which the next chunk is to be read."""
        return self.offset + len(self._tail)
