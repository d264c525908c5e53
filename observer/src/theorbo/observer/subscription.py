"""The observer's half of the conversation: joining, following, repairing, joining again. Pure.

Messages and time in; out come messages to send, subscriptions to make, and what there is to see. `Joining` does
the steps of joining, `History` what was before it, and `Splice` makes one stream of what follows.

While following, the steps of joining are done again when the broker welcomes us anew, when the live stream was
connected anew, or when no beacon came for `SUSPECT_S`: what the beacon does not name any more by then must
be seen in a LISTING. The splice makes sure that nothing is seen twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from theorbo.observer import history
from theorbo.observer.filters import Filter
from theorbo.observer.history import History
from theorbo.observer.joining import NONCE, Joining, Listed, views_of
from theorbo.observer.splice import Ask, Deliver, Gap, Splice
from theorbo.observer.splice import Instruction as SpliceInstruction
from theorbo.observer.states import has_ended
from theorbo.observer.values import (
    Batch,
    Finished,
    Missed,
    Policy,
    Snapshot,
    Subscribe,
    Unsubscribe,
    View,
    execution_of,
    names_of,
)
from theorbo.schemas.errors import ProtocolError, Refused
from theorbo.schemas.events import StateChanged
from theorbo.schemas.frames import Command, ErrorCode, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import OBSERVED_EXECUTIONS, REPAIR_CREDIT_BYTES, SUSPECT_S, VIEWS_AT_ONCE
from theorbo.schemas.names import Channel, parse_topic
from theorbo.schemas.presentation import single_events
from theorbo.schemas.reading import Reading

BEACON = b"beacon/"

Instruction = Message | Subscribe | Unsubscribe | Snapshot | Batch | Missed | Finished


class _Repair(NamedTuple):
    ask: Ask
    reading: Reading


class Subscription:
    """One observer's wishes and what was fulfilled.

    `random_text` gives texts that nobody else has, `new_request` numbers for the header's `request`. `since` is Unix
    time: what the journal has from then on comes before the snapshot.
    """

    def __init__(
        self,
        wanted: Filter,
        random_text: Callable[[], str],
        new_request: Callable[[], int],
        *,
        until_ended: bool = False,
        policy: Policy = "complete",
        since: float | None = None,
    ) -> None:
        self._filter = wanted
        self._new_request = new_request
        self._until_ended = until_ended
        self._policy = policy
        self._joining = Joining(wanted, random_text, new_request)
        self._history = None if since is None else History(since, wanted, new_request)
        self._seen_past = False  # an event of it
        self._broker: str | None = None
        self._subscribed = False
        self._reset()

    def _reset(self) -> None:
        self._splice = Splice(repairs=self._policy == "complete")
        self._names: dict[bytes, View] = {}
        self._foreign: set[bytes] = set()  # not wanted, and named by the last beacon
        self._repairs: dict[int, _Repair] = {}  # READs under way
        self._asked_views: dict[int, bytes] = {}  # LISTs of one execution under way
        self._listed: Listed | None = None  # the snapshot, until what was before it is complete
        self._beacon_at = 0.0
        self._open: set[bytes] = set()
        self._ended: dict[bytes, Mapping[Channel, int] | None] = {}
        """Final, but not all of it is here; None: it may be, and its view is asked for."""

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
        self._repairs.clear()
        out += self._perform(self._splice.reconnected(now))
        return [*out, *self._joining.begin(now)]

    def published(self, message: Message, now: float) -> list[Instruction]:
        """A message of the live stream. What is malformed is passed over: its sequence shows as a gap."""
        topic, header, body = message
        if topic.startswith(NONCE):
            return [*self._joining.confirmed(topic, now)]
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
        """A message of the conversation.

        Raises ProtocolError for a body that is not what it must be, Refused if the past cannot be read.
        """
        command, header, body = message
        if command == Command.WELCOME:
            return self.join(str(decode_json(body).get("broker")), now)
        if command == Command.LISTING:
            return self._views(header, decode_json(body), now)
        if command == Command.REFUSED:
            return self._refused(header, decode_json(body), now)
        if self._history and header.request == self._history.request:
            if command == Command.EVENTS and header.channel:
                return self._past(self._history.events(header, body, now), now)
            return self._past(self._history.end(), now) if command == Command.END else []
        if command == Command.EVENTS and header.channel and header.execution in self._names:
            # else it is of a READ before everything started again
            repair = self._repairs.get(header.request)
            credit = repair.reading.took(header, len(body)) if repair else []
            return [*credit, *self._perform(self._splice.repaired(header, body, now))]
        if command == Command.END and (repair := self._repairs.pop(header.request, None)):
            return self._perform(self._splice.repair_ended(repair.ask.execution, repair.ask.channel, now))
        return []

    def tick(self, now: float) -> list[Instruction]:
        """To be called about every second."""
        out = self._perform(self._splice.tick(now))
        if self._history and self._listed:
            out += self._past(self._history.tick(now), now)
        return [*out, *self._joining.tick(now)]

    # --- joining -----------------------------------------------------------------------------------

    def _views(self, header: Header, fields: Mapping[str, Any], now: float) -> list[Instruction]:
        if self._joining.awaits(header):
            found = self._joining.listing(header, fields, now)
            return self._joined(found, now) if isinstance(found, Listed) else [*found]
        views = views_of(fields)
        execution = self._asked_views.pop(header.request, None)
        return [] if execution is None else self._view_of(execution, views, header.time, now)

    def _joined(self, it: Listed, now: float) -> list[Instruction]:
        self._beacon_at = now
        views = {execution_of(view): view for view in it.views if self._filter.admits(view)}
        heads = {execution: self._heads_of(view) for execution, view in views.items()}
        for execution, view in views.items():
            self._meet(execution, names_of(view))
        if self._splice.joined:
            out: list[Instruction] = []
            for execution in self._open:
                if execution not in views:  # all that are open are listed
                    self._ended.setdefault(execution)
                    out.append(self._ask_view(execution))
                elif has_ended(views[execution]):
                    self._ended[execution] = heads[execution]
            return [*out, *self._perform(self._splice.listed(heads, now, it.made_at))]
        self._listed = it._replace(views=list(views.values()))
        if self._history is None or self._history.complete:
            return self._begin_live(now)
        names = {execution: self._names[execution] for execution in views}
        return self._past(self._history.begin(names, heads, it.sequence, it.through, now), now)

    def _past(self, instructions: list[history.Instruction], now: float) -> list[Instruction]:
        out: list[Instruction] = []
        for instruction in instructions:
            match instruction:
                case history.AskView(execution):
                    out.append(self._ask_view(execution))
                case history.Complete():
                    out += self._begin_live(now)
                case Message() | Batch() | Missed():
                    self._seen_past |= isinstance(instruction, Batch)
                    out.append(instruction)
        return out

    def _begin_live(self, now: float) -> list[Instruction]:
        """The snapshot, and what has come since."""
        it, self._listed = self._listed, None
        if it is None:
            return []
        views = {execution_of(view): view for view in it.views}
        ended = {execution for execution, view in views.items() if has_ended(view)}
        self._open -= ended
        named = self._filter.execution is not None
        shown = tuple(view for execution, view in views.items() if named or execution not in ended)
        heads = {execution: self._heads_of(view) for execution, view in views.items()}
        over = tuple(view for execution, view in views.items() if not named and execution in ended)
        out: list[Instruction] = [Snapshot(shown, it.sequence, over)]
        out += self._perform(self._splice.snapshot(heads, it.sequence, now))
        past_is_all = not named and self._seen_past and not self._open
        if self._until_ended and (self._filter.execution in ended or past_is_all):
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
            channels_of = {execution_of({"execution": key}): value for key, value in named.items()} if named else {}
            made_at = float(fields.get("time", 0.0))
        except (ProtocolError, AttributeError, TypeError, ValueError, OverflowError):
            return []  # the next one comes in a second
        if fields.get("broker") != self._broker or not self._splice.joined:
            return []
        out: list[Instruction] = []
        if self._joining.following and now - self._beacon_at > SUSPECT_S:
            out += self._joining.begin(now)
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
        out += self._perform(self._splice.beacon(heads, now, made_at))
        if len(self._names) > 2 * OBSERVED_EXECUTIONS:
            self._names = {key: view for key, view in self._names.items() if self._splice.knows(key)}
        return out

    def _ask_view(self, execution: bytes) -> Message:
        request = self._new_request()
        self._asked_views[request] = execution
        return Message(Command.LIST, Header(request=request, execution=execution), encode_json(all=True, limit=1))

    def _view_of(self, execution: bytes, views: list[View], made_at: float, now: float) -> list[Instruction]:
        view = next((view for view in views if execution_of(view) == execution and self._filter.admits(view)), None)
        if self._history and self._listed:
            return self._past(self._history.named(execution, names_of(view) if view else None, now), now)
        if view is None:
            self._foreign.add(execution)
            return self._gone(execution)
        self._meet(execution, names_of(view))
        heads = self._heads_of(view)
        if execution in self._ended and has_ended(view):
            self._ended[execution] = heads
        return self._perform(self._splice.listed({execution: heads}, now, made_at))

    def _heads_of(self, view: View) -> Mapping[Channel, int]:
        heads = view.get("heads")
        if not isinstance(heads, dict):
            return {}
        found = {channel: heads.get(channel.text) for channel in self._filter.followed}
        return {channel: head for channel, head in found.items() if isinstance(head, int)}

    def _refused(self, header: Header, fields: Mapping[str, Any], now: float) -> list[Instruction]:
        code, words = str(fields.get("code")), str(fields.get("message"))
        if self._joining.awaits(header) and code == ErrorCode.UNKNOWN_EXECUTION:
            return self._views(header, {"executions": []}, now)
        if code in (
            ErrorCode.JOURNAL,
            ErrorCode.BUSY,
        ):  # not now: it is asked again when there was no answer for a while
            self._asked_views.pop(header.request, None)
            if self._history and header.request == self._history.request:
                self._history.put_off(now)
            return []
        if header.request in self._asked_views:
            return self._view_of(self._asked_views.pop(header.request), [], header.time, now)
        if self._history and header.request == self._history.request:
            if code == ErrorCode.UNKNOWN_EXECUTION:
                return self._past(self._history.end(), now)
            raise Refused(code, words)
        repair = self._repairs.pop(header.request, None)
        if repair is None:
            return []
        return self._perform(self._splice.repair_refused(repair.ask.execution, repair.ask.channel, words, now))

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
                    for old in [key for key, repair in self._repairs.items() if repair.ask[:2] == instruction[:2]]:
                        out.append(self._repairs.pop(old).reading.close())
                    wish = {"channel": channel.text, "first": first, "last": last}
                    reading = Reading(self._new_request, REPAIR_CREDIT_BYTES, execution, **wish)
                    out.append(reading.begin())
                    self._repairs[reading.request] = _Repair(instruction, reading)
                case Gap(execution, channel, first, last, reason):
                    if channel in self._filter.channels:
                        out.append(Missed(self._names[execution], channel, first, last, reason))
                    if channel == Channel.SIGNALS and execution in self._open and execution not in self._ended:
                        self._ended[execution] = None  # that it has ended may be among them
                        out.append(self._ask_view(execution))
        return out + self._finished()

    # --- the end -----------------------------------------------------------------------------------

    def _finished(self) -> list[Instruction]:
        if not self._until_ended:
            return []
        complete = [key for key, heads in self._ended.items() if heads and self._splice.caught_up(key, heads)]
        return self._without(complete)

    def _gone(self, execution: bytes) -> list[Instruction]:
        """Retention has removed it. Raises Refused if it is the one that was asked for."""
        if execution not in self._open:
            return []
        if self._filter.execution is not None:
            words = f"execution {execution.hex()} has ended while it was not seen, and retention has removed it"
            raise Refused(ErrorCode.UNKNOWN_EXECUTION, words)
        return self._without([execution])

    def _without(self, executions: list[bytes]) -> list[Instruction]:
        for execution in executions:
            self._ended.pop(execution, None)
            self._open.discard(execution)
        return [Finished()] if executions and not self._open else []


def _tells_end(header: Header, body: bytes) -> bool:
    if b'"state_changed"' not in body:
        return False
    events = (event for _, event in single_events(header, body))
    return any(isinstance(event, StateChanged) and has_ended({"state": event.state}) for event in events)
