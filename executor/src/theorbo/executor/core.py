"""What an Executor decides: stimuli and time in, instructions out. No socket, process, file or clock.

The rules:

1. Nothing is launched before the broker has the submission on disk.
2. The end of a Task is learned from the bus alone: a `state_changed` with a final state. That the
   launcher's process has ended is only evidence: if nobody reports `launcher_ended` within a short wait, the
   Executor reports `launcher_gone`, and the broker decides.
3. The wait counts only while the broker is heard, for a silent broker may have the report already.
4. The first interrupt cancels (SIGTERM, the grace, SIGKILL), the second kills, the third lets go.
5. Reaching the time limit is a cancellation with another cause; the clock starts with the launch, and goes on
   when the launcher was killed, for its ranks may live.
6. Nothing waits for ever: when the launcher's process has ended and neither an event nor the broker has been
   heard for `DRAIN_S`, the Executor gives up, and says what to ask later. A broker that is heard gets `LOST_S` more,
   in which it finds out by itself that the agents are gone.
7. Letting go leaves the Task running: its agents deliver, the broker finds the outcome. Detaching is letting go
   when all ranks run; once an agent has taken over, no later than `DETACH_S` after that.

One `Supervisor` lives from the submission of one execution to its outcome.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from theorbo.executor.reported import Reported
from theorbo.schemas import events
from theorbo.schemas.errors import InternalError
from theorbo.schemas.limits import (
    CONNECT_S,
    DETACH_S,
    DRAIN_S,
    HEARTBEAT_S,
    KILL_WAIT_S,
    LAUNCHER_WORD_S,
    LOST_S,
    SUSPECT_S,
)
from theorbo.schemas.states import State

# --- stimuli -----------------------------------------------------------------------------------


class Accepted(NamedTuple):
    """The broker has the submission on disk."""


class Heard(NamedTuple):
    """The next event of the execution, in the order of the journal."""

    reported: Reported


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
    words: str = ""


class Tick(NamedTuple):
    """Time has passed; `silent_for_s` since the broker was last heard, and `problem` is what it says hinders it."""

    silent_for_s: float
    problem: str = ""


Stimulus = Accepted | Heard | Wanted | LauncherEnded | Tick

# --- instructions -------------------------------------------------------------------------------


class Launch(NamedTuple):
    """Start `theorbo launch`."""


class Report(NamedTuple):
    """Write this event to the Executor's own spool, which delivers it."""

    event: events.ControlRequested | events.LauncherGone


class CallHooks(NamedTuple):
    """Call the hooks of these names, in this order."""

    names: tuple[str, ...]
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


class GiveUp(NamedTuple):
    """The outcome cannot be learned."""

    reason: str


Instruction = Launch | Report | CallHooks | Notice | EndLauncher | Finish | GiveUp

# --- hooks ----------------------------------------------------------------------------------------

STATE_HOOKS = {
    State.COMPLETED: "TASK_DONE",
    State.FAILED: "TASK_FAILED",
    State.CANCELLED: "TASK_CANCELLED",
    State.TIMEDOUT: "TASK_TIMEDOUT",
    State.LOST: "TASK_LOST",
    State.STOPPED: "TASK_STOPPED",
}
"""Hook by the state that is entered; RUNNING depends on where it comes from."""

KIND_HOOKS = {
    "result": "TASK_RESULT",
    "log": "TASK_LOG",
    "progress": "PROGRESS",
    "metric": "METRIC",
    "data": "DATA",
    "output": "OUTPUT",
    "rank_started": "RANK_STARTED",
    "rank_ended": "RANK_ENDED",
    "loss": "LOSS",
}
"""Hook by the kind of event."""

ANY_HOOK = "ANY"
"""Called for every event, before the hooks of its own name."""

HOOK_NAMES = (ANY_HOOK, "TASK_STARTED", *STATE_HOOKS.values(), "TASK_CONTINUED", *KIND_HOOKS.values())


def hooks_of(event: events.EventBase) -> tuple[str, ...]:
    """The names of the hooks that an event calls."""
    if isinstance(event, events.StateChanged):
        if event.state == State.RUNNING:
            own = "TASK_CONTINUED" if event.previous == State.STOPPED else "TASK_STARTED"
        else:
            own = STATE_HOOKS.get(_known_state(event.state), "")
    else:
        own = KIND_HOOKS.get(event.kind, "")  # type: ignore[attr-defined]  # every kind of event has it
    return (ANY_HOOK, own) if own else (ANY_HOOK,)


def _known_state(text: str) -> State:
    try:
        return State(text)
    except ValueError:
        raise InternalError(f"the broker reports state {text!r}, which is none of {[str(s) for s in State]}") from None


# --- the supervisor -------------------------------------------------------------------------------


class Phase(enum.Enum):
    """Where the supervision stands."""

    SUBMITTING = "submitting"
    SUPERVISING = "supervising"
    LAUNCHER_ENDED = "launcher ended"
    OVER = "over"


class Supervisor:
    """Supervises one execution. `now` is any clock in seconds that never goes back."""

    def __init__(
        self,
        now: float,
        *,
        by: str,
        grace_s: float,
        time_limit_s: float | None,
        detach: bool = False,
        time_s: float = 0.0,
    ) -> None:
        self.phase = Phase.SUBMITTING
        self.state = State.PENDING
        self._by = by
        self._grace_s = grace_s
        self._time_limit_s = time_limit_s
        self._detach = detach
        self._time_s = time_s  # Unix time minus `now`, to stamp records
        self._requested: str | None = None  # the last action asked for
        self._launcher_word = False  # whether launcher_ended was heard, or launcher_gone reported
        self._launcher = LauncherEnded(None)
        self._silent = False
        self._problem = ""
        self._accept_until = now + CONNECT_S
        self._limit_at = math.inf
        self._word_until = math.inf
        self._kill_unheeded_at = math.inf
        self._detach_at = math.inf
        self._last_sign_at = math.inf

    @property
    def deadline(self) -> float:
        """When a Tick is due at the latest."""
        return min(self._accept_until, self._limit_at, self._word_until, self._kill_unheeded_at, self._detach_at)

    def handle(self, stimulus: Stimulus, now: float) -> list[Instruction]:
        """What follows from a stimulus."""
        if self.phase is Phase.OVER:
            return []
        match stimulus:
            case Accepted():
                return self._accepted(now)
            case Heard(reported):
                return self._heard(reported, now)
            case Wanted(wish, reason):
                return self._wanted(wish, reason, now)
            case LauncherEnded():
                return self._launcher_ended(stimulus, now)
            case Tick(silent_for_s, problem):
                return self._tick(silent_for_s, problem, now)

    def _accepted(self, now: float) -> list[Instruction]:
        if self.phase is not Phase.SUBMITTING:
            return []
        self.phase = Phase.SUPERVISING
        self._accept_until = math.inf
        if self._requested:
            self._launcher_ended(LauncherEnded(None), now)
            return self._gone("it was cancelled before anything was launched", now)
        if self._time_limit_s is not None:
            self._limit_at = now + self._time_limit_s
        return [Launch()]

    def _heard(self, reported: Reported, now: float) -> list[Instruction]:
        event = reported.event
        if self._last_sign_at < math.inf:
            self._last_sign_at = now
        out: list[Instruction] = [CallHooks(hooks_of(event), reported)]
        if isinstance(event, events.LauncherEnded):
            self._launcher_word, self._word_until = True, math.inf
            self._limit_at = math.inf
        elif isinstance(event, events.AgentStarted) and self._detach:
            self._detach_at = min(self._detach_at, now + DETACH_S)
        elif isinstance(event, events.StateChanged):
            self.state = _known_state(event.state)
            if self.state.final:
                self.phase = Phase.OVER
                out.append(Finish(self.state, event.reason))
            elif self._detach and self._requested is None and self.state is not State.PENDING:
                out += self._let_go()
        return out

    def _wanted(self, wish: Wish, reason: str, now: float) -> list[Instruction]:
        interrupted = wish is Wish.INTERRUPT
        if interrupted:
            wish = {None: Wish.CANCEL, "cancel": Wish.KILL}.get(self._requested, Wish.LET_GO)
        if wish is Wish.LET_GO:
            return self._let_go(interrupted=interrupted)
        if wish is Wish.KILL and self._requested != "kill":
            self._kill_unheeded_at = now + KILL_WAIT_S
            return [*self._request("kill", "user", reason, now), Notice("killing the Task; Ctrl-C again lets go of it")]
        if wish is Wish.CANCEL and self._requested is None:
            self._kill_unheeded_at = now + self._grace_s + KILL_WAIT_S
            text = f"cancelling: SIGTERM now, SIGKILL in {self._grace_s:g} s; Ctrl-C again kills at once"
            return [*self._request("cancel", "user", reason, now), Notice(text)]
        return []

    def _request(self, action: str, cause: str, reason: str, now: float) -> list[Instruction]:
        self._requested = action
        self._detach_at = math.inf  # whoever asked for an end wants to see it
        fields = {"action": action, "cause": cause, "by": self._by, "reason": reason, "grace_s": self._grace_s}
        return [Report(events.ControlRequested.model_validate({**fields, "time": self._time_s + now}))]

    def _let_go(self, *, interrupted: bool = False) -> list[Instruction]:
        if self.phase is Phase.SUBMITTING:
            self._detach = True  # nothing runs yet that could be left running
            return []
        self.phase = Phase.OVER
        return [Finish(self.state, "let go; the Task goes on", interrupted)]

    def _launcher_ended(self, ended: LauncherEnded, now: float) -> list[Instruction]:
        self.phase = Phase.LAUNCHER_ENDED
        self._launcher = ended
        self._kill_unheeded_at = math.inf
        if self._launcher_word or ended.exit_code is None:  # else ranks may live on without it
            self._limit_at = math.inf
        self._last_sign_at = now
        if not self._launcher_word:
            self._word_until = now + (LAUNCHER_WORD_S if ended.exit_code is not None else 0.0)
        return []

    def _gone(self, reason: str, now: float) -> list[Instruction]:
        self._launcher_word, self._word_until = True, math.inf
        fields = {"exit_code": self._launcher.exit_code, "reason": reason}
        return [Report(events.LauncherGone.model_validate({**fields, "time": self._time_s + now}))]

    def _tick(self, silent_for_s: float, problem: str, now: float) -> list[Instruction]:
        out = [*self._contact(silent_for_s, now), *self._trouble(problem)]
        if now >= self._accept_until:
            self.phase = Phase.OVER
            why = f" ({self._problem})" if self._problem else ""
            words = f"the broker has not accepted the submission within {CONNECT_S:g} s{why}; nothing was launched"
            return [*out, GiveUp(words)]
        if now >= self._detach_at:
            return [*out, *self._let_go()]
        if now >= self._limit_at:
            self._limit_at = math.inf
            if self._requested is None:
                if self.phase is Phase.SUPERVISING:
                    self._kill_unheeded_at = now + self._grace_s + KILL_WAIT_S
                reason = f"time limit of {self._time_limit_s:g} s reached"
                out += [*self._request("cancel", "time_limit", reason, now), Notice(reason)]
        if now >= self._kill_unheeded_at:
            self._kill_unheeded_at = math.inf
            out += [EndLauncher(), Notice("the Task did not end in time; its launcher is told to end")]
        if now >= self._word_until:
            out += self._gone(self._how_it_went(), now)
        # A broker that is heard says LOST by itself, some time after it has lost the agents.
        patience_s = DRAIN_S if self._silent else DRAIN_S + LOST_S
        if now - self._last_sign_at >= patience_s:
            self.phase = Phase.OVER
            who = "the broker has" if self._silent else "its agents have"
            words = f" ({self._launcher.words})" if self._launcher.words else ""
            out.append(
                GiveUp(f"the launcher has ended{words}, but not the execution: {who} been silent for {patience_s:g} s")
            )
        return out

    def _contact(self, silent_for_s: float, now: float) -> list[Instruction]:
        if silent_for_s > 2 * HEARTBEAT_S and self._word_until < math.inf:
            self._word_until = now + LAUNCHER_WORD_S
        if silent_for_s >= SUSPECT_S:
            if not self._silent:
                self._silent = True
                return [Notice(f"the broker has been silent for {SUSPECT_S:g} s; the Task goes on")]
        elif self._silent:
            self._silent = False
            return [Notice("the broker is back")]
        return []

    def _trouble(self, problem: str) -> list[Instruction]:
        if problem == self._problem:
            return []
        self._problem = problem
        return [Notice(f"the broker waits: {problem}; nothing is lost" if problem else "the broker goes on")]

    def _how_it_went(self) -> str:
        code, words = self._launcher
        if code is None:
            return f"the launcher could not be started: {words}"
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"the launcher {how} without a word" + (f": {words}" if words else "")
