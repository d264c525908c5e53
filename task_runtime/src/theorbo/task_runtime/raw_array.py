"""Arrays as programs leave them in files: .npy, and bare numbers to which shape and type are told. Without numpy."""

from __future__ import annotations

import ast
import math
import sys
from typing import Any

from theorbo.schemas.errors import UsageError

_MAGIC = b"\x93NUMPY"
_ALIGNMENT = 64  # of the numbers in the file, as numpy does it
_AXES = 64
_TYPES = {
    "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8", "uint8": "u1", "uint16": "u2", "uint32": "u4",
    "uint64": "u8", "float32": "f4", "float64": "f8", "complex64": "c8", "complex128": "c16",
}  # fmt: skip
TYPES = ", ".join(_TYPES)


def npy(numbers: bytes, dtype: str, shape: Any = None, *, column_major: bool = False) -> bytes:
    """Bare numbers as a file .npy. Without `shape` it is one row. Raises UsageError.

    `dtype` is one of `TYPES`, in the byte order of this machine, unless `>` or `<` stands before it. `column_major` is
    how Fortran, R, MATLAB and Julia lay out arrays.
    """
    given = dtype[:1] in ("<", ">")
    order, name = (dtype[0], dtype[1:]) if given else ("<" if sys.byteorder == "little" else ">", dtype)
    if name not in _TYPES:
        raise UsageError(f"{dtype!r:.80} is no type of numbers; known are {TYPES} (after < or > for the byte order)")
    size = int(_TYPES[name][1:])
    shape = (len(numbers) // size,) if shape is None else _shape(shape)
    if math.prod(shape) * size != len(numbers):
        raise UsageError(
            f"{len(numbers)} bytes are not {' x '.join(map(str, shape))} numbers of type {name}, "
            f"which are {math.prod(shape) * size} bytes"
        )
    description = {"descr": order + _TYPES[name], "fortran_order": column_major, "shape": shape}
    header = repr(description).encode()
    padding = -(len(_MAGIC) + 4 + len(header) + 1) % _ALIGNMENT
    header += b" " * padding + b"\n"
    return _MAGIC + b"\x01\x00" + len(header).to_bytes(2, "little") + header + numbers


def _shape(given: Any) -> tuple[int, ...]:
    if not isinstance(given, (list, tuple)) or not all(type(n) is int and 0 <= n < 2**63 for n in given):
        raise UsageError(f"{given!r:.80} is no shape; whole numbers are wanted, one for each axis")
    if len(given) > _AXES:
        raise UsageError(f"{len(given)} axes are too many; numpy's arrays have at most {_AXES}")
    return tuple(given)


def check_npy(content: bytes, name: str) -> None:
    """Raises UsageError unless this is a file .npy that holds numbers or strings, whole, and no Python objects."""
    try:
        description = _description(content)
        descr = description["descr"]
    except (ValueError, KeyError, SyntaxError, TypeError, IndexError):
        raise UsageError(f"{name} is no file .npy, as its name says: its beginning is damaged") from None
    if "O" in str(descr):
        raise UsageError(f"{name} holds Python objects, which are not sent; save it as numbers or strings")


def _description(content: bytes) -> Any:
    if not content.startswith(_MAGIC):
        raise ValueError
    start, length = (10, 2) if content[6] == 1 else (12, 4)
    size = int.from_bytes(content[8 : 8 + length], "little")
    if len(content) < start + size:
        raise ValueError
    return ast.literal_eval(content[start : start + size].decode("latin-1"))
