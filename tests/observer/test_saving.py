"""Names and files that a result becomes, whatever it is called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theorbo.observer.saving import MANIFEST, Names, make_directory, refuse_existing, safe_name, write_file
from theorbo.schemas.errors import Unavailable, UsageError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("catalogue", "catalogue"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("/etc/passwd", "_etc_passwd"),
        (".hidden", "hidden"),
        ("--force", "force"),
        ("a\x1b[2Jb\n", "a__2Jb_"),
        ("", "result"),
        ("...", "result"),
        ("Größe", "Größe"),
        ("x" * 1000, "x" * 120),
    ],
)
def test_names_stay_inside_of_the_directory(text, name):
    assert safe_name(text) == name


@given(st.lists(st.tuples(st.text(), st.text(), st.sampled_from(["image/png", "application/x-npy", "a/b"]))))
def test_any_names_become_distinct_plain_file_names(triples):
    names = Names()
    given_names = [names.give(*triple) for triple in triples]
    assert len({name.casefold() for name in given_names} | {MANIFEST}) == len(given_names) + 1
    for name in given_names:
        assert Path(name).name == name
        assert name not in (".", "..")
        assert not name.startswith(".")
        assert len(os.fsencode(name)) < 200


def test_an_extension_is_not_written_twice():
    assert Names().give("catalogue.npy", "", "application/x-npy") == "catalogue.npy"
    assert Names().give("result", "figure", "image/png") == "result-figure.png"


def test_a_rank_stands_behind_the_name_however_long_that_is():
    names = Names()
    assert names.give("catalogue.npy", "", "application/x-npy", 3) == "catalogue-rank3.npy"
    assert names.give("result", "figure", "image/png", 0) == "result-figure-rank0.png"
    assert names.give("x" * 1000, "", "image/png", 12).endswith("x-rank12.png")


def test_nothing_is_overwritten_unasked(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(UsageError, match=r"a\.bin is there already; --force"):
        refuse_existing(tmp_path, ["b.bin", "a.bin"])
    with pytest.raises(UsageError, match=r"a\.bin and 1 more are there already; --force"):
        refuse_existing(tmp_path, ["a.bin", "a.bin"])
    with pytest.raises(UsageError, match="--force"):
        write_file(tmp_path, "a.bin", [b"new"], overwrite=False)
    assert (tmp_path / "a.bin").read_bytes() == b"old"
    assert write_file(tmp_path, "a.bin", [b"ne", b"w"], overwrite=True) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"old")
    (tmp_path / "a.bin").symlink_to(tmp_path / "elsewhere")
    write_file(tmp_path, "a.bin", [b"new"], overwrite=True)
    assert (tmp_path / "elsewhere").read_bytes() == b"old"
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_a_file_whose_source_fails_is_not_left_half_written(tmp_path):
    def pieces():
        yield b"beginning"
        raise Unavailable("the broker is gone")

    with pytest.raises(Unavailable, match="the broker is gone"):
        write_file(tmp_path, "a.bin", pieces(), overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="no directory"):
        make_directory(tmp_path / "file")
    with pytest.raises(UsageError, match="no directory"):
        make_directory(tmp_path / "file" / "below")
