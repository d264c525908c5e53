"""Attachments: files beside the journal, each named by the SHA-256 of what is in it.

`attachments/ab/abcdef…` is complete, checked and on disk; `attachments/parts/EXECUTION-abcdef…` is on its
way. A thread of its own does the work, so that a large file never holds up commits or conversations. What may
wait for it is bounded by whoever asks (`payloads`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from theorbo.broker.values import ChunkRead, ChunkStored, Input, ReadChunk, Reference, StoreChunk
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.frames import ErrorCode
from theorbo.schemas.limits import PART_S, PROMISE_S


class Attachments:
    """The directory of attachments. `report` is called from its thread."""

    def __init__(self, directory: Path, report: Callable[[Input], None]) -> None:
        """Make the directory if there is none. Raises Unavailable."""
        self._directory = directory
        self._parts = directory / "parts"
        try:
            self._parts.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unavailable(f"cannot make directory {self._parts}: {error.strerror}") from None
        self._report = report
        self._work: queue.SimpleQueue[tuple[StoreChunk | ReadChunk | bytes, int | None] | None] = queue.SimpleQueue()
        self._begun: set[Path] = set()
        """Parts whose every byte came to this run of the broker."""
        self._promised: dict[bytes, float] = {}
        """When something was reported complete: a reference to it may be on its way to the journal."""
        self._thread = threading.Thread(target=self._run, name="attachments", daemon=True)
        self._thread.start()

    def store(self, wish: StoreChunk) -> None:
        """Write a chunk; ChunkStored is reported."""
        self._work.put((wish, None))

    def read(self, wish: ReadChunk, size: int | None) -> None:
        """Read a chunk of an attachment of `size` bytes (None: there is none); ChunkRead is reported."""
        self._work.put((wish, size))

    @property
    def alive(self) -> bool:
        """Whether anything will still be stored or read."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Finish what is queued."""
        self._work.put(None)
        self._thread.join()

    def digests(self) -> Iterable[bytes]:
        """Of everything that is stored."""
        for place in self._directory.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(ValueError):  # a file of somebody else's
                yield bytes.fromhex(place.name)

    def remove(self, sha256: bytes) -> None:
        """Nobody refers to it any more: it goes, unless somebody has just been told that it is there."""
        self._work.put((sha256, None))

    # --- its thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        tidy_at = time.monotonic()
        while True:
            if time.monotonic() >= tidy_at:
                tidy_at = time.monotonic() + PROMISE_S
                self._forget_old_promises()
                self._give_up_old_parts()
            try:
                work = self._work.get(timeout=PROMISE_S)
            except queue.Empty:
                continue
            if work is None:
                return
            wish, size = work
            match wish:
                case StoreChunk():
                    stored = self._store(wish)
                    if stored.complete:
                        self._promised[stored.reference.sha256] = time.monotonic()
                    self._report(stored)
                case ReadChunk():
                    self._report(self._read(wish, size))
                case bytes():
                    self._remove(wish)

    def _store(self, wish: StoreChunk) -> ChunkStored:
        reference, offset, data = wish.chunk
        part = self._parts / f"{reference.execution.hex()}-{reference.sha256.hex()}"
        try:
            with contextlib.suppress(FileNotFoundError):
                size = self._place(reference.sha256).stat().st_size
                if size != reference.size:
                    why = f"attachment {reference.sha256.hex()} has {size} bytes, not {reference.size}"
                    return ChunkStored(wish.peer, reference, 0, complete=False, refusal=(ErrorCode.MALFORMED, why))
                return ChunkStored(wish.peer, reference, size, complete=True)
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "r+b") as file:  # noqa: PTH123 - a descriptor, not a path
                received = os.fstat(descriptor).st_size
                if offset == received and data:
                    if received == 0:
                        self._begun.add(part)
                    received = file.seek(0, os.SEEK_END) + file.write(data[: reference.size - received])
                    file.flush()
                if received < reference.size:
                    return ChunkStored(wish.peer, reference, received, complete=False)
                os.fsync(descriptor)
            return self._complete(wish.peer, reference, part)
        except OSError as error:
            why = f"cannot store the attachment: {error.strerror}"
            return ChunkStored(wish.peer, reference, 0, complete=False, refusal=(ErrorCode.JOURNAL, why))

    def _complete(self, peer: bytes, reference: Reference, part: Path) -> ChunkStored:
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        begun_here = part in self._begun
        self._begun.discard(part)
        if digest != reference.sha256:
            part.unlink()
            if not begun_here:  # the machine may have crashed over it: the sender begins again
                return ChunkStored(peer, reference, 0, complete=False)
            why = f"attachment {reference.sha256.hex()} has digest {digest.hex()}; it is to be sent again"
            return ChunkStored(peer, reference, 0, complete=False, refusal=(ErrorCode.MALFORMED, why))
        place = self._place(reference.sha256)
        if not place.parent.exists():
            place.parent.mkdir(mode=0o700)
            _sync(self._directory)
        part.rename(place)
        _sync(place.parent)
        return ChunkStored(peer, reference, reference.size, complete=True)

    def _read(self, wish: ReadChunk, size: int | None) -> ChunkRead:
        if size is None:
            return ChunkRead(wish.peer, wish.header, 0, None)
        try:
            with self._place(wish.sha256).open("rb") as file:
                file.seek(wish.header.first)
                return ChunkRead(wish.peer, wish.header, size, file.read(wish.header.count))
        except OSError:
            return ChunkRead(wish.peer, wish.header, 0, None)

    def _forget_old_promises(self) -> None:
        before = time.monotonic() - PROMISE_S
        self._promised = {digest: at for digest, at in self._promised.items() if at > before}

    def _remove(self, sha256: bytes) -> None:
        self._forget_old_promises()
        if sha256 not in self._promised:
            with contextlib.suppress(OSError):  # the sweep after the next start tries again
                self._place(sha256).unlink(missing_ok=True)

    def _place(self, sha256: bytes) -> Path:
        return self._directory / sha256.hex()[:2] / sha256.hex()

    def _give_up_old_parts(self) -> None:
        with contextlib.suppress(OSError):
            for part in self._parts.iterdir():
                if time.time() - part.stat().st_mtime > PART_S:
                    part.unlink()
                    self._begun.discard(part)


def _sync(directory: Path) -> None:
    """The names in a directory reach the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
