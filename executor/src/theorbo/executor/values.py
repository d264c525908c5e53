"""What goes into an Executor's decisions and what comes out: stimuli and instructions, as values."""

from __future__ import annotations

import enum
from typing import NamedTuple

from theorbo.executor.reported import Reported
from theorbo.schemas import events
from theorbo.schemas.frames import Message
from theorbo.schemas.states import State

# --- stimuli -----------------------------------------------------------------------------------


class Accepted(NamedTuple):
    """The broker has the submission on disk."""


class Heard(NamedTuple):
    """The next event of the execution, in the order of the journal."""

    reported: Reported


class Recalled(NamedTuple):
    """A signal or result that was journaled before this Executor attached."""

    reported: Reported
    confirmed: bool
    """Whether a former Executor has confirmed it. If not it will be heard as well."""


class Rebuilt(NamedTuple):
    """Everything that was to be recalled has been; the launch was so many seconds ago."""

    launched_ago_s: float


class Wish(enum.Enum):
    """What somebody on the Executor's side wants."""

    INTERRUPT = "interrupt"
    """Ctrl-C: cancel, then kill, then let go."""
    CANCEL = "cancel"
    """May come twice (schedulers do so), and still means a grace."""
    KILL = "kill"
    LET_GO = "let go"


class Wanted(NamedTuple):
    """Somebody asks for an end of the Task or of the supervision; `reason` goes into the journal."""

    wish: Wish
    reason: str


class LauncherEnded(NamedTuple):
    """The process of `theorbo launch` has ended, or could not be started; `words` is the end of its stderr."""

    exit_code: int | None
    """None if it is not known."""
    words: str = ""
    started: bool = True


class Watching(NamedTuple):
    """The launcher that a former Executor has started runs on this machine, and its end will be seen."""


class AgentsHeard(NamedTuple):
    """Whether the broker hears any agent of the execution."""

    any: bool


class LastWord(NamedTuple):
    """What the journal had of the launcher's end when it was looked through to its end; None if there was nothing."""

    event: events.LauncherEnded | events.LauncherGone | None


class Fenced(NamedTuple):
    """The broker listens to another Executor of this execution, and no longer to this one."""


class Tick(NamedTuple):
    """Time has passed; `silent_for_s` since the broker was last heard, and `problem` is what it says hinders it."""

    silent_for_s: float
    problem: str = ""


Stimulus = (
    Accepted | Heard | Recalled | Rebuilt | Wanted | LauncherEnded | Watching | AgentsHeard | LastWord | Fenced | Tick
)  # fmt: skip

# --- instructions -------------------------------------------------------------------------------


class Launch(NamedTuple):
    """Start `theorbo launch`."""


class WatchLauncher(NamedTuple):
    """Look whether this process, started by a former Executor, is on this machine: `Watching` or `LauncherEnded`."""

    started: events.LauncherStarted


class Report(NamedTuple):
    """Write this event to the Executor's own spool, then `Conversation.offer` its record, written or not."""

    event: events.ControlRequested | events.LauncherGone | events.ExecutorAttached


class CallHooks(NamedTuple):
    """Call the hooks of these names, in this order."""

    names: tuple[str, ...]
    reported: Reported


class Remember(NamedTuple):
    """Something a former Executor was given: it belongs to the outcome, but no hook is called."""

    reported: Reported


class Notice(NamedTuple):
    """Tell the person who is watching."""

    text: str


class EndLauncher(NamedTuple):
    """The launcher did not heed what was delivered to its agents: signal its process."""


class Finish(NamedTuple):
    """The supervision is over; `state` is final unless the Task was let go."""

    state: State
    reason: str
    interrupted: bool = False
    """Whether it was an interrupt that let go of the Task."""
    fenced: bool = False
    """Whether another Executor has taken over."""


class GiveUp(NamedTuple):
    """The outcome cannot be learned."""

    reason: str


class Send(NamedTuple):
    """Send this to the broker."""

    message: Message


class EmptySpool(NamedTuple):
    """What the Executor's spool on this machine holds was overtaken by another Executor elsewhere: remove it."""


Decision = (
    Launch | WatchLauncher | Report | CallHooks | Remember | Notice | EndLauncher | Finish | GiveUp
)  # fmt: skip
"""What a `core.Supervisor` decides."""

Instruction = Decision | Send | EmptySpool
"""What a `conversation.Conversation` gives to its skin."""
