"""What becomes of a program's values."""

from __future__ import annotations

import hashlib
import io
import json

import matplotlib as mpl
import numpy as np
import pytest

from theorbo.schemas.events import Part
from theorbo.schemas.limits import ATTACHMENT_BYTES, INLINE_BYTES, NESTING, PARTS, RECORD_BYTES
from theorbo.schemas.records import Attachment, encode_record
from theorbo.task_runtime.payload import Payload


class Sent:
    """A payload, and what it left in the spool."""

    def __init__(self, value: object) -> None:
        self.stored: dict[str, bytes] = {}
        self.payload = Payload(self._store)
        self.payload.add(value)
        self.parts = [Part.model_validate(part) for part in self.payload.parts]
        assert len(encode_record({"kind": "result", "parts": self.payload.parts})) <= RECORD_BYTES

    def _store(self, content: bytes) -> Attachment:
        digest = hashlib.sha256(content).hexdigest()
        self.stored[digest] = content
        return Attachment(digest, len(content))

    @property
    def part(self) -> Part:
        (part,) = self.parts
        return part

    def content(self, part: Part) -> bytes:
        return self.stored[part.sha256 or ""]


@pytest.mark.parametrize("value", [0, 1.5, True, "text", "", [], {}, [1, [2, {"a": None}]], {"a": {"b": "c"}}])
def test_a_json_value_stays_in_the_record(value):
    sent = Sent(value)
    assert (sent.part.mime, sent.part.value) == ("application/json", value)
    assert sent.stored == {}


def test_numpy_scalars_are_json_at_any_depth():
    value = {"n": np.int64(3), "x": [np.float32(0.5), {np.int32(4): np.bool_(True)}], "s": np.str_("text")}
    assert Sent(value).part.value == {"n": 3, "x": [0.5, {4: True}], "s": "text"}


def test_a_large_json_value_is_an_attachment():
    value = list(range(50_000))
    sent = Sent(value)
    assert sent.part.mime == "application/json"
    assert json.loads(sent.content(sent.part)) == value
    assert sent.payload.attachments == [{"sha256": sent.part.sha256, "size": sent.part.size}]


def test_a_json_value_that_decoders_would_refuse_in_a_record_is_an_attachment():
    value: list = []
    for _ in range(NESTING + 10):
        value = [value]
    assert Sent(value).part.sha256


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4),
        np.arange(100.0)[::-3],
        np.array(7.5),
        np.zeros((0, 3), dtype="<i2"),
        np.array([(1, 2.5, b"ab")], dtype=[("n", "i4"), ("x", "f8"), ("s", "S2")]),
        np.asfortranarray(np.eye(3)),
        np.array(["2026-11-22"], dtype="datetime64[D]"),
        np.array([1 + 2j]),
    ],
    ids=["plain", "strided", "zero-d", "empty", "structured", "fortran", "dates", "complex"],
)
def test_an_array_arrives_as_it_was(array):
    sent = Sent(array)
    assert sent.part.mime == "application/x-npy"
    back = np.load(io.BytesIO(sent.content(sent.part)), allow_pickle=False)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([object()]), ["dtype object", "Python objects"]),
        (np.ma.masked_array([1, 2], [True, False]), ["mask", "filled"]),
        ({1, 2}, ["type set", "JSON values, numpy arrays, bytes, figures and pathlib.Path"]),
        (1j, ["complex"]),
        (print, ["builtin_function_or_method"]),
        (bytes(ATTACHMENT_BYTES + 1), [str(ATTACHMENT_BYTES + 1), "pathlib.Path"]),
        (np.zeros(ATTACHMENT_BYTES + 1, dtype="u1"), [str(ATTACHMENT_BYTES + 1), "pathlib.Path"]),
    ],
    ids=["objects", "masked", "set", "complex", "function", "bytes", "array"],
)
def test_what_cannot_be_sent_says_so_and_names_the_way_out(value, words):
    sent = Sent(value)
    for word in words:
        assert word in (sent.part.problem or "")
    assert sent.payload.problems == [sent.part.problem]


def test_any_bytes_arrive_as_they_were():
    content = bytes(range(256)) * 3
    for value in (content, bytearray(content), memoryview(content)):
        sent = Sent(value)
        assert (sent.part.mime, sent.content(sent.part)) == ("application/octet-stream", content)


def test_a_path_is_sent_by_reference(tmp_path, monkeypatch):
    (tmp_path / "scan 1.html").write_bytes(b"<p>")
    monkeypatch.chdir(tmp_path)
    part = Sent(tmp_path.__class__("scan 1.html")).part
    assert (part.path, part.size, part.mime) == (str(tmp_path / "scan 1.html"), 3, "text/html")
    assert part.sha256 == hashlib.sha256(b"<p>").hexdigest()
    assert Sent(tmp_path).part.mime == "inode/directory"
    assert "no file" in (Sent(tmp_path / "nothing").part.problem or "")


def test_a_figure_is_a_png():
    mpl.use("Agg")
    from matplotlib.figure import Figure

    sent = Sent(Figure())
    assert sent.part.mime == "image/png"
    assert sent.content(sent.part).startswith(b"\x89PNG")


def test_what_shows_itself_in_notebooks_is_sent_as_it_is_shown():
    class Html:
        def _repr_html_(self):
            return "<b>text</b>"

    class Bundle:
        def _repr_mimebundle_(self, **_):
            return {"text/plain": "x", "image/png": "AAEC", "application/vnd.plot+json": {"a": 1}}, {}

    assert (Sent(Html()).part.mime, Sent(Html()).part.text) == ("text/html", "<b>text</b>")
    sent = Sent(Bundle())
    assert [part.mime for part in sent.parts] == ["text/plain", "image/png", "application/vnd.plot+json"]
    assert sent.content(sent.parts[1]) == b"\x00\x01\x02"
    assert json.loads(sent.content(sent.parts[2])) == {"a": 1}


def test_a_dict_that_is_not_all_json_is_a_part_for_each_key_and_the_good_ones_are_kept():
    sent = Sent({"n": 3, "image": np.eye(2), "bad": {1}, "more": {"raw": b"x", "list": [1, b"y"]}})
    assert [part.name for part in sent.parts] == ["n", "image", "bad", "more.raw", "more.list.0", "more.list.1"]
    assert [bool(part.problem) for part in sent.parts] == [False, False, True, False, False, False]
    assert sent.payload.problems[0].startswith("part 'bad': a value of type set")


def test_many_values_that_are_small_alone_do_not_outgrow_a_record():
    sent = Sent({**{f"value {n}": "x" * 10_000 for n in range(50)}, "bytes": b""})
    assert len(sent.parts) == 51
    assert sum(part.sha256 is None for part in sent.parts) * 10_000 < INLINE_BYTES


def test_too_many_parts_are_one_problem():
    sent = Sent([b"x"] * (PARTS + 100))
    assert len(sent.parts) == PARTS + 1
    assert "more than 100 parts" in (sent.parts[-1].problem or "")


def test_what_contains_itself_is_a_problem():
    value: list = [1]
    value.append(value)
    assert "contains itself" in (Sent(value).part.problem or "")
    mixed: dict = {"set": {1}}
    mixed["self"] = mixed
    assert "contains itself" in (Sent(mixed).parts[-1].problem or "")


def test_a_value_whose_methods_fail_is_a_problem():
    class Broken:
        def savefig(self, *_args, **_options):
            raise RuntimeError("no canvas")

    class Worse:
        def __getattr__(self, name):
            raise RuntimeError("no attributes")

    assert "RuntimeError: no canvas" in (Sent(Broken()).part.problem or "")
    assert "RuntimeError: no attributes" in (Sent(Worse()).part.problem or "")


def test_a_full_disk_is_a_problem_of_the_part_and_the_rest_is_kept():
    def refuse(_content: bytes) -> Attachment:
        raise OSError(28, "No space left on device")

    payload = Payload(refuse)
    payload.add({"n": 1, "raw": b"xyz"})
    assert payload.parts[0] == {"name": "n", "mime": "application/json", "value": 1}
    assert "No space left on device" in payload.parts[1]["problem"]


def test_a_long_summary_is_a_part_as_well():
    sent = Sent({})
    short = sent.payload.add_summary("long " * 5000)
    assert len(short) < 5000
    assert sent.payload.parts[-1]["name"] == "summary"
    assert sent.payload.parts[-1].get("text", "") == "long " * 5000
