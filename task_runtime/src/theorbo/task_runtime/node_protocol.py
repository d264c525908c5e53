"""What `theorbo launch` (the head) and `theorbo node` say to one another: lines of JSON over stdin and stdout.

Down, from the head; where one command starts several nodes all of them get the same:

1. the node's plan (`NodePlan`), first of all;
2. `{"tell": "end", "grace_s": 10.0}`: end the ranks of this machine;
3. `{"tell": "over"}`: ranks and launcher have ended; clear up, deliver the rest, go;
4. `{"tell": "leave"}`: nothing was started; go.

Up: `{"node": 1, "host": "n1", "says": …}` with

* `ready`: the agent was welcomed by the broker;
* `rank` with `line`: what a thin parent has written into the ranks' FIFO (see `wrapper.RANKS_PIPE`), or
  `aborted RANK CODE` (see `mpi_abort`);
* `gone`: no thin parent lives here any more, for the moment;
* `ending` with `grace_s`: ranks of this machine are being ended;
* `warn` with `text`: to be reported as a log line of the launcher;
* `cleared`: nothing of the ranks is left here;
* `alive`: the answer to a look;
* `done`: everything is delivered, and the spool is gone;
* `failed` with `text`: it could not begin, or not deliver everything.

Other lines are not ours (what a login shell prints, say) and are kept as words for an error.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from theorbo.schemas.errors import UsageError

LAST_WORDS = ("done", "failed")
"""After one of these a node says nothing more, and hears nothing."""


KEEP = "keep"
"""Make the spool and keep its agent."""
LOOK = "look"
"""Only say `alive`: the node was lost, but perhaps its machine was not."""
SWEEP = "sweep"
"""After the ranks' end: end what is left of them, and deliver what is left in the spool, if it is there still."""


class NodePlan(NamedTuple):
    """What a node needs to know. It never holds a secret: neither a key nor the program's environment."""

    version: str
    """Of Theorbo at the head; both have to be of the same."""
    execution: str
    spool_root: str
    broker: str
    """The connection file, which may not be visible here."""
    connection: dict[str, Any] | None
    """What it says."""
    spool_bytes: int
    grace_s: float
    time_limit_s: float | None
    keep_spool: bool
    purpose: str
    """`KEEP`, `LOOK` or `SWEEP`."""


class Said(NamedTuple):
    """One line of a node."""

    node: int
    host: str
    says: str
    fields: dict[str, Any]


def encode_line(fields: dict[str, Any]) -> bytes:
    """One line, to be written by one call."""
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decode_plan(line: bytes) -> NodePlan:
    """The first line down. Raises UsageError."""
    try:
        return NodePlan(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"the first line on stdin is no plan of a node: {error}; theorbo node is started by theorbo launch, "
            "and both must be of the same version"
        ) from None


def decode_said(line: bytes) -> Said | None:
    """A line of a node; None if it is none."""
    try:
        fields = json.loads(line)
        return Said(int(fields["node"]), str(fields["host"]), str(fields["says"]), fields)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
