"""What an Executor and the broker say to one another about one execution. Pure: messages and time in, instructions out.

A `Conversation` holds a `core.Supervisor`, which decides about the Task; it adds what the protocol wants: delivering
the Executor's own records, reading the journal, giving credit, recalling what a former Executor had. No socket,
file, process or clock is in here, nor in the Supervisor. A skin (`session.Session`, or a simulator) does this:

    supervisor = Supervisor(now, by="ada@lab", time_s=unix_time - now)                       # who submits
    conversation = Conversation(Speaker(execution, EXECUTOR, 1, incarnation), supervisor)
    conversation.offer(encode_record(record_fields(submission)))                             # after writing it to disk

    supervisor = Supervisor(now, by="ada@lab", time_s=unix_time - now, attached=True)        # who attaches
    conversation = Conversation(Speaker(execution, EXECUTOR, epoch, incarnation), supervisor, former=records, …)

    conversation.take(message, now)     every message that a `LinkCore` shows, the first WELCOME included
    conversation.decide(stimulus, now)  Wanted, LauncherEnded, Watching; and Tick every second and at `deadline`
    conversation.outgoing(now)          after any of these: the PUT messages that are due

`take` and `decide` return `values.Instruction`s. They are to be carried out one after the other, in their order and
all of them, for `Send(CREDIT)` stands behind the hooks of what it confirms. A process that dies between the two has
called hooks for what is not confirmed: whoever attaches is given that again, marked `redelivered`. `Report(event)`
means: append the record to the spool, and whether or not that worked, `offer` it. After `Finish` (and after
`GiveUp`) only `take` and `outgoing` make sense, until `idle`. `now` is any clock in seconds that never goes back.

The rules:

1. Events are given in the order of their sequence, each once. A link that was interrupted READs after the last
   sequence. What a new journal (another `broker` in WELCOME) brings again is recognised by its number in its stream.
2. CREDIT for a batch says that all its hooks were called. What follows a let go in the same batch is not given, and
   not confirmed.
3. Whoever attaches first recalls the signals and results up to the journal's end, without a hook; then it reads on
   after what was `confirmed`. What is not after `given` is `redelivered`, for a former Executor may have had it; and
   once there is another journal, all of streams of which it had seen nothing by then, for they may come again.
4. `executor_attached` is an attached Executor's first word, behind what the former one had written to a spool on this
   machine and the broker had not got. A spool whose last owner is not the journal's last Executor was overtaken:
   what it still holds is dropped. Of an execution that has ended nothing is reported at all.
5. To another journal everything of our own is offered again, the submission too, before anything is read from it.
   Should it be behind where our records begin, they are numbered anew: nobody else can report for us.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from theorbo.executor.core import Phase, Supervisor
from theorbo.executor.own_records import OwnRecords
from theorbo.executor.recalling import OWN_SIGNALS, RECALLED_CHANNELS, Recollection, number_in
from theorbo.executor.reported import Reported
from theorbo.executor.values import (
    Accepted,
    AgentsHeard,
    EmptySpool,
    Fenced,
    Heard,
    Instruction,
    LastWord,
    Notice,
    OwnEvent,
    Rebuilt,
    Recalled,
    Report,
    Send,
    Stimulus,
    Tick,
    Wanted,
    Wish,
)
from theorbo.schemas import events
from theorbo.schemas.delivery import Delivery
from theorbo.schemas.errors import InternalError, Refused
from theorbo.schemas.frames import Command, ErrorCode, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import CREDIT_BYTES, SILENT_S
from theorbo.schemas.names import BROKER, EXECUTOR, Channel, Speaker, Stream
from theorbo.schemas.presentation import single_events
from theorbo.schemas.records import LF, RS


class Conversation:
    """One Executor's end of it, from the first WELCOME to the outcome."""

    def __init__(
        self,
        speaker: Speaker,
        supervisor: Supervisor,
        *,
        former: Sequence[bytes] = (),
        user: str = "",
        host: str = "",
    ) -> None:
        """An epoch above 1 means to attach: `former` are then the records of the Executor's spool on this machine,
        if there is one; `user` and `host` say who attaches.
        """
        self._speaker = speaker
        self._supervisor = supervisor
        self._user, self._host = user, host
        self._delivery = Delivery(speaker.execution)
        self._own = OwnRecords(former)
        self._recalling = speaker.epoch > 1
        self._accepted = False
        self._wants_read = False
        self._request = 0
        self._read_request = self._list_request = self._word_request = 0
        self._listed_at = supervisor.began_at
        self._last_sequence = 0
        self._known = Recollection()
        self._attached_number = 0
        self._run: object = None  # of the broker that has said WELCOME last
        self._seen: dict[Stream, int] = {}
        self._followed: frozenset[Stream] | None = None  # who attached, and met another journal: what it knew by then
        self._held_wishes: list[Wanted] = []

    @property
    def execution(self) -> bytes:
        """Which it is about."""
        return self._speaker.execution

    @property
    def submission(self) -> events.ExecutionSubmitted | None:
        """What was submitted, once it was heard or recalled."""
        return self._known.submission

    @property
    def deadline(self) -> float:
        """When a Tick is due at the latest."""
        return self._supervisor.deadline

    @property
    def idle(self) -> bool:
        """Whether everything of our own is acknowledged."""
        return self._delivery.idle

    @property
    def spool_done(self) -> bool:
        """Whether nobody needs the spool any more: what a former Executor has left in it is offered only after the
        recall.
        """
        return self.idle and not (self._recalling and self._own.records)

    def duration_s(self, unix: float) -> float:
        """From the submission to the final state, by the journal; to `unix` (Unix time) if there is none yet."""
        return self._known.duration_s(unix)

    def offer(self, record: bytes) -> None:
        """The next record of our own."""
        self._own.add(record)
        self._delivery.offer(EXECUTOR, Channel.SIGNALS, record)

    def outgoing(self, now: float) -> list[Message]:
        """What of our own is to be sent now."""
        out = []
        for instruction in self._delivery.outgoing(self._supervisor.unix(now)):
            if not isinstance(instruction, Message):
                raise InternalError("the Executor's own records have no attachments")
            out.append(instruction)
        return out

    def decide(self, stimulus: Stimulus, now: float) -> list[Instruction]:
        """What follows from something that was not said by the broker."""
        if isinstance(stimulus, Wanted):
            if self._recalling and stimulus.wish not in (Wish.INTERRUPT, Wish.LET_GO):
                self._held_wishes.append(stimulus)  # what is asked for already has to be known first
                return []
            if self._known.final_at:  # nothing is left to be cancelled
                stimulus = Wanted(Wish.LET_GO, stimulus.reason)
        out: list[Instruction] = [*self._supervisor.handle(stimulus, now)]
        if isinstance(stimulus, Tick):
            if self._wants_read:
                out.append(self._read())
            if self._supervisor.looks_for_last_word and not self._word_request and self._accepted:
                out.append(self._look_for_last_word())
            if self._supervisor.blind and now - self._listed_at >= SILENT_S:
                self._listed_at = now
                self._list_request = self._new_request()
                header = Header(request=self._list_request, execution=self._speaker.execution)
                out.append(Send(Message(Command.LIST, header, encode_json(all=True, limit=1))))
        return out

    def take(self, message: Message, now: float) -> list[Instruction]:
        """What follows from a message of the broker.

        Raises Refused if it does not take the submission, or cannot tell any more about the execution;
        ProtocolError for a body that is not what it must be.
        """
        header = message.header
        match message.command:
            case Command.WELCOME:
                return self._welcome(header, decode_json(message.body), now)
            case Command.ACK:
                return self._acknowledged(header, now)
            case Command.EVENTS if header.request == self._read_request:
                return self._recall(message, now) if self._recalling else self._hear(message, now)
            case Command.END if header.request == self._read_request and self._recalling:
                return self._recalled(now)
            case Command.EVENTS | Command.END if header.request == self._word_request:
                return self._last_word(message, now)
            case Command.LISTING if header.request == self._list_request:
                return [*self._supervisor.handle(AgentsHeard(_agents_heard(decode_json(message.body))), now)]
            case Command.REFUSED:
                return self._refused(message, now)
        return []

    # --- the broker is there, or is there again -------------------------------------------------------

    def _welcome(self, header: Header, said: dict[str, Any], now: float) -> list[Instruction]:
        another = self._delivery.welcomed(str(said.get("broker", "")))
        self._word_request = 0
        if another and self._speaker.epoch > 1 and self._followed is None:
            self._followed = frozenset(self._seen)
        number = number_in(said, "accepted")
        another_run, self._run = said.get("since") != self._run, said.get("since")
        if self._recalling:
            self._known.welcomed(header, said)
            return [] if self._over else [self._read()]
        if self._delivery.acknowledged(OWN_SIGNALS) < self._attached_number:  # the broker may have forgotten our epoch
            self._known.given = max(self._known.given, number_in(said, "given"))
        out: list[Instruction] = []
        if another:
            self._own.base = min(self._own.base, number)
            self._delivery.start(OWN_SIGNALS, self._own.base)
            for record in self._own.records:
                self._delivery.offer(EXECUTOR, Channel.SIGNALS, record)
            self._accepted = self._accepted and not self._own.records
        elif another_run:
            out += self._say_again(number, now)
        return [*out, self._read()] if self._accepted and not self._over else out

    def _say_again(self, number: int, now: float) -> list[Instruction]:
        """A broker that was killed before it had `executor_attached` on disk has forgotten us, and may have listened
        to the former Executor, if that one was only cut off: whose record has our number is not known then. So
        what we had to say is said once more, behind it; that does no harm if it was ours.
        """
        sure = max(self._delivery.acknowledged(OWN_SIGNALS), self._known.accepted)
        if not sure < self._attached_number <= max(number, sure) or self._over:
            return []
        again = self._own.records[sure - self._own.base :]
        self._own.forget()
        self._own.continue_after(number)
        self._delivery.start(OWN_SIGNALS, number)
        out: list[Instruction] = []
        for record in again:
            event = events.decode_event(record.strip(RS + LF))
            if isinstance(event, events.ExecutorAttached):
                self._attached_number = number + 1 + len(out)
                event = event.model_copy(update={"time": self._supervisor.unix(now), "number": self._attached_number})
            if isinstance(event, OwnEvent):
                out.append(Report(event))
        return out

    def _ask_again(self, event: events.EventBase) -> list[Instruction]:
        """What we had asked for, and was damaged in the journal before it had reached anybody, is asked once more."""
        if not isinstance(event, events.Loss) or event.stream != str(OWN_SIGNALS) or self._over:
            return []
        begin, end = (max(0, number - self._own.base) for number in (event.first - 1, event.last))
        later = self._own.records[end:]
        lost = [events.decode_event(each.strip(RS + LF)) for each in self._own.records[begin:end] if each not in later]
        again = [each for each in lost if isinstance(each, OwnEvent) and not isinstance(each, events.ExecutorAttached)]
        return [Report(each) for each in again]

    def _acknowledged(self, header: Header, now: float) -> list[Instruction]:
        self._delivery.handle_ack(header, self._supervisor.unix(now))
        if self._accepted or self._recalling or not self._delivery.acknowledged(OWN_SIGNALS):
            return []
        self._accepted = True
        return [self._read(), *self._supervisor.handle(Accepted(), now)] if not self._over else []

    def _refused(self, message: Message, now: float) -> list[Instruction]:
        fields = decode_json(message.body)
        code, words = str(fields.get("code")), str(fields.get("message"))
        if code == ErrorCode.FENCED:
            self._delivery.disconnected()
            return [*self._supervisor.handle(Fenced(), now)]
        if self._over:
            return []
        if self._supervisor.phase is Phase.SUBMITTING:
            raise Refused(code, f"the broker refuses the submission: {words} ({code})")
        if message.header.request == self._word_request:
            self._word_request = 0  # it looks again
            return []
        if message.header.request == self._read_request:
            if code == ErrorCode.UNKNOWN_EXECUTION:
                words = "it has another journal than before"
            execution = self._speaker.execution.hex()
            raise Refused(code, f"the broker cannot tell any more about execution {execution}: {words}")
        return [Notice(f"the broker refuses what the Executor has reported: {words} ({code})")]

    # --- reading --------------------------------------------------------------------------------------

    def _read(self) -> Send:
        self._wants_read = False
        self._read_request = self._new_request()
        channels = RECALLED_CHANNELS if self._recalling else None
        follow = not self._recalling
        body = encode_json(follow=follow, after=self._last_sequence, channels=channels, credit=CREDIT_BYTES)
        header = Header(request=self._read_request, execution=self._speaker.execution)
        return Send(Message(Command.READ, header, body))

    def _look_for_last_word(self) -> Send:
        """From where we are to the journal's end, past all that waits to be heard."""
        self._word_request = self._new_request()
        fields = {"after": self._last_sequence, "channels": [Channel.SIGNALS.text], "credit": CREDIT_BYTES}
        header = Header(request=self._word_request, execution=self._speaker.execution)
        return Send(Message(Command.READ, header, encode_json(follow=False, **fields)))

    def _last_word(self, message: Message, now: float) -> list[Instruction]:
        if message.command == Command.END:
            self._word_request = 0
            return [*self._supervisor.handle(LastWord(None), now)]
        out: list[Instruction] = []
        for _, event in single_events(message.header, message.body):
            if isinstance(event, (events.LauncherEnded, events.LauncherGone)):
                out += self._supervisor.handle(LastWord(event), now)
        return [*out, self._credit(message, self._last_sequence)]

    def _hear(self, message: Message, now: float) -> list[Instruction]:
        header = message.header
        out: list[Instruction] = []
        if header.sequence > self._last_sequence:  # else it was read twice, around a reconnection
            for own, event in single_events(header, message.body):
                if self._over:
                    return out
                self._known.learn(own, event)
                reported = self._fresh(own, event)
                if reported:
                    out += self._supervisor.handle(Heard(reported), now)
                    out += self._ask_again(event)
            self._last_sequence = header.sequence
        elif self._over:
            return out
        return [*out, self._credit(message, self._last_sequence)]

    def _fresh(self, header: Header, event: events.EventBase) -> Reported | None:
        """The event, unless it was given before; what the broker itself reports may have changed since then."""
        stream = Stream(header.source or BROKER, Channel(header.channel))
        again = header.first <= self._seen.get(stream, 0)
        if again and stream.source != BROKER:
            return None
        self._seen[stream] = header.first
        unsure = self._followed is not None and stream not in self._followed
        return Reported(header, event, redelivered=again or unsure or header.sequence <= self._known.given)

    def _credit(self, message: Message, sequence: int) -> Send:
        header = Header(
            request=message.header.request, execution=self._speaker.execution, count=len(message.body),
            sequence=sequence,
        )  # fmt: skip
        return Send(Message(Command.CREDIT, header))

    # --- recalling ------------------------------------------------------------------------------------

    def _recall(self, message: Message, now: float) -> list[Instruction]:
        header = message.header
        out: list[Instruction] = []
        if header.sequence > self._last_sequence and not self._over:
            self._last_sequence = header.sequence
            for own, event in single_events(header, message.body):
                self._known.learn(own, event)
                recalled = Recalled(Reported(own, event), header.sequence <= self._known.confirmed)
                out += self._supervisor.handle(recalled, now)
        return [*out, self._credit(message, min(header.sequence, self._known.confirmed))]

    def _recalled(self, now: float) -> list[Instruction]:
        """The journal's end as it was; what was accepted then, but not yet on disk, is waited for."""
        if self._over:
            return []
        if not self._known.complete:
            self._wants_read = True
            return []
        self._recalling = False
        self._accepted = True
        self._last_sequence = self._known.confirmed
        out: list[Instruction] = []
        if not self._own.belongs_to(self._known.holder):
            out.append(EmptySpool())
            self._own.forget()
        if self._known.final_at:
            self._own.forget()
        self._own.continue_after(self._known.accepted)
        self._delivery.start(OWN_SIGNALS, self._own.base)
        if not self._known.final_at:
            for record in self._own.records:
                self._delivery.offer(EXECUTOR, Channel.SIGNALS, record)
            attached = events.ExecutorAttached(
                time=self._supervisor.unix(now), epoch=self._speaker.epoch, incarnation=self._speaker.incarnation,
                number=self._own.next_number, user=self._user, host=self._host,
            )  # fmt: skip
            self._attached_number = attached.number
            out.append(Report(attached))
        out += self._supervisor.handle(Rebuilt(self._known.launched_ago_s), now)
        for wanted in self._held_wishes:
            out += self._supervisor.handle(wanted, now)
        return out if self._over else [*out, self._read()]

    # --- small things -------------------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return self._supervisor.phase is Phase.OVER

    def _new_request(self) -> int:
        self._request += 1
        return self._request


def _agents_heard(listing: dict[str, Any]) -> bool:
    """Whether any agent in a view is not silent. LISTING comes from the broker, and holds the one view asked for."""
    views = listing.get("executions")
    contacts = [view.get("contact") for view in views if isinstance(view, dict)] if isinstance(views, list) else []
    return any(
        name.startswith("agent:") and value != "silent"
        for contact in contacts
        if isinstance(contact, dict)
        for name, value in contact.items()
    )
