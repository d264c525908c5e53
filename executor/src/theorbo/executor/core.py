"""What an Executor decides: stimuli and time in, instructions out. No socket, process, file or clock.

The rules:

1. Nothing is launched before the broker has the submission on disk.
2. The end of a Task is learned from the bus alone: a `state_changed` with a final state. That the
   launcher's process has ended is only evidence: if nobody reports `launcher_ended` within a short wait, the
   journal is looked through to its end, for the Executor may be behind. If it is not there the Executor reports
   `launcher_gone`, and the broker decides.
3. The wait counts only while the broker is heard, for a silent broker may have the report already.
4. The first interrupt cancels (SIGTERM, the grace, SIGKILL), the second kills, the third lets go.
5. Reaching the time limit is a cancellation with another cause; the clock starts with the launch, and goes on
   when the launcher was killed, for its ranks may live.
6. Nothing waits for ever: when the launcher's process has ended and neither an event nor the broker has been
   heard for `DRAIN_S`, the Executor gives up, and says what to ask later. A broker that is heard gets `LOST_S` more,
   in which it finds out by itself that the agents are gone.
7. An Executor that attaches to what a former one has launched first learns what there was: requests, the launch, its
   time limit. It watches the launcher where that is a process of its own machine. Where it is not, and the broker has
   heard no agent for `LOST_S`, it reports `launcher_gone`, for it is itself what keeps the execution from being
   LOST; and a broker that is silent for as long is given up.
8. Whoever is fenced lets go at once.
9. Of a batch job the end of the launcher is that it has left the queue, which the scheduler says; until it begins only
   the Executor can end it, in the queue (`batch`). Its time limit begins with the launcher's word, and it is not left
   behind in the queue by an execution that has ended.
10. What others request is treated as if this Executor had; holding and continuing are no end.
11. Letting go leaves the Task running: its agents deliver, the broker finds the outcome. Detaching is letting go
   when all ranks run; once an agent has taken over, no later than `DETACH_S` after that; of a batch job, once the
   journal has its number.

One `Supervisor` lives from the submission of one execution, or from attaching to it, to its outcome.
"""

from __future__ import annotations

import enum
import math

from theorbo.executor.batch import BATCH_LAUNCHER, END_ACTIONS, Batch
from theorbo.executor.broker_contact import BrokerContact
from theorbo.executor.hooks import hooks_of, known_state
from theorbo.executor.reported import Reported
from theorbo.executor.values import (
    Accepted,
    AgentsHeard,
    CallHooks,
    Decision,
    EndLauncher,
    Fenced,
    Finish,
    GiveUp,
    Heard,
    JobTold,
    LastWord,
    Launch,
    LauncherEnded,
    Notice,
    Rebuilt,
    Recalled,
    Remember,
    Report,
    Stimulus,
    Tick,
    Wanted,
    Watching,
    WatchLauncher,
    Wish,
    Withdrawn,
)
from theorbo.schemas import events
from theorbo.schemas.limits import (
    CONNECT_S,
    DETACH_S,
    DRAIN_S,
    GRACE_S,
    HEARTBEAT_S,
    KILL_WAIT_S,
    LAUNCHER_WORD_S,
    LOST_S,
)
from theorbo.schemas.names import SourceKind
from theorbo.schemas.states import State

_OTHER_ACTIONS = {Wish.STOP: "stop", Wish.CONTINUE: "continue", Wish.STACKS: "stacks"}


_NO_SIGN = (SourceKind.BROKER, SourceKind.EXECUTOR)
"""Whose words tell nothing of ranks, launcher and agents: what others request, say."""

_REMEMBERED = (events.Result, events.RankStarted)
"""What an Executor that attaches keeps also of what a former one had confirmed."""


class Phase(enum.Enum):
    """Where the supervision stands."""

    SUBMITTING = "submitting"
    ATTACHING = "attaching"
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
        grace_s: float = GRACE_S,
        time_limit_s: float | None = None,
        detach: bool = False,
        time_s: float = 0.0,
        attached: bool = False,
        batch: bool = False,
    ) -> None:
        """`time_s` is Unix time minus `now`. An `attached` one learns the rest from the submission. `batch`: a batch
        job launches it.
        """
        self.began_at = now
        self.phase = Phase.ATTACHING if attached else Phase.SUBMITTING
        self.state = State.PENDING
        self._by = by
        self._grace_s = grace_s
        self._time_limit_s = time_limit_s
        self._detach = detach
        self._time_s = time_s
        self._attached = attached
        self._batch = Batch() if batch else None
        self._requested: str | None = None  # the last action asked for, by whomever
        self._asked: str | None = None  # by this Executor
        self._launcher_word = False  # whether launcher_ended was heard, or launcher_gone reported
        self._ranks_ended = False  # whether there is nothing left that a time limit could end
        self._launcher = LauncherEnded(None)
        self._unwatched = False  # it is only that no agent was heard for very long
        self._missed = ""  # why launcher_gone is to be reported, if the journal does not know better
        self._contact = BrokerContact()
        self._reason = ""
        self._launched: events.LauncherStarted | None = None
        self._watching = False
        self._agents_silent_since = now
        self._accept_until = math.inf if attached else now + CONNECT_S
        self._limit_at = math.inf
        self._word_until = math.inf
        self._kill_unheeded_at = math.inf
        self._detach_at = math.inf
        self._last_sign_at = math.inf

    @property
    def deadline(self) -> float:
        """When a Tick is due at the latest."""
        return min(self._accept_until, self._limit_at, self._word_until, self._kill_unheeded_at, self._detach_at)

    @property
    def blind(self) -> bool:
        """Whether nobody would tell that the launcher has died, so that it matters whether agents are heard.

        A job that waits in a queue has none.
        """
        alone = self._attached and self.phase is Phase.SUPERVISING and not self._watching and not self._launcher_word
        return alone and not (self._batch and self._batch.waits)

    @property
    def looks_for_last_word(self) -> bool:
        """Whether the journal is to be looked through for the launcher's end, whatever has been heard of it yet."""
        return bool(self._missed) and not self._launcher_word and self.phase is not Phase.OVER

    def unix(self, now: float) -> float:
        """Unix time at `now`."""
        return self._time_s + now

    def handle(self, stimulus: Stimulus, now: float) -> list[Decision]:
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
            case JobTold():
                return self._batch.told(stimulus) if self._batch else []
            case Withdrawn():
                return self._batch.withdrawn(stimulus, self.unix(now)) if self._batch else []
            case Tick(silent_for_s, problem):
                return self._tick(silent_for_s, problem, now)
            case Recalled():
                return self._recalled(stimulus)
            case Rebuilt(ago_s):
                return self._rebuilt(ago_s, now)
            case Watching():
                self._watching = True
                return []
            case AgentsHeard(some):
                self._agents_silent_since = math.inf if some else min(self._agents_silent_since, now)
                return []
            case LastWord(event):
                return self._looked(event, now)
            case Fenced():
                self.phase = Phase.OVER
                return [Finish(self.state, "another Executor has taken over", fenced=True)]

    def _accepted(self, now: float) -> list[Decision]:
        if self.phase is not Phase.SUBMITTING:
            return []
        self.phase = Phase.SUPERVISING
        self._accept_until = math.inf
        if self._requested:
            self._launcher_ended(LauncherEnded(None, started=False), now)
            return self._gone("it was cancelled before anything was launched", now)
        if self._time_limit_s is not None and not self._batch:
            self._limit_at = now + self._time_limit_s
        return [Launch()]

    def _heard(self, reported: Reported, now: float) -> list[Decision]:
        event = reported.event
        if self._last_sign_at < math.inf and reported.source.kind not in _NO_SIGN:
            self._last_sign_at = now
        out: list[Decision] = [CallHooks(hooks_of(event), reported)]
        self._learn(event)
        if self._batch:
            out += self._heard_of_job(self._batch, reported, now)
        if isinstance(event, events.ControlRequested) and event.action in END_ACTIONS:
            self._end_requested(event, now)
        if self.phase is Phase.OVER:
            return out
        if isinstance(event, events.LauncherStarted) and self._attached and not self._watching:
            out += self._watch()
        elif isinstance(event, events.LauncherEnded | events.LauncherGone) and self._attached and not self._watching:
            self._last_sign_at = now  # nobody will tell of its process: the wait for the outcome begins here
        elif isinstance(event, events.AgentStarted) and self._detach:
            self._detach_at = min(self._detach_at, now + DETACH_S)
        elif isinstance(event, events.StateChanged):
            self.state = known_state(event.state)
            if self.state.final:
                if self._batch and self._batch.lives:  # LOST, say
                    out += [EndLauncher(), Notice("the execution is over: its job is cancelled")]
                self.phase = Phase.OVER
                out.append(Finish(self.state, event.reason))
            elif self._detach and self._requested is None and self.state is not State.PENDING:
                out += self._let_go()
        return out

    def _learn(self, event: events.EventBase) -> None:
        """What holds whether it was reported to this Executor or to a former one."""
        match event:
            case events.ExecutionSubmitted() if self._attached:
                self._grace_s, self._time_limit_s = event.grace_s, event.time_limit_s
            case events.LauncherStarted():
                self._launched = event
            case events.LauncherEnded():
                self._launcher_word, self._word_until = True, math.inf
                self._ranks_ended, self._limit_at, self._kill_unheeded_at = True, math.inf, math.inf
            case events.LauncherGone():
                self._launcher_word, self._word_until = True, math.inf
            case events.ControlRequested(action=action) if action in END_ACTIONS and self._requested != "kill":
                self._requested = action

    def _heard_of_job(self, batch: Batch, reported: Reported, now: float) -> list[Decision]:
        event = reported.event
        batch.learn(reported.header, event)
        if isinstance(event, events.LauncherStarted) and self._time_limit_s is not None and not self._ranks_ended:
            self._limit_at = min(self._limit_at, now + self._time_limit_s)
        if isinstance(event, events.JobSubmitted) and self._detach and self._requested is None:
            return self._let_go()
        return batch.heard(reported.header, event, self.unix(now))

    def _end_requested(self, event: events.ControlRequested, now: float) -> None:
        """By whomever: the launcher has to end in time, and whoever watches wants to see it."""
        if self.phase is Phase.SUPERVISING and not self._ranks_ended:
            grace_s = event.grace_s if event.action == "cancel" else 0.0
            self._kill_unheeded_at = min(self._kill_unheeded_at, now + grace_s + KILL_WAIT_S)
        self._detach, self._detach_at = False, math.inf

    # --- attaching --------------------------------------------------------------------------------

    def _recalled(self, it: Recalled) -> list[Decision]:
        event = it.reported.event
        self._learn(event)
        if isinstance(event, events.ExecutionSubmitted) and event.launcher == BATCH_LAUNCHER:
            self._batch = self._batch or Batch()
        if self._batch:
            self._batch.learn(it.reported.header, event)
        if isinstance(event, events.StateChanged):
            self._ranks_ended = self._ranks_ended or known_state(event.state).final
            if it.confirmed:
                self.state, self._reason = known_state(event.state), event.reason
        return [Remember(it.reported)] if it.confirmed and isinstance(event, _REMEMBERED) else []

    def _rebuilt(self, launched_ago_s: float, now: float) -> list[Decision]:
        if self.state.final:
            self.phase = Phase.OVER
            return [Finish(self.state, self._reason)]
        self.phase = Phase.SUPERVISING
        self._agents_silent_since = now
        if self._time_limit_s is not None and not self._ranks_ended and not (self._batch and self._batch.waits):
            self._limit_at = now + self._time_limit_s - launched_ago_s
        if self._launcher_word:
            self.phase = Phase.LAUNCHER_ENDED
            self._last_sign_at = now
            return []
        if self._requested:
            self._kill_unheeded_at = now + self._grace_s + KILL_WAIT_S
        return self._watch() + (self._batch.rebuilt(self.unix(now)) if self._batch else [])

    def _watch(self) -> list[Decision]:
        if self._launcher_word:
            return []
        if self._batch:
            return [WatchLauncher(self._batch.submitted)]
        return [WatchLauncher(self._launched)] if self._launched else []

    # --- an end is wanted -------------------------------------------------------------------------

    def _wanted(self, wish: Wish, reason: str, now: float) -> list[Decision]:
        interrupted = wish is Wish.INTERRUPT
        if interrupted and self.phase is Phase.ATTACHING:
            wish = Wish.LET_GO
        elif interrupted:
            wish = {None: Wish.CANCEL, "cancel": Wish.KILL}.get(self._requested, Wish.LET_GO)
        if wish is Wish.LET_GO:
            return self._let_go(interrupted=interrupted)
        if wish in _OTHER_ACTIONS:
            return [self._control(_OTHER_ACTIONS[wish], "user", reason, now)]
        if wish is Wish.KILL and self._asked != "kill":
            self._kill_unheeded_at = now + KILL_WAIT_S
            return [*self._request("kill", "user", reason, now), Notice("killing the Task; Ctrl-C again lets go of it")]
        if wish is Wish.CANCEL and self._asked is None:
            self._kill_unheeded_at = now + self._grace_s + KILL_WAIT_S
            text = f"cancelling: SIGTERM now, SIGKILL in {self._grace_s:g} s; Ctrl-C again kills at once"
            return [*self._request("cancel", "user", reason, now), Notice(text)]
        return []

    def _request(self, action: str, cause: str, reason: str, now: float) -> list[Decision]:
        self._requested = self._asked = action
        self._detach, self._detach_at = False, math.inf  # whoever asked for an end wants to see it
        return [self._control(action, cause, reason, now), *(self._batch.end_requested() if self._batch else [])]

    def _control(self, action: str, cause: str, reason: str, now: float) -> Report:
        fields = {"action": action, "cause": cause, "by": self._by, "reason": reason, "grace_s": self._grace_s}
        return Report(events.ControlRequested.model_validate({**fields, "time": self._time_s + now}))

    def _let_go(self, *, interrupted: bool = False) -> list[Decision]:
        submitting = self._batch and self._batch.submitted is None and self.phase is Phase.SUPERVISING
        if self.phase is Phase.SUBMITTING or (submitting and not self._attached):
            self._detach = True  # nothing runs yet that could be left running
            return []
        self.phase = Phase.OVER
        return [Finish(self.state, "let go; the Task goes on", interrupted)]

    def _launcher_ended(self, ended: LauncherEnded, now: float) -> list[Decision]:
        self.phase = Phase.LAUNCHER_ENDED
        self._launcher = ended
        self._kill_unheeded_at = math.inf
        if self._launcher_word or not ended.started:  # else ranks may live on without it
            self._limit_at = math.inf
        self._last_sign_at = now
        if not self._launcher_word:
            self._word_until = now + (LAUNCHER_WORD_S if ended.started else 0.0)
        return self._batch.ended(ended, self.unix(now)) if self._batch else []

    def _looked(self, event: events.LauncherEnded | events.LauncherGone | None, now: float) -> list[Decision]:
        if not self.looks_for_last_word:
            return []
        if event is None:
            return self._gone(self._missed, now)
        self._learn(event)  # it will be heard, too, when everything before it has been
        return []

    def _gone(self, reason: str, now: float) -> list[Decision]:
        self._launcher_word, self._word_until = True, math.inf
        fields = {
            "exit_code": self._launcher.exit_code, "reason": reason, "scheduler_state": self._launcher.scheduler_state,
            "unwatched": self._unwatched,
        }  # fmt: skip
        return [Report(events.LauncherGone.model_validate({**fields, "time": self._time_s + now}))]

    def _tick(self, silent_for_s: float, problem: str, now: float) -> list[Decision]:
        out = self._contact.tick(silent_for_s, problem)
        if silent_for_s > 2 * HEARTBEAT_S and self._word_until < math.inf:
            self._word_until = now + LAUNCHER_WORD_S
        if now >= self._accept_until:
            self.phase = Phase.OVER
            why = f" ({problem})" if problem else ""
            words = f"the broker has not accepted the submission within {CONNECT_S:g} s{why}; nothing was launched"
            return [*out, GiveUp(words)]
        if self.phase is Phase.ATTACHING and silent_for_s >= CONNECT_S:
            self.phase = Phase.OVER
            return [*out, GiveUp(f"the broker has been silent for {CONNECT_S:g} s; attach again when it is back")]
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
            self._word_until = math.inf
            if self._launcher.started:
                self._missed = self._how_it_went()
            else:
                out += self._gone(self._how_it_went(), now)
        if self.blind:
            out += self._look_out(silent_for_s, now)
        # A broker that is heard says LOST by itself, some time after it has lost the agents.
        patience_s = DRAIN_S if self._contact.silent else DRAIN_S + LOST_S
        if now - self._last_sign_at >= patience_s:
            self.phase = Phase.OVER
            who = "the broker has" if self._contact.silent else "its agents have"
            words = f" ({self._launcher.words})" if self._launcher.words else ""
            out.append(
                GiveUp(f"the launcher has ended{words}, but not the execution: {who} been silent for {patience_s:g} s")
            )
        return out

    def _look_out(self, silent_for_s: float, now: float) -> list[Decision]:
        """For a launcher that cannot be watched."""
        if silent_for_s >= LOST_S:
            self.phase = Phase.OVER
            why = f"the broker has been silent for {LOST_S:g} s, and the launcher cannot be watched from here"
            return [GiveUp(f"{why}; attach again when it is back")]
        if now - self._agents_silent_since < LOST_S:
            return []
        self.phase = Phase.LAUNCHER_ENDED
        self._limit_at, self._last_sign_at, self._unwatched = math.inf, now, True
        where = f"on {self._launched.host} cannot be watched from here" if self._launched else "has never reported"
        self._missed = f"the launcher {where}, and no agent was heard for {LOST_S:g} s"
        return []

    def _how_it_went(self) -> str:
        return self._batch.how_it_went(self._launcher) if self._batch else self._launcher.how
