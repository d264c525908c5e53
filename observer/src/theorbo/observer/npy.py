"""What an .npy file says of its array, without numpy and without executing anything."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

_NPY_HEADER_BYTES = 10_000  # numpy's own limit


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
