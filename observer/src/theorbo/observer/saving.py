"""Results as files: safe names, nothing outside of the directory, nothing overwritten unasked.

A name on disk is made of the names of result and part, of which only letters, digits and `._+=-` remain, and an
extension by MIME type. Files are written beside their place and put there whole.
"""

from __future__ import annotations

import contextlib
import mimetypes
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from theorbo.schemas.errors import Unavailable, UsageError

MANIFEST = "manifest.json"
"""The file that says what the others are."""

_EXTENSIONS = {
    "application/json": ".json",
    "application/x-npy": ".npy",
    "application/octet-stream": ".bin",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/svg+xml": ".svg",
    "application/pdf": ".pdf",
    "text/html": ".html",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
}

_NAME_BYTES = 120  # a file name may have 255; room for a number, an extension and a name while writing


def extension(mime: str) -> str:
    """`.npy`, `.png` …; `.bin` for what is not known."""
    return _EXTENSIONS.get(mime) or mimetypes.guess_extension(mime, strict=True) or ".bin"


def safe_name(text: str) -> str:
    """`text` as a file name: no directory, nothing hidden, nothing unprintable, never empty."""
    kept = "".join(c if c.isalnum() or c in "._+=-" else "_" for c in text).lstrip(".-")
    kept = kept.encode("utf-8", "ignore")[:_NAME_BYTES].decode("utf-8", "ignore").rstrip(".")
    return kept or "result"


class Names:
    """Names of the files of one directory, each given once."""

    def __init__(self) -> None:
        self._given = {MANIFEST.casefold()}

    def give(self, result: str, part: str, mime: str, rank: int | None = None) -> str:
        """A name that was not given before, not even in other letter case; with the rank if one is given."""
        ending = extension(mime)
        stem = safe_name(f"{result}-{part}" if part and part != result else result)
        if stem.casefold().endswith(ending) and len(stem) > len(ending):
            stem = stem[: -len(ending)]
        stem += "" if rank is None else f"-rank{rank}"
        name, number = stem + ending, 2
        while name.casefold() in self._given:
            name, number = f"{stem}-{number}{ending}", number + 1
        self._given.add(name.casefold())
        return name


def make_directory(path: Path) -> None:
    """Make the directory unless there is one. Raises UsageError or Unavailable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--save {path}: that is no directory") from None
    except OSError as error:
        raise Unavailable(f"cannot make the directory {path}: {error.strerror}") from None


def refuse_existing(directory: Path, names: Iterable[str]) -> None:
    """Raises UsageError if one of the files is there already."""
    there = [name for name in names if os.path.lexists(directory / name)]
    if there:
        those = f" and {len(there) - 1} more are" if len(there) > 1 else " is"
        raise UsageError(f"{directory / there[0]}{those} there already; --force overwrites, or save elsewhere")


def write_file(directory: Path, name: str, pieces: Iterable[bytes], *, overwrite: bool) -> int:
    """Write a file whole or not at all; returns its size. Raises UsageError, Unavailable, or what `pieces` raises."""
    target = directory / name
    temporary = None
    try:
        descriptor, written = tempfile.mkstemp(dir=directory, prefix=f".{name}.")
        temporary = Path(written)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            for piece in pieces:
                file.write(piece)
            size = file.tell()
            os.fchmod(descriptor, 0o666 & ~_umask())
        if overwrite:
            temporary.replace(target)
        else:
            refuse_existing(directory, [name])
            temporary.rename(target)
        temporary = None
        return size
    except OSError as error:
        raise Unavailable(f"cannot write {target}: {error.strerror}") from None
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
