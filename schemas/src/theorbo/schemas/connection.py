"""Where the broker is, and where things of ours lie on this machine. Standard library only.

A broker writes a *connection file*: its addresses and its public key. It holds no secret and may be read
by all. Whoever wants to talk to a broker is given such a file (`--broker`, else the environment variable
THEORBO_BROKER, else the user's own broker in the state directory).

A user's key pair lies elsewhere, mode 0600: `CONFIG/key.json`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from theorbo.schemas.errors import Unavailable, UsageError
from theorbo.schemas.frames import PROTOCOL_VERSION

BROKER_VARIABLE = "THEORBO_BROKER"
KEY_VARIABLE = "THEORBO_KEY_FILE"


def state_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the user's own broker keeps its journal: THEORBO_STATE, else as the XDG specification has it."""
    return _directory(environment, "THEORBO_STATE", "XDG_STATE_HOME", ".local/state")


def config_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where keys and settings lie: THEORBO_CONFIG, else as the XDG specification has it."""
    return _directory(environment, "THEORBO_CONFIG", "XDG_CONFIG_HOME", ".config")


def _directory(environment: Mapping[str, str], own: str, xdg: str, home: str) -> Path:
    if environment.get(own):
        return Path(environment[own])
    base = environment.get(xdg)
    return (Path(base) if base else Path(environment.get("HOME") or Path.home()) / home) / "theorbo"


def default_connection_file() -> Path:
    """The connection file of the user's own broker."""
    return state_directory() / "connection.json"


def key_file() -> Path:
    """The user's key pair: THEORBO_KEY_FILE, else `CONFIG/key.json`."""
    return Path(os.environ.get(KEY_VARIABLE) or config_directory() / "key.json")


class Connection(NamedTuple):
    """The content of a connection file."""

    router: tuple[str, ...]
    """Addresses for conversations, all of the same socket; whichever answers is used."""
    publisher: tuple[str, ...]
    """Addresses of the live streams, in the same order."""
    public_key: str | None
    """The broker's CURVE key in Z85; None where the addresses are ipc:// in a directory of ours."""
    broker: str
    """Identifies this broker's journal: the same after a restart."""
    pid: int
    host: str
    version: str
    protocol: int = PROTOCOL_VERSION

    def save(self, path: Path) -> None:
        """Write the file at once, readable by all. Raises Unavailable."""
        write_whole(path, json.dumps(self._asdict(), indent=1) + "\n", 0o644)

    @classmethod
    def load(cls, path: Path) -> Connection:
        """Read a connection file.

        Raises UsageError if there is none or if it is none, and names the way out; Unavailable if it is
        of a broker that speaks another protocol version.
        """
        try:
            fields = json.loads(path.read_text())
            protocol = int(fields["protocol"])
        except FileNotFoundError:
            raise UsageError(f"no connection file {path}: is the broker running? (theorbo broker writes it)") from None
        except OSError as error:
            raise UsageError(f"cannot read connection file {path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError):
            raise UsageError(f"{path} is no connection file; give the file that theorbo broker has written") from None
        if protocol != PROTOCOL_VERSION:
            raise Unavailable(
                f"the broker of {path} (version {fields.get('version')}) speaks protocol version {protocol}, "
                f"this side version {PROTOCOL_VERSION}; install matching versions"
            )
        try:
            fields["router"], fields["publisher"] = tuple(fields["router"]), tuple(fields["publisher"])
            return cls(**{name: fields[name] for name in cls._fields})
        except (KeyError, TypeError) as error:
            raise UsageError(f"{path} is no complete connection file: {error} is missing or wrong") from None


class KeyPair(NamedTuple):
    """A CURVE key pair in Z85."""

    public: str
    secret: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"KeyPair(public={self.public!r})"

    def save(self, path: Path) -> None:
        """Write the key file, mode 0600. Raises Unavailable."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, json.dumps(self._asdict()) + "\n", 0o600)

    @classmethod
    def load(cls, path: Path) -> KeyPair:
        """Read a key file. Raises UsageError; also if others may read it."""
        try:
            if path.stat().st_mode & 0o077:
                raise UsageError(f"key file {path} may be read by others; chmod 600 it, or make a new key")
            fields = json.loads(path.read_text())
            return cls(str(fields["public"]), str(fields["secret"]))
        except OSError as error:
            raise UsageError(f"cannot read key file {path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError):
            raise UsageError(f"{path} is no key file") from None


def write_whole(path: Path, text: str, mode: int) -> None:
    """Replace a file by one that has all of `text`; a reader sees the old or the new one. Raises Unavailable."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor, not a path
                os.fchmod(descriptor, mode)
                file.write(text)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Unavailable(f"cannot write {path}: {error.strerror}") from None
