"""The observer's half of the conversation: joining, following, repairing, joining again. Pure.

Messages and time in; out come messages to send, subscriptions to make, and what there is to see. The
steps of joining (`docs/protocol.md`, section Live streams)::

    FIRST_NONCE ── its answer: there is a connection ──> SECOND_NONCE ── its answer: all before it is active ──>
    LISTING ── the views with their heads ──> FOLLOWING

There are two nonces because libzmq, when it connects anew, makes the subscriptions in an order of its
own; only what is subscribed on a standing connection comes after all the rest.

While FOLLOWING the steps are done again when the broker welcomes us anew, when the live stream was
connected anew, or when no beacon came for `SUSPECT_S`: what the beacon does not name any more by then must
be seen in a LISTING. The splice makes sure that nothing is seen twice.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from theorbo.observer.filters import Filter
from theorbo.observer.splice import Ask, Deliver, Gap, Splice
from theorbo.observer.splice import Instruction as SpliceInstruction
from theorbo.observer.states import has_ended
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.events import StateChanged
from theorbo.schemas.frames import NO_EXECUTION, Command, ErrorCode, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import (
    ANSWER_S,
    LISTING_ROWS,
    OBSERVED_EXECUTIONS,
    REPAIR_CREDIT_BYTES,
    SUSPECT_S,
    VIEWS_AT_ONCE,
)
from theorbo.schemas.names import Channel, parse_topic
from theorbo.schemas.presentation import single_events

BEACON = b"beacon/"
NONCE = b"nonce/"

View = Mapping[str, Any]
"""Of an execution: as in LISTING, or only `execution`, `task`, `experiment` and `run`."""


class Subscribe(NamedTuple):
    """An instruction to the skin."""

    topic: bytes


class Unsubscribe(NamedTuple):
    """An instruction to the skin."""

    topic: bytes


class Snapshot(NamedTuple):
    """What there is at the moment of joining: everything after it follows as events."""

    views: tuple[View, ...]
    """Of the open executions that are wanted; of the one that was named also if it has ended."""
    sequence: int
    """The journal's last."""


class Batch(NamedTuple):
    """The next events of an execution, not filtered by kind."""

    header: Header
    view: View
    body: bytes


class Missed(NamedTuple):
    """These positions (both included) of a channel could not be had from the journal; the rest goes on."""

    view: View
    channel: Channel
    first: int
    last: int
    reason: str


class Finished(NamedTuple):
    """With `until_ended`: all wanted executions have ended, and everything of them was handed over."""


Instruction = Message | Subscribe | Unsubscribe | Snapshot | Batch | Missed | Finished


class _Step(enum.Enum):
    FIRST_NONCE = 1
    SECOND_NONCE = 2
    LISTING = 3
    FOLLOWING = 4


class Subscription:
    """One observer's wishes and what was fulfilled.

    `random_text` gives texts that nobody else has, `new_request` numbers for the header's `request`.
    """

    def __init__(
        self,
        wanted: Filter,
        random_text: Callable[[], str],
        new_request: Callable[[], int],
        *,
        until_ended: bool = False,
    ) -> None:
        self._filter = wanted
        self._random_text = random_text
        self._new_request = new_request
        self._until_ended = until_ended
        self._step = _Step.FIRST_NONCE
        self._step_at = 0.0
        self._nonce = b""
        self._broker: str | None = None
        self._subscribed = False
        self._reset()

    def _reset(self) -> None:
        self._splice = Splice()
        self._names: dict[bytes, View] = {}
        self._foreign: set[bytes] = set()  # not wanted, and named by the last beacon
        self._asked: dict[int, Ask] = {}  # READs under way
        self._processed: dict[int, int] = {}  # bytes of each that came and were not credited yet
        self._asked_views: dict[int, bytes] = {}  # LISTs of one execution under way
        self._listing = 0  # request of the LIST of joining
        self._listed: list[View] | None = None  # its first answer, while a second is awaited
        self._sequence = 0
        self._beacon_at = 0.0
        self._open: set[bytes] = set()
        self._ended: dict[bytes, Mapping[Channel, int] | None] = {}  # final, but not all of it is here

    def join(self, broker: str, now: float) -> list[Instruction]:
        """A conversation has begun, or begun anew, with the broker of this id.

        A broker with another id has another journal: everything starts again, with another Snapshot.
        """
        if self._broker not in (None, broker):
            self._reset()
        self._broker = broker
        self._asked_views.clear()
        out: list[Instruction] = []
        if not self._subscribed:
            self._subscribed = True
            out += [Subscribe(prefix) for prefix in [*self._filter.topics(), BEACON]]
        self._asked.clear()
        self._processed.clear()
        out += self._perform(self._splice.reconnected(now))
        return out + self._begin(_Step.FIRST_NONCE, now)

    def published(self, message: Message, now: float) -> list[Instruction]:
        """A message of the live stream. What is malformed is passed over: its sequence shows as a gap."""
        topic, header, body = message
        if topic.startswith(NONCE):
            return self._confirmed(topic, now)
        if topic == BEACON:
            return self._beacon(body, now)
        try:
            channel, experiment, run, task, execution = parse_topic(topic)
        except ValueError:
            return []
        view = {"execution": execution, "task": task, "experiment": experiment, "run": run}
        if not header.channel or header.channel not in self._filter.followed or not self._filter.admits(view):
            return []
        if execution != header.execution.hex() or channel != Channel(header.channel).text:
            return []
        self._meet(header.execution, view)
        return self._perform(self._splice.live(header, body, now))

    def answered(self, message: Message, now: float) -> list[Instruction]:
        """A message of the conversation. Raises ProtocolError for a body that is not what it must be."""
        command, header, body = message
        if command == Command.WELCOME:
            return self.join(str(decode_json(body).get("broker")), now)
        if command == Command.EVENTS and header.channel:
            if header.execution not in self._names:
                return []  # of a READ before everything started again
            return self._credit(header, len(body)) + self._perform(self._splice.repaired(header, body, now))
        if command == Command.END and (ask := self._asked.pop(header.request, None)):
            self._processed.pop(header.request, None)
            return self._perform(self._splice.repair_ended(ask.execution, ask.channel, now))
        if command == Command.LISTING:
            return self._views(header, decode_json(body), now)
        if command == Command.REFUSED:
            return self._refused(header, decode_json(body), now)
        return []

    def tick(self, now: float) -> list[Instruction]:
        """To be called about every second."""
        out = self._perform(self._splice.tick(now))
        if self._step is not _Step.FOLLOWING and now - self._step_at > ANSWER_S:
            out += self._begin(_Step.FIRST_NONCE, now)
        return out

    # --- joining -----------------------------------------------------------------------------------

    def _begin(self, step: _Step, now: float) -> list[Instruction]:
        self._step, self._step_at = step, now
        out: list[Instruction] = []
        if self._nonce:
            out.append(Unsubscribe(self._nonce))
            self._nonce = b""
        if step in (_Step.FIRST_NONCE, _Step.SECOND_NONCE):
            self._nonce = NONCE + self._random_text().encode()
            out.append(Subscribe(self._nonce))
        elif step is _Step.LISTING:
            self._listed = None
            out.append(self._list(everything=True))
        return out

    def _confirmed(self, topic: bytes, now: float) -> list[Instruction]:
        if topic != self._nonce:
            return []
        return self._begin(_Step.SECOND_NONCE if self._step is _Step.FIRST_NONCE else _Step.LISTING, now)

    def _list(self, *, everything: bool) -> Message:
        wanted = self._filter
        names = {"experiment": wanted.experiment, "run": wanted.run, "task": wanted.task}
        fields = {name: value for name, value in names.items() if value is not None}
        body = encode_json(all=everything, limit=LISTING_ROWS, **fields)
        self._listing = self._new_request()
        header = Header(request=self._listing, execution=wanted.execution or NO_EXECUTION)
        return Message(Command.LIST, header, body)

    def _views(self, header: Header, fields: Mapping[str, Any], now: float) -> list[Instruction]:
        views = fields.get("executions")
        if not isinstance(views, list) or not all(isinstance(view, dict) for view in views):
            raise ProtocolError(ErrorCode.MALFORMED, "LISTING without a list of executions")
        if (execution := self._asked_views.pop(header.request, None)) is not None:
            return self._view_of(execution, views, now)
        if header.request != self._listing or self._step is not _Step.LISTING:
            return []
        if self._listed is None:
            self._sequence = header.sequence
            if len(views) >= LISTING_ROWS or fields.get(
                "more"
            ):  # then open ones may be missing behind newer ones that have ended
                self._listed = views
                return [self._list(everything=False)]
            self._listed = []
        known = {view.get("execution") for view in self._listed}
        return self._listed_all([*self._listed, *(view for view in views if view.get("execution") not in known)], now)

    def _listed_all(self, views: list[View], now: float) -> list[Instruction]:
        self._listed = None
        out = self._begin(_Step.FOLLOWING, now)
        self._beacon_at = now
        listed = {_execution_of(view): view for view in views if self._filter.admits(view)}
        heads = {execution: self._heads_of(view) for execution, view in listed.items()}
        ended = {execution for execution, view in listed.items() if has_ended(view)}
        for execution, view in listed.items():
            self._meet(execution, _names_of(view))
        if self._splice.joined:
            for execution in ended & self._open:
                self._ended[execution] = heads[execution]
            return out + self._perform(self._splice.beacon(heads, now))
        self._open -= ended
        named = self._filter.execution is not None
        shown = tuple(view for execution, view in listed.items() if named or execution not in ended)
        out.append(Snapshot(shown, self._sequence))
        out += self._perform(self._splice.snapshot(heads, self._sequence, now))
        if self._until_ended and self._filter.execution in ended:
            out.append(Finished())
        return out

    def _meet(self, execution: bytes, names: View) -> None:
        if execution not in self._names:
            self._names[execution] = names
            if self._until_ended:
                self._open.add(execution)

    # --- following ---------------------------------------------------------------------------------

    def _beacon(self, body: bytes, now: float) -> list[Instruction]:
        try:
            fields = decode_json(body)
            named = fields.get("heads")
            channels_of = {_execution_of({"execution": key}): value for key, value in named.items()} if named else {}
        except (ProtocolError, AttributeError):
            return []  # the next one comes in a second
        if fields.get("broker") != self._broker or not self._splice.joined:
            return []
        out: list[Instruction] = []
        if self._step is _Step.FOLLOWING and now - self._beacon_at > SUSPECT_S:
            out += self._begin(_Step.FIRST_NONCE, now)
        self._beacon_at = now
        heads: dict[bytes, Mapping[Channel, int]] = {}
        unknown: list[bytes] = []
        for execution, channels in channels_of.items():
            if execution in self._names:
                heads[execution] = self._heads_of({"heads": channels})
            elif self._filter.execution in (None, execution):
                unknown.append(execution)
        self._foreign &= set(unknown)
        under_way = set(self._asked_views.values())
        for execution in [item for item in unknown if item not in self._foreign | under_way][:VIEWS_AT_ONCE]:
            out.append(self._ask_view(execution))
        for execution, known in list(self._ended.items()):
            if known is None and execution not in under_way:
                out.append(self._ask_view(execution))
        out += self._perform(self._splice.beacon(heads, now))
        if len(self._names) > 2 * OBSERVED_EXECUTIONS:
            self._names = {key: view for key, view in self._names.items() if self._splice.knows(key)}
        return out

    def _ask_view(self, execution: bytes) -> Message:
        request = self._new_request()
        self._asked_views[request] = execution
        return Message(Command.LIST, Header(request=request, execution=execution), encode_json(all=True, limit=1))

    def _view_of(self, execution: bytes, views: list[View], now: float) -> list[Instruction]:
        view = next((view for view in views if _execution_of(view) == execution), None)
        if view is None or not self._filter.admits(view):
            self._foreign.add(execution)
            return []
        self._meet(execution, _names_of(view))
        heads = self._heads_of(view)
        if execution in self._ended:
            self._ended[execution] = heads
        return self._perform(self._splice.beacon({execution: heads}, now))

    def _heads_of(self, view: View) -> Mapping[Channel, int]:
        heads = view.get("heads")
        if not isinstance(heads, dict):
            return {}
        found = {channel: heads.get(channel.text) for channel in self._filter.followed}
        return {channel: head for channel, head in found.items() if isinstance(head, int)}

    def _refused(self, header: Header, fields: Mapping[str, Any], now: float) -> list[Instruction]:
        if header.request in self._asked_views:
            self._foreign.add(self._asked_views.pop(header.request))
            return []
        if header.request == self._listing and fields.get("code") == ErrorCode.UNKNOWN_EXECUTION:
            return self._views(header, {"executions": []}, now)
        ask = self._asked.get(header.request)
        if ask is None or fields.get("code") == ErrorCode.JOURNAL:
            return []  # a journal that cannot be read now is asked again when there was no answer for a while
        del self._asked[header.request]
        self._processed.pop(header.request, None)
        return self._perform(self._splice.repair_refused(ask.execution, ask.channel, str(fields.get("message")), now))

    def _perform(self, instructions: list[SpliceInstruction]) -> list[Instruction]:
        out: list[Instruction] = []
        for instruction in instructions:
            match instruction:
                case Deliver(header, body):
                    out.append(Batch(header, self._names[header.execution], body))
                    if self._until_ended and header.channel == Channel.SIGNALS and _tells_end(header, body):
                        self._ended[header.execution] = None
                        out.append(self._ask_view(header.execution))
                case Ask(execution, channel, first, last):
                    for old in [key for key, ask in self._asked.items() if ask[:2] == (execution, channel)]:
                        del self._asked[old]
                        self._processed.pop(old, None)
                        out.append(Message(Command.CLOSE, Header(request=old, execution=execution)))
                    request = self._new_request()
                    self._asked[request] = instruction
                    wish = encode_json(channel=channel.text, first=first, last=last, credit=REPAIR_CREDIT_BYTES)
                    out.append(Message(Command.READ, Header(request=request, execution=execution), wish))
                case Gap(execution, channel, first, last, reason):
                    if channel in self._filter.channels:
                        out.append(Missed(self._names[execution], channel, first, last, reason))
        return out + self._finished()

    def _credit(self, header: Header, size_bytes: int) -> list[Instruction]:
        """CREDIT for what came of a READ, once it is half of what was granted: fewer and larger reads."""
        if header.request not in self._asked:
            return []
        processed = self._processed.get(header.request, 0) + size_bytes
        if processed < REPAIR_CREDIT_BYTES // 2:
            self._processed[header.request] = processed
            return []
        self._processed[header.request] = 0
        return [Message(Command.CREDIT, Header(request=header.request, count=processed, sequence=header.sequence))]

    # --- the end -----------------------------------------------------------------------------------

    def _finished(self) -> list[Instruction]:
        if not self._until_ended:
            return []
        complete = [key for key, heads in self._ended.items() if heads and self._splice.caught_up(key, heads)]
        for execution in complete:
            del self._ended[execution]
            self._open.discard(execution)
        return [Finished()] if complete and not self._open else []


def _execution_of(view: View) -> bytes:
    try:
        value = bytes.fromhex(str(view.get("execution")))
    except ValueError:
        value = b""
    if len(value) != len(NO_EXECUTION):
        raise ProtocolError(ErrorCode.MALFORMED, f"{view.get('execution')!r} is no execution")
    return value


def _names_of(view: View) -> View:
    return {name: str(view.get(name) or "") for name in ("execution", "task", "experiment", "run")}


def _tells_end(header: Header, body: bytes) -> bool:
    if b'"state_changed"' not in body:
        return False
    events = (event for _, event in single_events(header, body))
    return any(isinstance(event, StateChanged) and has_ended({"state": event.state}) for event in events)
