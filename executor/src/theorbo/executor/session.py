"""One execution, until its outcome: the skin around `conversation.Conversation`.

One thread, one poll over the link to the broker, the launcher's process and the wishes of others. Each turn:
send what is to be sent, wait, take what has come in, let the core decide, carry out what it says.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq

from theorbo.executor import values
from theorbo.executor.batch import BATCH_LAUNCHER
from theorbo.executor.conversation import Conversation
from theorbo.executor.heartbeat import Heartbeat
from theorbo.executor.launched import Launched, Launcher
from theorbo.executor.own_spool import OwnSpool
from theorbo.executor.reported import Reported
from theorbo.executor.wishes import Wishes
from theorbo.schemas.errors import InternalError, Unavailable
from theorbo.schemas.events import EventBase, ExecutionSubmitted, JobSubmitted, LauncherStarted, record_fields
from theorbo.schemas.frames import Message
from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.limits import ANSWER_S, HEARTBEAT_S, LAUNCHER_WORD_S
from theorbo.schemas.link import Link
from theorbo.schemas.records import encode_record


class Session:
    """Carries one conversation out. Not safe to share between threads, but for its `wishes`."""

    def __init__(
        self,
        link: Link,
        conversation: Conversation,
        spool: OwnSpool | None,
        wishes: Wishes,
        *,
        call_hooks: Callable[[tuple[str, ...], Reported], None],
        remember: Callable[[Reported], None],
        notice: Callable[[str], None],
        launcher: Callable[[ExecutionSubmitted], Launcher],
        plan: LaunchPlan | None = None,
    ) -> None:
        """`spool` is the Executor's own; there may be none where nothing will be reported. `link` is welcomed, and
        belongs to the execution. `launcher` gives what launches what was submitted. Without a `plan` nothing can be
        launched.
        """
        self._link = link
        self._conversation = conversation
        self._spool = spool
        self._wishes = wishes
        self._call_hooks = call_hooks
        self._remember = remember
        self._notice = notice
        self._plan = plan
        self._choose_launcher = launcher
        self._launched: Launched | None = None
        self._launcher_ended = False
        self._inbox: list[Message] = []
        self._heartbeat = Heartbeat(link, conversation.execution)
        self._tick_at = time.monotonic() + HEARTBEAT_S
        self._submission: ExecutionSubmitted | None = None
        self._finish: values.Finish | None = None

    def run(self, submission: ExecutionSubmitted | None = None) -> values.Finish:
        """Submit and launch, or take up what another has launched; supervise until the outcome is known or the Task
        was let go.

        Raises Refused or Unavailable if the broker does not take the submission (nothing was launched then)
        or if the outcome cannot be learned any more.
        """
        self._submission = submission
        if submission and not self._report(submission) and self._spool:
            raise Unavailable(f"cannot write to {self._spool.directory}: {self._spool.problem}")
        self._take([self._link.welcome])
        while self._finish is None:
            self._turn()
        self._settle(self._finish)
        return self._finish

    def close(self) -> None:
        """Give everything back. What the broker has not acknowledged stays in the spool."""
        self._heartbeat.close()
        if self._launched:
            self._launched.close(over=self._finish is not None and self._finish.state.final)
        if self._spool:
            self._spool.close(remove=self._conversation.spool_done)

    def _turn(self) -> None:
        self._send()
        self._wait(0.0 if self._inbox else min(self._tick_at, self._conversation.deadline))
        inbox, self._inbox = [*self._inbox, *self._link.receive()], []
        self._take(inbox)
        for wanted in self._wishes.take():
            self._decide(wanted)
        self._look_at_launched()
        now = time.monotonic()
        if now >= self._tick_at or now >= self._conversation.deadline:
            self._tick_at = now + HEARTBEAT_S
            self._inbox = self._link.receive()  # hooks may have taken long: the broker is only as silent as this says
            self._link.tick()
            if self._spool:
                self._spool.flush()
            self._decide(values.Tick(self._link.silent_for_s, self._link.problem))

    def _send(self) -> None:
        for message in self._conversation.outgoing(time.monotonic()):
            self._link.send(message)

    def _wait(self, until: float) -> None:
        waited_for: list[tuple[zmq.Socket[bytes] | int, int]] = [
            (self._link.socket, zmq.POLLIN),
            (self._wishes.descriptor, zmq.POLLIN),
        ]
        if self._launched and self._launched.descriptor is not None and not self._launcher_ended:
            waited_for.append((self._launched.descriptor, zmq.POLLIN))
        left_s = max(0.0, until - time.monotonic())
        zmq.zmq_poll(waited_for, int(left_s * 1000) + 1)

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            self._perform(self._conversation.take(message, time.monotonic()))

    def _decide(self, stimulus: values.Stimulus) -> None:
        self._perform(self._conversation.decide(stimulus, time.monotonic()))

    # --- what is to be done --------------------------------------------------------------------------

    def _perform(self, instructions: list[values.Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case values.Send(message):
                    self._link.send(message)
                case values.CallHooks(names, reported):
                    with self._heartbeat.meanwhile():
                        self._call_hooks(names, reported)
                case values.Remember(reported):
                    self._remember(reported)
                case values.Report(event):
                    self._report_in_any_case(event)
                case values.Launch():
                    self._launch()
                case values.WatchLauncher(launched):
                    self._watch(launched)
                case values.Withdraw():
                    if self._launched:
                        self._launched.withdraw()
                    else:
                        self._decide(values.Withdrawn(False, "the scheduler cannot be asked from this machine"))
                case values.Notice(text):
                    self._notice(text)
                case values.EndLauncher():
                    if self._launched:
                        self._launched.terminate()
                case values.EmptySpool():
                    if self._spool:
                        self._spool.clear()
                case values.Finish():
                    self._finish = instruction
                case values.GiveUp(reason):
                    raise Unavailable(f"{reason}; theorbo tail --execution {self._execution} may tell later")

    @property
    def _execution(self) -> str:
        return self._conversation.execution.hex()

    def _report(self, event: EventBase) -> bool:
        """Whether it is in the spool; it is delivered in any case."""
        record = encode_record(record_fields(event))
        written = self._spool is not None and self._spool.append(record)
        self._conversation.offer(record)
        return written

    def _report_in_any_case(self, event: EventBase) -> None:
        if not self._report(event) and self._spool:
            words = f"cannot write to {self._spool.directory}: {self._spool.problem}"
            self._notice(f"{words}; what the Executor reports is delivered all the same, as long as this process lives")

    def _launch(self) -> None:
        submission = self._conversation.submission or self._submission
        if not self._plan or not self._spool or not submission:
            raise InternalError("there is no plan to launch by")
        try:
            self._launched = self._choose_launcher(submission).launch(self._plan, self._spool.directory)
        except (OSError, Unavailable) as error:
            self._launcher_ended = True
            self._decide(values.LauncherEnded(None, str(error), started=False))

    def _watch(self, launched: LauncherStarted | JobSubmitted | None) -> None:
        submission = self._conversation.submission
        if self._launched is not None or submission is None:
            return
        try:
            self._launched = self._choose_launcher(submission).find(launched)
        except ProcessLookupError:
            self._decide(values.LauncherEnded(None))
        else:
            if self._launched:
                self._decide(values.Watching())
            elif submission.launcher == BATCH_LAUNCHER:
                self._notice(
                    "the scheduler cannot be asked from this machine: of its job only what agents report is seen"
                )

    def _look_at_launched(self) -> None:
        if self._launched is None or self._launcher_ended:
            return
        for news in self._launched.news():
            if isinstance(news, values.Notice):
                self._notice(news.text)
            else:
                self._decide(news)
        if ended := self._launched.ended():
            self._launcher_ended = True
            self._decide(ended)

    def _settle(self, finish: values.Finish) -> None:
        """Deliver our last words, and let the launcher tidy up; both for a short time only. Who wants it to end
        meanwhile has it.
        """
        self._wishes.take()
        deadline = time.monotonic() + ANSWER_S
        while not self._conversation.idle and not finish.fenced and time.monotonic() < deadline:
            self._send()
            self._wait(deadline)
            self._take(self._link.receive())
            if self._wishes.take():
                return
        deadline = time.monotonic() + LAUNCHER_WORD_S
        tidies_up = self._launched if finish.state.final and self._launched and self._launched.local else None
        while tidies_up and tidies_up.ended() is None and time.monotonic() < deadline:
            self._wait(deadline)
            self._take(self._link.receive())
            if self._wishes.take():
                return
