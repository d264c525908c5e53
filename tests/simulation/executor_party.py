"""The Executor in the simulator: the real Conversation and Supervisor. One object is one life of a process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from theorbo.executor.conversation import Conversation
from theorbo.executor.core import Supervisor
from theorbo.executor.values import (
    CallHooks,
    EmptySpool,
    EndLauncher,
    Finish,
    GiveUp,
    Instruction,
    Launch,
    LauncherEnded,
    Notice,
    Remember,
    Report,
    Send,
    Stimulus,
    Tick,
    Wanted,
    Watching,
    WatchLauncher,
    Wish,
)
from theorbo.schemas.errors import Refused
from theorbo.schemas.events import ExecutionSubmitted, record_fields
from theorbo.schemas.frames import Command, Header, Message, encode_json
from theorbo.schemas.limits import ANSWER_S, HEARTBEAT_S
from theorbo.schemas.names import EXECUTOR, Channel, Speaker, Stream
from theorbo.schemas.records import encode_record

from .client import ClientLink
from .plan import ExecutionPlan
from .scheduler import Process

if TYPE_CHECKING:
    from .world import World


class ExecutorParty(Process):
    def __init__(self, world: World, number: int, plan: ExecutionPlan, life: int, host: str) -> None:
        """The first life submits; the later ones attach."""
        super().__init__(world.scheduler, world.host(host), f"executor-{number}")
        self.world = world
        self._plan = plan
        self.life = life
        self._planned = False
        self.number = number
        self.execution = world.execution_id(number)
        self.over = False
        """Whether it has an outcome, or gave up."""
        self.outcome: Finish | GiveUp | Refused | None = None
        self.final_sequence = 0
        """Of what was heard last."""
        self.dies_in = -1
        """After so many further instructions it is killed; negative: it is not."""
        self._spool = world.executor_spool(number, host)
        self._attached = life > 1
        self._conversation: Conversation | None = None
        if self._attached:
            self._ask()
        else:
            self._begin(1)
            submission = ExecutionSubmitted(
                time=self.wall, task="galaxies", experiment="mfx1", run=str(number), ranks=len(plan.ranks),
                user="alice", host=host, time_limit_s=plan.time_limit_s, incarnation=self._incarnation,
            )  # fmt: skip
            self._write(record_fields(submission))
        self.after(HEARTBEAT_S, self._tick)

    # --- beginning -------------------------------------------------------------------------------

    @property
    def _incarnation(self) -> str:
        return f"executor {self.number} life {self.life}"

    def _ask(self) -> None:
        """Who attaches looks first which epoch the former Executor has."""
        self._link = ClientLink(self.world, self, None)
        self._send_list()

    def _send_list(self) -> None:
        header = Header(request=self._link.new_request(), execution=self.execution)
        self._link.send(Message(Command.LIST, header, encode_json(all=True, limit=1)))
        self._asked_at = self.now

    def _begin(self, epoch: int) -> None:
        supervisor = Supervisor(
            self.now, by="alice@login", grace_s=1.0, time_limit_s=self._plan.time_limit_s,
            time_s=self.wall - self.now, attached=self._attached,
        )  # fmt: skip
        speaker = Speaker(self.execution, EXECUTOR, epoch, self._incarnation)
        self._conversation = Conversation(
            speaker, supervisor, former=list(self._spool), user="alice", host=self.host.name
        )
        self._link = ClientLink(self.world, self, speaker)

    # --- what happens ----------------------------------------------------------------------------

    def on_message(self) -> None:
        if not self._planned:
            self._planned = True
            self.after(self.scheduler.chance.uniform(0.0, 0.002), self._turn)

    def _turn(self) -> None:
        self._planned = False
        for message in self._link.receive():
            if self._conversation is None:
                self._found(message)
                continue
            try:
                self._carry_out(self._conversation.take(message, self.now))
            except Refused as refused:
                self._end(refused)
            if not self.alive:
                return
            if message.command == Command.ACK:
                self.world.checks.acknowledged(self.execution, self._conversation)
        self._send()

    def _found(self, message: Message) -> None:
        if message.command != Command.LISTING:
            return
        views = json.loads(message.body)["executions"]
        if views:
            self._link.close()
            self._begin(views[0]["executor_epoch"] + 1)
        else:
            self._end(GiveUp("nobody has submitted it"))
            self._leave()

    def _tick(self) -> None:
        self.after(HEARTBEAT_S, self._tick)
        self._link.tick()
        if self._conversation is None:
            if self.now - self._asked_at > ANSWER_S:
                self._send_list()
            return
        self._decide(Tick(self._link.silent_for_s, self._link.core.problem))
        self.world.checks.bounded_sender(self.name, self._conversation._delivery)

    def cancel(self) -> None:
        """As often as the user likes."""
        self.run(self._decide, Wanted(Wish.CANCEL, "enough"))

    def launcher_ended(self, code: int) -> None:
        self.run(self._decide, LauncherEnded(code))

    def _decide(self, stimulus: Stimulus) -> None:
        if self._conversation and not self.over:
            self._carry_out(self._conversation.decide(stimulus, self.now))
        self._send()

    def _send(self) -> None:
        if self.alive and self._conversation:
            for message in self._conversation.outgoing(self.now):
                self._link.send(message)
            if self.over and self._conversation.idle:
                self._leave()

    def _leave(self) -> None:
        if self.alive:
            self._link.close()
            self.alive = False

    # --- what was decided ------------------------------------------------------------------------

    def _carry_out(self, instructions: list[Instruction]) -> None:
        for it in instructions:
            if self.dies_in == 0:
                self.kill()
            if not self.alive:
                return
            self.dies_in -= 1
            self._one(it)

    def _one(self, it: Any) -> None:
        match it:
            case CallHooks(_, reported):
                self.world.readers.hook(self, reported)
                self.final_sequence = reported.header.sequence
            case Report(event):
                self._write(record_fields(event))
            case Send(message):
                self._link.send(message)
            case Launch():
                self.world.launch(self)
            case WatchLauncher():
                self._watch()
            case EmptySpool():
                self._spool.clear()
            case Finish() | GiveUp():
                self._end(it)
            case Notice(text):
                self.world.story.tell(self.name, text)
            case Remember() | EndLauncher():
                pass

    def _write(self, fields: dict[str, Any]) -> None:
        assert self._conversation is not None
        record = encode_record(fields)
        self._spool.append(record)
        self.world.checks.reported(self.execution, Stream(EXECUTOR, Channel.SIGNALS), record)
        self._conversation.offer(record)

    def _watch(self) -> None:
        job = self.world.jobs.get(self.number)
        if job and self.host.name == "login":
            if job.launcher_lives:
                job.watchers.append(self)
                self.after(0.0, self._decide, Watching())
            else:
                self.after(0.0, self._decide, LauncherEnded(None))

    def _end(self, outcome: Finish | GiveUp | Refused) -> None:
        self.over = True
        self.outcome = outcome
        self.after(ANSWER_S, self._leave)  # its last words are delivered as far as that takes
        if self.world.story.told:
            self.world.story.tell(self.name, f"ends: {outcome!r}")

    def kill_if_alive(self) -> None:
        if self.alive and not self.over:
            self.kill()

    def kill(self) -> None:
        super().kill()
        self._link.dealer.close()
        self.world.story.tell(self.name, "is dead")
