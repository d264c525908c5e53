"""What an array says of itself, without unpickling or evaluating anything."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theorbo.observer.npy import npy_header


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [np.zeros((3, 4)), np.array(5, dtype="u1"), np.zeros(0, dtype="c8"), np.zeros((2, 3, 4), dtype=">i2", order="F")],
)
def test_shape_and_type_are_read_from_the_beginning(array):
    header = npy_header(npy(array)[:200])
    assert header is not None
    assert header.shape == array.shape
    assert np.dtype(header.dtype) == array.dtype


def test_a_structured_type_is_told_with_its_fields():
    header = npy_header(npy(np.zeros(3, dtype=[("x", "f8"), ("y", "i4")])))
    assert header == ((3,), "[('x', '<f8'), ('y', '<i4')]")


@given(st.binary() | st.binary().map(lambda tail: b"\x93NUMPY\x01\x00" + tail))
def test_what_is_no_array_has_no_header(beginning):
    assert npy_header(beginning) is None


def test_code_in_a_header_is_not_executed():
    text = b"{'descr': __import__('os').getcwd(), 'shape': (1,)}"
    assert npy_header(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text) is None
