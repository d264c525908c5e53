"""Ids of executions: UUID version 7 (RFC 9562, section 5.7), so that they sort by time."""

from __future__ import annotations

import os
import time

_VERSION = 0x7
_VARIANT = 0b10


def new_execution(unix_ms: int | None = None, random_bytes: bytes | None = None) -> bytes:
    """16 bytes: 48 bits of Unix time in milliseconds, version, 12 random bits, variant, 62 random bits.

    `unix_ms` and `random_bytes` (10 bytes) are those of the moment unless given.
    """
    milliseconds = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    random = int.from_bytes(os.urandom(10) if random_bytes is None else random_bytes, "big")
    rand_a, rand_b = random >> 68, random & ((1 << 62) - 1)
    value = milliseconds << 80 | _VERSION << 76 | rand_a << 64 | _VARIANT << 62 | rand_b
    return value.to_bytes(16, "big")
