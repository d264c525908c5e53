"""Values of a program as parts of a payload (`theorbo.schemas.events.Part`). Never pickle.

What a value becomes, first match wins:

1. what JSON can carry (numpy's scalars included): the value itself, or a JSON attachment if it is large;
2. a numpy array: an attachment in numpy's own format .npy, which holds no Python objects;
3. bytes, and `Content`, which says what its bytes are: an attachment;
4. a `pathlib.Path`: path, size and digest of the file, which is to lie where its readers can see it;
5. what can be saved as a figure (`savefig`), and what shows itself in notebooks (`_repr_mimebundle_`,
   `_repr_html_`, `_repr_png_`): PNG, HTML and so on, as shortened as it is there;
6. a dict or list of such: a part for each item, named `key`, `key.key`, `key.0`;
7. everything else: a part that says why it could not be sent.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from theorbo.schemas.limits import (
    ATTACHMENT_BYTES,
    BEGINNING_CHARACTERS,
    HASHED_FILE_BYTES,
    INLINE_BYTES,
    MIB,
    NAME_CHARACTERS,
    NESTING,
    PARTS,
)
from theorbo.schemas.records import encode_record

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from theorbo.schemas.records import Attachment

JSON = "application/json"
BYTES = "application/octet-stream"
ARRAY = "application/x-npy"
_PROBLEM_CHARACTERS = 500  # so that PARTS of them fit into a record
SENDABLE = "JSON values, numpy arrays, bytes, figures and pathlib.Path can be sent"


class Content(NamedTuple):
    """Bytes of which it is known what they are."""

    mime: str
    content: bytes


class Unsendable(Exception):
    """Why a value cannot be sent, as a sentence."""


class Payload:
    """The parts of one record, their attachments, and what could not be sent."""

    def __init__(self, store: Callable[[bytes], Attachment]) -> None:
        """`store` keeps the bytes of an attachment; it may raise OSError."""
        self.parts: list[dict[str, Any]] = []
        self.attachments: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self._store = store
        self._has_too_many = False
        self._room_bytes = INLINE_BYTES - BEGINNING_CHARACTERS  # for values that stay in the record

    def add(self, value: Any, name: str = "") -> None:
        """Add `value`: one part, or one for each of its items. Raises nothing for what is in `value`."""
        try:
            self._add(value, name)
        except RecursionError:
            self._add_problem(name, JSON, "it contains itself, or is nested too deeply")
        except Exception as error:  # from the value's own attributes
            self._add_problem(name, JSON, f"it could not be looked at: {type(error).__name__}: {error}")

    def add_summary(self, summary: str) -> str:
        """The summary as it stands in the record; a long one becomes a part as well."""
        if len(summary) <= BEGINNING_CHARACTERS:
            return summary
        self._guarded("summary", "text/plain", lambda: self._add_text("summary", "text/plain", summary))
        return summary[:BEGINNING_CHARACTERS] + "…"

    def _add(self, value: Any, name: str) -> None:
        if len(self.parts) >= PARTS:
            if not self._has_too_many:
                self._has_too_many = True
                problem = f"more than {PARTS} parts; save them in one file and give its pathlib.Path"
                self._add_problem(name, JSON, problem)
            return
        if isinstance(value, Content):
            self._guarded(name, value.mime, lambda: self._attach(name, *value))
            return
        try:
            text = _json(value)
        except _NoJson:
            self._add_other(value, name)
        else:
            self._guarded(name, JSON, lambda: self._add_json(name, value, text))

    def _add_other(self, value: Any, name: str) -> None:
        numpy = sys.modules.get("numpy")  # if it is not imported, the value is no array
        if numpy is not None and isinstance(value, getattr(numpy, "ndarray", ())):
            self._guarded(name, ARRAY, lambda: self._attach(name, ARRAY, _npy(numpy, value)))
        elif isinstance(value, (bytes, bytearray, memoryview)):
            self._guarded(name, BYTES, lambda: self._add_bytes(name, value))
        elif hasattr(value, "__fspath__"):
            self._guarded(name, BYTES, lambda: self.parts.append(_named(name, _reference(value))))
        elif callable(getattr(value, "savefig", None)):
            self._guarded(name, "image/png", lambda: self._attach(name, "image/png", _png(value)))
        elif _shows_itself(value):
            self._guarded(name, "text/html", lambda: self._add_bundle(name, _bundle(value)))
        elif isinstance(value, dict):
            self._add_items(name, ((_key(key), item) for key, item in value.items()))
        elif isinstance(value, (list, tuple)):
            self._add_items(name, ((str(index), item) for index, item in enumerate(value)))
        else:
            self._add_problem(name, JSON, f"a value of type {_type_name(value)} cannot be sent; {SENDABLE}")

    def _add_items(self, name: str, items: Iterable[tuple[str, Any]]) -> None:
        for key, item in items:
            self._add(item, f"{name}.{key}" if name else key)

    def _add_json(self, name: str, value: Any, text: bytes) -> None:
        deep = text.count(b"[") + text.count(b"{") > NESTING and _nesting(value) > NESTING
        if deep or not self._takes(len(text)):
            self._attach(name, JSON, text)
        else:
            self.parts.append(_named(name, {"mime": JSON, "value": _plain(value)}))

    def _add_text(self, name: str, mime: str, text: str) -> None:
        payload = text.encode("utf-8", "backslashreplace")
        if self._takes(len(_json(text))):
            self.parts.append(_named(name, {"mime": mime, "text": text}))
        else:
            self._attach(name, mime, payload)

    def _add_bytes(self, name: str, value: bytes | bytearray | memoryview) -> None:
        size = value.nbytes if isinstance(value, memoryview) else len(value)
        _check_size(size, "bytes")
        self._attach(name, BYTES, bytes(value))

    def _add_bundle(self, name: str, bundle: dict[str, Any]) -> None:
        for mime, content in bundle.items():
            if isinstance(content, bytes):
                self._attach(name, mime, content)
            elif isinstance(content, str):
                self._add_text(name, mime, content)
            else:
                self._attach(name, mime, _json(content))

    def _attach(self, name: str, mime: str, payload: bytes) -> None:
        _check_size(len(payload), mime)
        try:
            attachment = self._store(payload)._asdict()
        except OSError as error:
            raise Unsendable(f"{len(payload)} bytes could not be stored: {error.strerror}") from None
        self.parts.append(_named(name, {"mime": mime, **attachment}))
        if attachment not in self.attachments:
            self.attachments.append(attachment)

    def _takes(self, size: int) -> bool:
        fits = size <= self._room_bytes
        self._room_bytes -= size if fits else 0
        return fits

    def _guarded(self, name: str, mime: str, add: Callable[[], None]) -> None:
        """Call `add`; what it raises becomes a problem of this part, and the other parts are kept."""
        try:
            add()
        except Unsendable as why:
            self._add_problem(name, mime, str(why))
        except Exception as error:  # from the value's own methods, or numpy's
            self._add_problem(name, mime, f"it could not be made into {mime}: {type(error).__name__}: {error}")

    def _add_problem(self, name: str, mime: str, problem: str) -> None:
        problem = problem if len(problem) <= _PROBLEM_CHARACTERS else problem[:_PROBLEM_CHARACTERS] + "…"
        self.parts.append(_named(name, {"mime": mime, "problem": problem}))
        self.problems.append(f"part {name[:NAME_CHARACTERS]!r}: {problem}" if name else problem)


class _NoJson(Exception):
    pass


def _json(value: Any) -> bytes:
    """The JSON text of a value. Raises _NoJson; RecursionError if it contains itself."""
    try:
        record = encode_record({"value": value})
    except (TypeError, ValueError):
        record = _json_of_plain(value)
    return record[len(b'\x1e{"value":') : -len(b"}\n")]


def _json_of_plain(value: Any) -> bytes:
    try:
        return encode_record({"value": _plain(value)})
    except (TypeError, ValueError) as error:
        raise _NoJson from error


def _plain(value: Any) -> Any:
    """The value with numpy's scalars, at whatever depth, as Python's."""
    numpy = sys.modules.get("numpy")
    scalars: Any = getattr(numpy, "generic", ())

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {plain(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value.item() if isinstance(value, scalars) and not isinstance(value, bytes) else value

    return plain(value) if numpy is not None else value


def _nesting(value: Any) -> int:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return 0
    return 1 + max(map(_nesting, value), default=0)


def _npy(numpy: Any, array: Any) -> bytes:
    import io

    if array.dtype.hasobject:
        raise Unsendable(f"a numpy array of dtype {array.dtype} holds Python objects; convert it to numbers or strings")
    if hasattr(array, "filled"):
        raise Unsendable("a masked array would lose its mask; send array.filled(…), or data and mask")
    _check_size(array.nbytes, f"a numpy array of shape {array.shape} and dtype {array.dtype}")
    buffer = io.BytesIO()
    numpy.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _png(figure: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _reference(path: os.PathLike[str]) -> dict[str, Any]:
    import hashlib
    import mimetypes
    from pathlib import Path

    place = Path(path).absolute()
    if place.is_dir():
        return {"mime": "inode/directory", "path": str(place)}
    if not place.exists():
        raise Unsendable(f"there is no file {place}")
    if not place.is_file():
        raise Unsendable(f"{place} is neither a file nor a directory")
    mime = mimetypes.guess_type(place.name)[0] or BYTES
    reference = {"mime": mime, "path": str(place), "size": place.stat().st_size}
    if place.stat().st_size <= HASHED_FILE_BYTES:
        digest = hashlib.sha256()
        with place.open("rb") as file:
            for chunk in iter(lambda: file.read(MIB), b""):
                digest.update(chunk)
        reference["sha256"] = digest.hexdigest()
    return reference


_SHOWS = ("_repr_mimebundle_", "_repr_html_", "_repr_png_")


def _shows_itself(value: Any) -> bool:
    return not isinstance(value, type) and any(callable(getattr(value, name, None)) for name in _SHOWS)


def _bundle(value: Any) -> dict[str, Any]:
    """What the value would show in a notebook: content by MIME type."""
    import base64

    bundle: dict[str, Any] = {}
    if callable(getattr(value, "_repr_mimebundle_", None)):
        shown = value._repr_mimebundle_()
        bundle = dict((shown[0] if isinstance(shown, tuple) else shown) or {})
    for mime, method in (("text/html", "_repr_html_"), ("image/png", "_repr_png_")):
        content = None if bundle else getattr(value, method, lambda: None)()
        if content:
            bundle = {mime: content}
    if not bundle:
        raise Unsendable(f"a value of type {_type_name(value)} shows nothing; {SENDABLE}")
    for mime, content in bundle.items():
        if isinstance(content, str) and mime.startswith("image/") and mime != "image/svg+xml":
            bundle[mime] = base64.b64decode(content)  # as notebooks have it
    return bundle


def _check_size(size: int, what: str) -> None:
    if size > ATTACHMENT_BYTES:
        raise Unsendable(
            f"{what}: {size} bytes are more than the {ATTACHMENT_BYTES} that can be sent; "
            "save it to a file and give its pathlib.Path"
        )


def _named(name: str, part: dict[str, Any]) -> dict[str, Any]:
    return {"name": name[:NAME_CHARACTERS], **part} if name else part


def _key(key: Any) -> str:
    try:
        return str(key)
    except Exception:  # its __str__ is not ours
        return f"<{type(key).__name__}>"


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
