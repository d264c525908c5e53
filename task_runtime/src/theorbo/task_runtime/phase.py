"""Words that the cores of `theorbo launch` and `theorbo node` share."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Phase(enum.Enum):
    """How far the keeping of a spool has come; see `supervision` and `node_supervision`."""

    STARTING = "starting"
    RUNNING = "running"
    CLEARING = "clearing"
    DRAINING = "draining"
    OVER = "over"


class MarkEnd(NamedTuple):
    """Make the file that tells the agent that nothing more will come; before, the launcher reports its own end."""

    problem: str | None = None


class Finish(NamedTuple):
    """It is over. `problem` says what went wrong; `started` whether anything was run at all."""

    problem: str | None
    started: bool
