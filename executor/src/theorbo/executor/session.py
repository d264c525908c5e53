"""One execution, from its submission to its outcome: the skin around `core.Supervisor`.

One thread, one poll over the link to the broker, the launcher's process and the wishes of others. Each turn:
send what is to be sent, wait, take what has come in, let the core decide, carry out what it says.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from theorbo.executor import core
from theorbo.executor.launcher import Launcher
from theorbo.executor.reported import Reported
from theorbo.executor.wishes import Wishes
from theorbo.schemas.delivery import Delivery
from theorbo.schemas.errors import InternalError, Refused, Unavailable
from theorbo.schemas.events import EventBase, ExecutionSubmitted, record_fields
from theorbo.schemas.frames import Command, ErrorCode, Header, Message, decode_json, encode_json
from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.limits import ANSWER_S, CREDIT_BYTES, HEARTBEAT_S, LAUNCHER_WORD_S
from theorbo.schemas.link import Link
from theorbo.schemas.names import EXECUTOR, Channel, Stream
from theorbo.schemas.presentation import single_events
from theorbo.schemas.records import encode_record
from theorbo.schemas.spool import append, open_append, spool_name

_OWN_SIGNALS = Stream(EXECUTOR, Channel.SIGNALS)


class Session:
    """Carries one execution out. Not safe to share between threads, but for its `wishes`."""

    def __init__(
        self,
        link: Link,
        plan: LaunchPlan,
        spool: Path,
        supervisor: core.Supervisor,
        wishes: Wishes,
        *,
        call_hooks: Callable[[tuple[str, ...], Reported], None],
        notice: Callable[[str], None],
    ) -> None:
        """`spool` is the Executor's own, `link` is welcomed and belongs to the execution of `plan`."""
        self._link = link
        self._plan = plan
        self._spool = spool
        self._supervisor = supervisor
        self._wishes = wishes
        self._call_hooks = call_hooks
        self._notice = notice
        self._execution = bytes.fromhex(plan.execution)
        self._delivery = Delivery(self._execution)
        self._delivery.welcomed()
        self._records = open_append(spool / spool_name(EXECUTOR))
        self._launcher: Launcher | None = None
        self._launcher_ended = False
        self._accepted = False
        self._read_request = 0
        self._last_sequence = 0
        self._tick_at = time.monotonic() + HEARTBEAT_S
        self._finish: core.Finish | None = None

    def run(self, submission: ExecutionSubmitted) -> core.Finish:
        """Submit, launch, supervise until the outcome is known or the Task was let go.

        Raises Refused or Unavailable if the broker does not take the submission (nothing was launched then)
        or if the outcome cannot be learned any more.
        """
        self._report(submission)
        while self._finish is None:
            self._turn()
        self._settle()
        return self._finish

    def close(self) -> None:
        """Give everything back. What the broker has not acknowledged stays in the spool."""
        os.close(self._records)
        if self._launcher:
            self._launcher.close()
        if self._delivery.idle:
            shutil.rmtree(self._spool, ignore_errors=True)

    def _turn(self) -> None:
        self._send()
        self._wait(min(self._tick_at, self._supervisor.deadline))
        for message in self._link.receive():
            self._take(message)
        for wanted in self._wishes.take():
            self._decide(wanted)
        self._look_at_launcher()
        now = time.monotonic()
        if now >= self._tick_at or now >= self._supervisor.deadline:
            self._tick_at = now + HEARTBEAT_S
            self._link.tick()
            self._decide(core.Tick(self._link.silent_for_s, self._link.problem))

    def _send(self) -> None:
        for instruction in self._delivery.outgoing(time.time()):
            if not isinstance(instruction, Message):
                raise InternalError("the Executor's own records have no attachments")
            self._link.send(instruction)

    def _wait(self, until: float) -> None:
        waited_for: list[tuple[zmq.Socket[bytes] | int, int]] = [
            (self._link.socket, zmq.POLLIN),
            (self._wishes.descriptor, zmq.POLLIN),
        ]
        if self._launcher and self._launcher.descriptor is not None and not self._launcher_ended:
            waited_for.append((self._launcher.descriptor, zmq.POLLIN))
        left_s = max(0.0, until - time.monotonic())
        zmq.zmq_poll(waited_for, int(left_s * 1000) + 1)

    # --- what comes from the broker ---------------------------------------------------------------

    def _take(self, message: Message) -> None:
        match message.command:
            case Command.EVENTS:
                self._take_events(message)
            case Command.ACK:
                self._delivery.handle_ack(message.header, time.time())
                if not self._accepted and self._delivery.acknowledged(_OWN_SIGNALS):
                    self._accepted = True
                    self._read()
                    self._decide(core.Accepted())
            case Command.WELCOME:  # the broker was away, and may have forgotten us
                self._delivery.welcomed()
                if self._accepted:
                    self._read()
            case Command.REFUSED:
                self._take_refusal(message)

    def _take_events(self, message: Message) -> None:
        header = message.header
        if header.sequence > self._last_sequence:  # else it was read twice, around a reconnection
            self._last_sequence = header.sequence
            for own, event in single_events(header, message.body):
                self._decide(core.Heard(Reported(own, event)))
        credit = Header(request=header.request, execution=self._execution, count=len(message.body))
        self._link.send(Message(Command.CREDIT, credit._replace(sequence=self._last_sequence)))

    def _take_refusal(self, message: Message) -> None:
        fields = decode_json(message.body)
        code, words = str(fields.get("code")), str(fields.get("message"))
        if not self._accepted:
            raise Refused(code, f"the broker refuses the submission: {words} ({code})")
        if message.header.request == self._read_request:
            if code == ErrorCode.UNKNOWN_EXECUTION:
                words = "it has another journal than before"
            raise Refused(code, f"the broker cannot tell any more about execution {self._plan.execution}: {words}")
        self._notice(f"the broker refuses what the Executor has reported: {words} ({code})")

    def _read(self) -> None:
        self._read_request = self._link.new_request()
        body = encode_json(follow=True, after=self._last_sequence, channels=None, credit=CREDIT_BYTES)
        self._link.send(Message(Command.READ, Header(request=self._read_request, execution=self._execution), body))

    # --- what is to be done --------------------------------------------------------------------------

    def _decide(self, stimulus: core.Stimulus) -> None:
        for instruction in self._supervisor.handle(stimulus, time.monotonic()):
            self._carry_out(instruction)

    def _carry_out(self, instruction: core.Instruction) -> None:
        match instruction:
            case core.CallHooks(names, reported):
                self._call_hooks(names, reported)
            case core.Report(event):
                self._report(event)
            case core.Launch():
                self._launch()
            case core.Notice(text):
                self._notice(text)
            case core.EndLauncher():
                if self._launcher:
                    self._launcher.terminate()
            case core.Finish():
                self._finish = instruction
            case core.GiveUp(reason):
                raise Unavailable(f"{reason}; theorbo tail --execution {self._plan.execution} may tell later")

    def _report(self, event: EventBase) -> None:
        record = encode_record(record_fields(event))
        try:
            append(self._records, record)
        except OSError as error:
            raise Unavailable(f"cannot write to {self._spool}: {error.strerror}") from None
        self._delivery.offer(EXECUTOR, Channel.SIGNALS, record)

    def _launch(self) -> None:
        try:
            self._launcher = Launcher(self._plan, self._spool)
        except (OSError, Unavailable) as error:
            self._launcher_ended = True
            self._decide(core.LauncherEnded(None, str(error)))

    def _look_at_launcher(self) -> None:
        if self._launcher and not self._launcher_ended and (ended := self._launcher.ended()):
            self._launcher_ended = True
            self._decide(ended)

    def _settle(self) -> None:
        """Deliver our last words, and let the launcher tidy up; both for a short time only."""
        deadline = time.monotonic() + ANSWER_S
        while not self._delivery.idle and time.monotonic() < deadline:
            self._send()
            self._wait(deadline)
            for message in self._link.receive():
                if message.command == Command.ACK:
                    self._delivery.handle_ack(message.header, time.time())
        deadline = time.monotonic() + LAUNCHER_WORD_S
        final = self._finish is not None and self._finish.state.final
        while final and self._launcher and self._launcher.ended() is None and time.monotonic() < deadline:
            self._wait(deadline)
            self._link.receive()
