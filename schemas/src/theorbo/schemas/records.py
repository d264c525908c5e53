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

from theorbo.schemas.limits import COUNT, LINE_BYTES, RECORD_BYTES
from theorbo.schemas.names import FOREIGN_CHANNEL, KIND_CHANNELS, OUTPUT_KIND, Channel

RS = b"\x1e"
LF = b"\n"

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_KIND = re.compile(rb'\x1e\{"kind": ?"([a-z_]+)"')
_DIGEST = re.compile("[0-9a-f]{64}")
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
    """The attachments that a record names (see `docs/protocol.md`, section Attachments); usually none.

    Where one of them is none, neither a digest nor a size, none is.
    """
    if b'"attachments"' not in record:
        return []
    try:
        named = json.loads(record.strip(RS + LF)).get("attachments", [])
        found = [Attachment(item["sha256"], item["size"]) for item in named]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
    return found if all(map(_is_attachment, found)) else []


def _is_attachment(item: Attachment) -> bool:
    """A stranger's record may name anything; the digest becomes the name of a file."""
    digest, size = item
    is_size = isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= COUNT
    return is_size and isinstance(digest, str) and _DIGEST.fullmatch(digest) is not None


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

    Call `feed` with successive bytes from `next_read` on. What is found depends on the file's content
    alone, never on how the reads were cut: damage reaches to the next RS, or to the LF that ends a record
    which is too large.
    """

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset  # everything before it has been returned; a later reader can start here
        self.next_read = offset
        """The offset from which the next chunk is to be read."""
        self._tail = b""  # what has been read and not been returned, unless it is being skipped
        self._skipping = ""  # why what lies between `offset` and `next_read` is damage; empty: it is not

    def feed(self, chunk: bytes, *, final: bool = False) -> tuple[list[Piece], list[Damage]]:
        """The complete records so far. `final` declares an unfinished tail to be damaged."""
        text = self._tail + chunk
        base, at = self.next_read - len(self._tail), 0  # `base`: the offset of text[0]
        self.next_read += len(chunk)
        pieces: list[Piece] = []
        damages: list[Damage] = []
        while at < len(text):
            if not self._skipping and text[at : at + 1] != RS:
                self._skipping = _FOREIGN
            if self._skipping:
                end = _end_of_damage(text, at, self._skipping)
                if end is None:
                    at = len(text)
                    break
                damages.append(Damage(self.offset, base + end, self._skipping))
                self._skipping, at, self.offset = "", end, base + end
                continue
            lf, rs = text.find(LF, at), text.find(RS, at + 1)
            whole = lf >= 0 and (rs < 0 or lf < rs)
            end = lf + 1 if whole else rs
            if end < 0 and len(text) - at <= RECORD_BYTES:
                break
            if end < 0 or end - at > RECORD_BYTES:
                self._skipping = _TOO_LARGE
                at += 1  # else its own RS would end it
                continue
            if whole:
                record = text[at:end]
                pieces.append(Piece(channel_of(record), record, base + end))
            else:
                damages.append(Damage(base + at, base + end, _TORN))
            at, self.offset = end, base + end
        self._tail = text[at:]
        if final and self.offset < self.next_read:
            damages.append(Damage(self.offset, self.next_read, self._skipping or _TORN))
            self._tail, self._skipping, self.offset = b"", "", self.next_read
        return pieces, damages


_FOREIGN = "foreign bytes between records"
_TOO_LARGE = f"record larger than {RECORD_BYTES} bytes"
_TORN = "record torn in mid-write"


def _end_of_damage(text: bytes, at: int, why: str) -> int | None:
    lf, rs = (text.find(LF, at) if why is _TOO_LARGE else -1), text.find(RS, at)
    ends = [end for end in (lf + 1 if lf >= 0 else -1, rs) if end >= 0]
    return min(ends) if ends else None


def channel_of(record: bytes) -> Channel:
    """The channel on which a record travels, by its kind."""
    match = _KIND.match(record)
    return _CHANNELS_BY_KIND.get(match.group(1), FOREIGN_CHANNEL) if match else _slow_channel_of(record)


def _slow_channel_of(record: bytes) -> Channel:
    """For writers that do not put the kind first."""
    try:
        return KIND_CHANNELS.get(json.loads(record.strip(RS + LF))["kind"], FOREIGN_CHANNEL)
    except (ValueError, TypeError, KeyError, RecursionError):
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
