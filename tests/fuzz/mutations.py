"""Bad input made from good: golden messages and records, with something wrong in one place or in several.

Every choice comes from `chance`: hypothesis gives one that it can shrink, the long run one with a seed.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from theorbo.schemas.frames import HEADER_BYTES
from theorbo.schemas.limits import LINE_BYTES, RECORD_BYTES

_WIRE = Path(__file__).parents[1] / "wire"

FIELDS = [
    ("magic", 0, 2), ("version", 2, 1), ("flags", 3, 1), ("channel", 4, 1), ("source_kind", 5, 1),
    ("source_index", 6, 4), ("request", 10, 4), ("execution", 14, 16), ("first", 30, 8), ("count", 38, 4),
    ("position", 42, 8), ("sequence", 50, 8), ("time", 58, 8),
]  # fmt: skip
"""Name, offset and size, as in docs/protocol.md."""

assert FIELDS[-1][1] + FIELDS[-1][2] == HEADER_BYTES

_NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 2)
_TIMES = tuple(
    bytes.fromhex(text) for text in ("7ff8000000000000", "7ff0000000000000", "fff0000000000000", "ffefffffffffffff")
)

_MARK = "\u0001raw\u0001"
_DEEP = 100_000
_RAW = (
    "NaN", "Infinity", "-Infinity", "-0", "1e999", "9" * 30, "9" * 400, "9" * 5000, "-" + "9" * 5000,
    "[" * _DEEP + "]" * _DEEP, '{"a":' * 3000 + "1" + "}" * 3000, "[" * 70 + "]" * 70, "[" * 50,
    '"\\ud800"', '"\\udfff x"', '"\\u0000"', "'single'", "nul", "", "1 2", '{"a":1,"a":2}',
)  # fmt: skip
"""JSON, or nearly, that Python's own encoder does not write."""

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 1.5, -0.0, 1e308, "", "x", "\x00",
    "\x1b[2J", "rank:-1/log", "rank:99999999999/log", "broker", "../../etc/passwd", "x" * 300, "é" * 5000,
    "\x01" * 70_000,
    [], {}, [None], [[]], [1, "2"], {"": None}, {"a": {"b": []}}, ["x"] * 2000, {str(n): n for n in range(1500)},
)  # fmt: skip


@cache
def golden_messages() -> tuple[tuple[bytes, bytes, bytes], ...]:
    """The frames of tests/wire/messages.json."""
    return tuple(
        (
            case["command"].encode(),
            bytes.fromhex(case["header"]),
            bytes.fromhex(case["body_hex"]) if "body_hex" in case else case["body"].encode(),
        )
        for case in json.loads((_WIRE / "messages.json").read_text())
    )


@cache
def golden_records() -> tuple[bytes, ...]:
    """The records of tests/wire/records.json."""
    cases = json.loads((_WIRE / "records.json").read_text())
    return tuple(case["record"].encode() for case in [*cases["ours"], *cases["of_other_writers"]])


# --- bytes -----------------------------------------------------------------------------------------


def damaged(chance: Random, data: bytes) -> bytes:
    """Bytes with a flipped bit, a piece cut out, doubled, moved, or something foreign between them."""
    if not data:
        return foreign(chance)
    at = chance.randrange(len(data))
    end = min(len(data), at + chance.choice((1, 2, 8, 64, len(data))))
    match chance.randrange(6):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + data[end:]
        case 2:
            return data[:at]
        case 3:
            return data[:end] + data[at:]
        case 4:
            return data[:at] + foreign(chance) + data[at:]
        case _:
            return data[at:] + data[:at]


def foreign(chance: Random) -> bytes:
    """What stands in other people's files."""
    return chance.choice((
        b"\x00", b"\x1e", b"\n", b"\x1e\n", b"\x1e\x1e\n\n", b"\r\n", b"\xff\xfe", b"\x7fELF\x02\x01\x01",
        b"plain text\n",
        b"\x1e{}\n", b"\x1e[]\n", b"\x1enull\n", b'\x1e{"kind":"rank_started"\n', b'\x1e{"kind": "rank_ended"}\n',
        b"\x1e" + b"[" * 3000 + b"\n", b'\x1e{"kind":"rank_started","x":' + b"[" * 60_000 + b"]" * 60_000 + b"}\n",
        b'\x1e{"time":1,"x":' + b"[" * 60_000 + b',"kind":"log"}\n',
        b'\x1e{"kind":"result","time":1,"attachments":' + b"[" * 60_000 + b"}\n",
        b"\x1e" + b"x" * RECORD_BYTES + b"\n", b"\x1e" + b"x" * (RECORD_BYTES - 2) + b"\n", b"x" * (LINE_BYTES + 3),
        b"\x00" * 5000, chance.randbytes(chance.randrange(40)),
    ))  # fmt: skip


# --- JSON ------------------------------------------------------------------------------------------


def hostile_object(chance: Random, text: bytes) -> bytes:
    """A JSON object with another value in one of its fields, at whatever depth; or without, or with one more."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return damaged(chance, text)
    if not isinstance(fields, dict) or not fields:
        return damaged(chance, text)
    raw = _MARK
    holder: Any = fields
    while True:
        key = chance.choice(sorted(holder)) if isinstance(holder, dict) else chance.randrange(len(holder))
        if isinstance(holder[key], (dict, list)) and holder[key] and chance.random() < 0.6:
            holder = holder[key]
            continue
        break
    match chance.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(("", "\x00", "kind", "time", "execution", "x" * 100))] = chance.choice(_VALUES)
        case 2 | 3 | 4:
            holder[key] = _MARK
            raw = chance.choice(_RAW)
        case _:
            holder[key] = chance.choice(_VALUES)
    try:
        dumped = json.dumps(fields, ensure_ascii=chance.random() < 0.5, separators=(",", ":"))
    except RecursionError:
        return text
    return dumped.replace(json.dumps(_MARK), raw).encode("utf-8", "surrogatepass")


def hostile_record(chance: Random) -> bytes:
    """A golden record, perhaps with something wrong inside, perhaps with a torn frame."""
    record = chance.choice(golden_records())
    if chance.random() < 0.6:
        record = b"\x1e" + hostile_object(chance, record[1:-1]) + b"\n"
    if chance.random() < 0.2:
        record = damaged(chance, record)
    return record


def hostile_file(chance: Random, records: int) -> bytes:
    """The content of a spool file: golden records, foreign bytes and torn ones between them."""
    out = []
    for _ in range(chance.randrange(records + 1)):
        kind = chance.random()
        if kind < 0.5:
            out.append(chance.choice(golden_records()))
        elif kind < 0.8:
            out.append(hostile_record(chance))
        else:
            out.append(foreign(chance))
    return b"".join(out)


def chunks(chance: Random, data: bytes) -> list[bytes]:
    """The same bytes in pieces of arbitrary size."""
    out, at = [], 0
    while at < len(data):
        size = chance.choice((1, 2, 3, 7, 64, 1000, 4096, 70_000, 256 * 1024))
        out.append(data[at : at + size])
        at += size
    return out


# --- messages --------------------------------------------------------------------------------------


def with_field(header: bytes, name: str, value: bytes | int) -> bytes:
    """A header with other bytes in one field."""
    _, offset, size = next(field for field in FIELDS if field[0] == name)
    data = value if isinstance(value, bytes) else (value % 256**size).to_bytes(size, "big")
    return header[:offset] + data + header[offset + size :]


def hostile_header(chance: Random, header: bytes) -> bytes:
    """A header with an unlikely value in a field, or that is none."""
    if chance.random() < 0.1:
        return damaged(chance, header)
    name, _, size = chance.choice(FIELDS)
    if name == "time":
        return with_field(header, name, chance.choice(_TIMES))
    if name == "execution":
        return with_field(header, name, chance.choice((bytes(16), b"\xff" * 16, chance.randbytes(16))))
    return with_field(header, name, chance.choice(_NUMBERS) if size > 1 else chance.randrange(256))


def hostile_body(chance: Random, body: bytes) -> bytes:
    """A body with something wrong: in its object, or in one of its records."""
    if body[:1] == b"{":
        return hostile_object(chance, body)
    if body[:1] == b"\x1e" and chance.random() < 0.6:
        texts = body[1:-1].split(b"\n\x1e")
        at = chance.randrange(len(texts))
        texts[at] = hostile_object(chance, texts[at])
        return b"\x1e" + b"\n\x1e".join(texts) + b"\n"
    return damaged(chance, body)


def hostile_frames(chance: Random, frames: tuple[bytes, bytes, bytes]) -> list[bytes]:
    """A message with something wrong in one of its frames, or in their number."""
    command, header, body = frames
    match chance.randrange(12):
        case 0:
            everything = [command, header, body, *(damaged(chance, body) for _ in range(chance.randrange(3)))]
            return everything[: chance.randrange(len(everything) + 1)]
        case 1:
            command = chance.choice((b"", b"hello", b"\xff" * 300, b"WELCOME", b"PUT ", damaged(chance, command)))
        case 2 | 3 | 4:
            header = hostile_header(chance, header)
        case 5:
            header, body = hostile_header(chance, header), hostile_body(chance, body)
        case _:
            body = hostile_body(chance, body)
    return [command, header, body]
