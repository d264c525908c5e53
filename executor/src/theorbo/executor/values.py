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
    STOP = "stop"
    CONTINUE = "continue"
    STACKS = "stacks"
    LET_GO = "let go"


class Wanted(NamedTuple):
    """Somebody wants something done to the Task, or the supervision ended; `reason` goes into the journal."""

    wish: Wish
    reason: str


class LauncherEnded(NamedTuple):
    """The process of `theorbo launch` has ended, or could not be started; `words` is the end of its stderr. Of a batch
    job: it has left the queue.
    """

    exit_code: int | None
    """None if it is not known."""
    words: str = ""
    started: bool = True
    scheduler_state: str = ""
    """How the job has ended, in the scheduler's words; empty if there is none, or it has forgotten it."""
    scheduler_reason: str = ""

    @property
    def how(self) -> str:
        """Of a process, in words."""
        if not self.started:
            return f"the launcher could not be started: {self.words}"
        if self.exit_code is None:
            return "the launcher, which a former Executor had started, ended without a word"
        code = self.exit_code
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"the launcher {how} without a word" + (f": {self.words}" if self.words else "")


class JobTold(NamedTuple):
    """The batch scheduler has taken our job, or says something new of it."""

    event: events.JobSubmitted | events.JobChanged


class Withdrawn(NamedTuple):
    """What came of a `Withdraw`."""

    done: bool
    words: str = ""
    """Why it could not be done."""


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
    Accepted | Heard | Recalled | Rebuilt | Wanted | LauncherEnded | JobTold | Withdrawn | Watching | AgentsHeard
    | LastWord | Fenced | Tick
)  # fmt: skip

# --- instructions -------------------------------------------------------------------------------


class Launch(NamedTuple):
    """Start `theorbo launch`."""


class WatchLauncher(NamedTuple):
    """Look whether what a former Executor has launched can be seen from here: `Watching` or `LauncherEnded`."""

    launched: events.LauncherStarted | events.JobSubmitted | None
    """A process, perhaps of this machine; a job; None: a job that may have been submitted, or not."""


class Withdraw(NamedTuple):
    """Take the job out of the queue, if it still waits there: `Withdrawn` tells."""


OwnEvent = (
    events.ControlRequested | events.ControlAccepted | events.ControlDone | events.JobSubmitted | events.JobChanged
    | events.LauncherGone | events.ExecutorAttached
)  # fmt: skip
"""What an Executor reports beside the submission."""


class Report(NamedTuple):
    """Write this event to the Executor's own spool, then `Conversation.offer` its record, written or not."""

    event: OwnEvent


class CallHooks(NamedTuple):
    """Call the hooks of these names, in this order."""

    names: tuple[str, ...]
    reported: Reported


class Remember(NamedTuple):
    """Something a former Executor was given: it belongs to the outcome, or to the rank map, but no hook is called."""

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
    Launch | WatchLauncher | Withdraw | Report | CallHooks | Remember | Notice | EndLauncher | Finish | GiveUp
)  # fmt: skip
"""What a `core.Supervisor` decides."""

Instruction = Decision | Send | EmptySpool
"""What a `conversation.Conversation` gives to its skin."""
