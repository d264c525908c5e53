"""The family of errors. Each says whose fault it is, and its sentence says the way out.

::

    TheorboError
    ├── UsageError         the caller gave a value that cannot be used
    ├── ProtocolError      the peer sent what the protocol does not allow
    ├── Refused            the broker understood, and said no
    ├── Unavailable        the world failed us: no broker, no disk, no permission
    ├── Unanswered         what was requested stands, and not everybody has said that it is done
    └── InternalError      a bug of ours; please report it
"""

from __future__ import annotations

import enum


class Fault(enum.Enum):
    """Who has to act."""

    CALLER = "caller"
    PEER = "peer"
    WORLD = "world"
    US = "us"


class ExitStatus(enum.IntEnum):
    """Exit statuses of every `theorbo` command."""

    COMPLETED = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    TIMEDOUT = 4
    LOST = 5
    UNAVAILABLE = 6
    UNANSWERED = 7
    TROUBLE = 8
    INTERNAL = 70


class TheorboError(Exception):
    """Base of all errors that Theorbo raises on purpose."""

    fault = Fault.US
    exit_status = ExitStatus.INTERNAL


class UsageError(TheorboError):
    """A value given by the caller cannot be used; the sentence names it and what would do."""

    fault = Fault.CALLER
    exit_status = ExitStatus.USAGE


class ProtocolError(TheorboError):
    """A peer sent what the protocol does not allow.

    `code` is one of `theorbo.schemas.frames.ErrorCode`.
    """

    fault = Fault.PEER
    exit_status = ExitStatus.UNAVAILABLE

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Refused(TheorboError):
    """The broker answered with an error code instead of doing what was asked."""

    fault = Fault.CALLER
    exit_status = ExitStatus.UNAVAILABLE

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Unavailable(TheorboError):
    """Something outside is missing, full, forbidden or does not answer."""

    fault = Fault.WORLD
    exit_status = ExitStatus.UNAVAILABLE


class Unanswered(TheorboError):
    """A request is in the journal, but not all of those whom it concerns have answered in the time they have."""

    fault = Fault.WORLD
    exit_status = ExitStatus.UNANSWERED


class InternalError(TheorboError):
    """We broke a rule of our own."""
