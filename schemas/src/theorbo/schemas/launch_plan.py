"""What an Executor wants `theorbo launch` to start, as a file that may be read once and by its owner only.

The plan holds the whole environment of the program, which may hold secrets: it is written with mode 0600
and removed by `theorbo launch` as soon as it has been read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional  # noqa: UP035 - Python 3.9 evaluates these

from theorbo.schemas.connection import write_whole
from theorbo.schemas.errors import UsageError
from theorbo.schemas.limits import GRACE_S, SPOOL_BYTES


class NodeStart(NamedTuple):
    """How `theorbo node` is started on other machines: by ssh on one, by srun on several at once."""

    command: List[str]  # noqa: UP006
    """What stands before the program."""
    first: int
    """Number of the first of these nodes; the one beside the launcher is 0."""
    nodes: int = 1
    """How many nodes this one command starts. They are told apart by SLURM_PROCID."""


class LaunchPlan(NamedTuple):
    """One execution, ready to be launched."""

    execution: str
    """32 hexadecimal digits."""
    broker: str
    """The connection file."""
    command: List[str]  # noqa: UP006
    """The program of every rank, with its arguments."""
    environment: Dict[str, str]  # noqa: UP006
    """Of the program: all of it, nothing is added from the launcher's own but what names the spool."""
    work_dir: str
    ranks: int = 1
    launcher_command: List[str] = []  # noqa: UP006, RUF012
    """mpiexec and its options up to the program; empty: the ranks are started directly."""
    spool_root: Optional[str] = None  # noqa: UP045
    grace_s: float = GRACE_S
    keep_spool: bool = False
    spool_bytes: int = SPOOL_BYTES
    """Bound of what is not delivered yet."""
    time_limit_s: Optional[float] = None  # noqa: UP045
    """From the launch; the agents keep it too, for the Executor may be gone."""
    nodes: List[NodeStart] = []  # noqa: UP006, RUF012
    """The other machines."""
    connection: Optional[Dict[str, Any]] = None  # noqa: UP006, UP045
    """What the connection file says, for machines that do not see it."""

    def save(self, path: Path) -> None:
        """Write the plan. Raises Unavailable."""
        write_whole(path, json.dumps(self._asdict()), 0o600)

    @classmethod
    def take(cls, path: Path) -> LaunchPlan:
        """Read a plan and remove its file. Raises UsageError."""
        try:
            text = path.read_text()
            path.unlink()
            plan = cls(**json.loads(text))
            return plan._replace(nodes=[NodeStart(*node) for node in plan.nodes])
        except OSError as error:
            raise UsageError(f"cannot read launch plan {path}: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            raise UsageError(f"{path} is no launch plan: {error}") from None
