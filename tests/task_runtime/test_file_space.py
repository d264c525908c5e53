from __future__ import annotations

import os

from theorbo.schemas.limits import MIB
from theorbo.task_runtime.file_space import punch_hole, reserve


def test_a_hole_gives_room_back_and_keeps_size_and_offsets(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * (4 * MIB))
    before = path.stat().st_blocks
    with path.open("r+b") as file:
        if not punch_hole(file.fileno(), MIB, 2 * MIB):
            return  # this file system cannot
    assert path.stat().st_size == 4 * MIB
    assert path.stat().st_blocks < before
    assert path.read_bytes() == b"x" * MIB + bytes(2 * MIB) + b"x" * MIB


def test_room_can_be_taken_in_advance_without_growing(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    if reserve(descriptor, MIB):
        assert os.fstat(descriptor).st_blocks * 512 >= MIB
    assert os.fstat(descriptor).st_size == 0
    os.close(descriptor)
