"""Who may connect: the broker's own key pair, and the list of public keys that are let in."""

from __future__ import annotations

import os
from pathlib import Path

import zmq

from theorbo.schemas.connection import KeyPair, write_whole
from theorbo.schemas.errors import UsageError
from theorbo.schemas.link import user_key

BROKER_KEY = "broker-key.json"
AUTHORIZED_KEYS = "authorized_keys"


def broker_key(state: Path) -> KeyPair:
    """The broker's key pair, made on the first start. Raises UsageError or Unavailable."""
    path = state / BROKER_KEY
    if not path.exists():
        public, secret = zmq.curve_keypair()
        KeyPair(public.decode(), secret.decode()).save(path)
    return KeyPair.load(path)


class AuthorizedKeys:
    """The list of public keys, lines `NAME KEY`; read again when the file changes."""

    def __init__(self, state: Path) -> None:
        """Read the list; the first one has the key of the user who started the broker.

        Raises UsageError, naming the line that is wrong, or Unavailable if the list cannot be written.
        """
        self._path = state / AUTHORIZED_KEYS
        if not self._path.exists():
            name = os.environ.get("USER") or f"uid-{os.getuid()}"
            text = f"# Public keys that may connect, one a line: NAME KEY\n{name} {user_key().public}\n"
            write_whole(self._path, text, 0o600)
        self._changed = self._stamp()
        try:
            self._names = _parse(self._path, self._path.read_text())
        except OSError as error:
            raise UsageError(f"cannot read {self._path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{self._path} is no UTF-8: {error}") from None

    def name_of(self, key: bytes) -> str | None:
        """Whose key (Z85) it is, or None if it is not on the list. A list with a mistake changes nothing."""
        stamp = self._stamp()
        if stamp != self._changed:
            try:
                self._names = _parse(self._path, self._path.read_text())
                self._changed = stamp
            except (UsageError, OSError, UnicodeDecodeError):
                pass  # while somebody is editing it, the former list holds
        return self._names.get(key.decode("ascii", "replace"))

    def _stamp(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except OSError:
            return 0, 0
        return status.st_mtime_ns, status.st_ino


def _parse(path: Path, text: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != 2 or len(fields[1]) != 40:
            raise UsageError(
                f"{path}, line {number}: expected a name and a key of 40 characters, found {line.strip()!r}"
            )
        names[fields[1]] = fields[0]
    return names
