"""What the agent's core tells its skin to do, beside sending: closed types."""

from __future__ import annotations

from typing import Any, NamedTuple, Union

from theorbo.schemas.delivery import Instruction
from theorbo.schemas.records import Attachment
from theorbo.task_runtime.processes import Process
from theorbo.task_runtime.rank_ending import SendSignal


class Report(NamedTuple):
    """Append this record to the agent's own file."""

    fields: dict[str, Any]


class Forget(NamedTuple):
    """Remove this attachment; whoever named it is in the journal."""

    attachment: Attachment


class TellLauncher(NamedTuple):
    """The ranks are being ended: say so to those that look (`spool.tell_cancelled`), and to `theorbo launch`, which
    should not outlive them by long.
    """

    grace_s: float


class Inspect(NamedTuple):
    """Find out what these processes of ranks are doing (`processes.inspect`); tell `AgentCore.inspected`."""

    members: dict[int, list[Process]]


class Complain(NamedTuple):
    """Say this on stderr, for the operator."""

    text: str


ControlInstruction = Union[SendSignal, TellLauncher, Inspect, Report]
AgentInstruction = Union[Instruction, Report, Forget, TellLauncher, SendSignal, Inspect, Complain]
