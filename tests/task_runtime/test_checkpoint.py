from __future__ import annotations

import os

import pytest

from theorbo.schemas.limits import CHECKPOINT_BYTES
from theorbo.task_runtime.checkpoint import CheckpointFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint"


def test_the_last_that_was_saved_is_found(path):
    assert CheckpointFile(path).content is None
    writer = CheckpointFile(path)
    for number in range(5):
        assert writer.save({"number": number})
    assert CheckpointFile(path).content == {"number": 4}


def test_a_write_that_was_torn_leaves_the_one_before(path):
    writer = CheckpointFile(path)
    for number in range(3):
        writer.save({"number": number, "padding": "x" * 100})
    text = path.read_bytes()
    place = text.index(b'"number":2')
    path.write_bytes(text[:place] + bytes(50) + text[place + 50 :])
    assert CheckpointFile(path).content["number"] == 1


def test_writes_that_fail_one_after_the_other_leave_the_last_that_did_not(path, monkeypatch):
    """A disk that gives no room, and one that fails in the middle."""
    writer = CheckpointFile(path)
    for number in range(3):
        assert writer.save({"number": number, "padding": "x" * 100})
    pwrite = os.pwrite
    with monkeypatch.context() as failing:
        failing.setattr(os, "pwrite", lambda descriptor, text, place: pwrite(descriptor, text[:80], place))
        for number in range(3, 7):
            assert not writer.save({"number": number, "padding": "y" * 100})
            assert CheckpointFile(path).content["number"] == 2
    assert writer.save({"number": 7})
    assert CheckpointFile(path).content == {"number": 7}


@pytest.mark.parametrize("text", [b"", b"x" * 1000, b"1 2 3\n", b"-1 -1 -1\n" + bytes(CHECKPOINT_BYTES * 2)])
def test_what_cannot_be_understood_is_nothing(path, text):
    path.write_bytes(text)
    assert CheckpointFile(path).content is None
    assert CheckpointFile(path).save([1])
    assert CheckpointFile(path).content == [1]


def test_it_is_written_in_place(path):
    writer = CheckpointFile(path)
    before = path.stat()
    for number in range(10):
        writer.save({"number": number})
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_blocks) == (before.st_ino, before.st_size, before.st_blocks)
    assert before.st_blocks * 512 >= 2 * CHECKPOINT_BYTES


def test_one_that_needs_more_room_gets_it_and_loses_nothing(path):
    writer = CheckpointFile(path)
    writer.save({"number": 1})
    large = {"number": 2, "padding": "x" * 3 * CHECKPOINT_BYTES}
    assert writer.save(large)
    assert CheckpointFile(path).content == large
    assert sorted(os.listdir(path.parent)) == ["checkpoint"]


def test_without_room_for_more_the_one_before_stays(path, small_disk):
    writer = CheckpointFile(small_disk / "checkpoint")
    writer.save({"number": 1})
    assert not writer.save({"padding": "x" * 900_000})
    assert writer.save({"number": 2})
    assert CheckpointFile(small_disk / "checkpoint").content == {"number": 2}
    assert sorted(os.listdir(small_disk)) == ["checkpoint"]
