"""Room of a file on its file system: given back in part, or taken in advance. Linux, by fallocate(2)."""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(descriptor: int, offset: int, length: int) -> bool:
    """Give back a range of a file, which then reads as zeros; its size and all offsets stay as they are.

    False if this file system cannot do it. Raises OSError for what else goes wrong.
    """
    return _fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, offset, length)


def reserve(descriptor: int, length: int) -> bool:
    """Allocate the first `length` bytes, so that writing there needs no room later. The size stays.

    False if this file system cannot do it. Raises OSError, for a full disk above all.
    """
    return _fallocate(descriptor, _KEEP_SIZE, 0, length)


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> bool:
    if _libc.fallocate(descriptor, mode, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number))
