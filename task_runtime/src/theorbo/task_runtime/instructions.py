"""What the agent's core tells its skin to do, beside sending: closed types."""

from __future__ import annotations

from typing import Any, NamedTuple, Union

from theorbo.schemas.delivery import Instruction
from theorbo.schemas.records import Attachment
from theorbo.task_runtime.rank_control import TellLauncher
from theorbo.task_runtime.rank_ending import SendSignal


class Report(NamedTuple):
    """Append this record to the agent's own file."""

    fields: dict[str, Any]


class Forget(NamedTuple):
    """Remove this attachment; whoever named it is in the journal."""

    attachment: Attachment


class Complain(NamedTuple):
    """Say this on stderr, for the operator."""

    text: str


AgentInstruction = Union[Instruction, Report, Forget, TellLauncher, SendSignal, Complain]
