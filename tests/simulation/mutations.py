"""Faults planted into the cores, each of which the simulator must find. What is not found here is not tested there.

A mutation replaces a function of a core by one that forgets something, for as long as its context holds.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from theorbo.broker import deliveries, forsaken
from theorbo.broker.controls import Controls
from theorbo.broker.core import Core
from theorbo.broker.cursors import Cursor
from theorbo.broker.deliveries import Deliveries, acknowledgement
from theorbo.broker.executions import Execution
from theorbo.broker.forsaken import Forsaken
from theorbo.broker.peers import Peers
from theorbo.broker.requests import Requests
from theorbo.broker.snapshots import Beacon
from theorbo.broker.streams import StreamHead
from theorbo.broker.values import Append, Publish, Send
from theorbo.executor import values as executor_values
from theorbo.executor.conversation import Conversation
from theorbo.executor.reported import Reported
from theorbo.observer.splice import Deliver, Splice
from theorbo.schemas import delivery as sending
from theorbo.schemas import link_core, verdict
from theorbo.schemas.delivery import Delivery
from theorbo.schemas.frames import Command, Message
from theorbo.schemas.names import BROKER
from theorbo.schemas.outcome import Evidence
from theorbo.schemas.states import State
from theorbo.task_runtime import agent_core
from theorbo.task_runtime.spool_reader import SpoolFile

from .plan import make_plan
from .runs import run

Patch = tuple[Any, str, Callable[[Any], Any]]
"""Whose, which attribute, and what is made of it."""


class Mutation(NamedTuple):
    name: str
    patches: tuple[Patch, ...]
    first: int = 0
    """The seed with which the hunt begins: of what is rare, one that is not long before it."""

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        undo = [(owner, name, vars(owner)[name]) for owner, name, _ in self.patches]
        for owner, name, make in self.patches:
            setattr(owner, name, make(vars(owner)[name]))
        try:
            yield
        finally:
            for owner, name, original in reversed(undo):
                setattr(owner, name, original)


class Found(NamedTuple):
    seeds: int
    """How many it took, or how many were in vain."""
    violation: str


SEEDS = 400
"""A mutation that survives so many is not caught."""


def hunt(mutation: Mutation) -> Found:
    """Run seeds one after the other until the mutation is caught."""
    with mutation.planted():
        for number in range(SEEDS):
            result = run(make_plan(mutation.first + number))
            if result.violation:
                return Found(number + 1, f"seed {result.seed}: {result.violation}")
    return Found(SEEDS, "")


def _always(value: Any) -> Callable[[Any], Any]:
    """A method that returns `value` and does nothing."""
    return lambda _original: lambda *_args, **_kwargs: value


# --- the broker ----------------------------------------------------------------------------------------


def _also(further: Callable[[Core, Append], list[Any]]) -> Callable[[Any], Any]:
    """Do more than append, when something is appended."""

    def make(original: Any) -> Any:
        def handle(self: Core, it: Any, now: float) -> list[Any]:
            out = original(self, it, now)
            return [*out, *(more for each in out if isinstance(each, Append) for more in further(self, each))]

        return handle

    return make


def _acknowledge_early(core: Core, it: Append) -> list[Any]:
    execution, batch = core._executions[it.batch.execution], it.batch
    if batch.source == BROKER:
        return []
    send = acknowledgement(execution, batch.source, batch.channel, 0.0)
    return [send._replace(message=send.message._replace(header=send.message.header._replace(first=batch.last)))]


def _publish_early(core: Core, it: Append) -> list[Any]:
    execution = core._executions[it.batch.execution]
    return [Publish(execution.topic(it.batch.channel), it.batch.header(), it.batch.body)]


def _give_early(core: Core, it: Append) -> list[Any]:
    return core._cursors.committed([it.batch])


def _append_again(original: Any) -> Any:
    def put(self: Deliveries, session: Any, execution: Execution, header: Any, body: bytes, now: float) -> list[Any]:
        head = execution.streams.get((header.source, header.channel))
        if head and header.count and header.last <= head.accepted:
            return [self.append(execution, header.source, header.channel, header.count, body)]
        return original(self, session, execution, header, body, now)  # type: ignore[no-any-return]

    return put


def _after_recall(spoil: Callable[[Execution], None]) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        def recalled(cls: type[Execution], *args: Any) -> Execution:
            execution: Execution = original.__func__(cls, *args)
            spoil(execution)
            return execution

        return classmethod(recalled)

    return make


def _forget_state(execution: Execution) -> None:
    if execution.ended_view is None:
        execution.state = execution.decided = type(execution.state).PENDING


def _without_control(original: Any) -> Any:
    def hello(self: Peers, *args: Any) -> list[Any]:
        out = original(self, *args)
        return [each for each in out if not (isinstance(each, Send) and each.message.command == Command.CONTROL)]

    return hello


def _answer_early(original: Any) -> Any:
    def ask(self: Requests, session: Any, execution: Any, message: Any, now: float) -> list[Any]:
        out = original(self, session, execution, message, now)
        early = [
            Message(Command.REQUESTED, it.batch.header(message.header.request)) for it in out if isinstance(it, Append)
        ]
        return [*out, *(Send(session.peer, answer) for answer in early)]

    return ask


def _held_by_halves(original: Any) -> Any:
    def state(self: Evidence, current: Any) -> Any:
        after, reason = original(self, current)
        if after is State.RUNNING and current is not State.PENDING and self.stopped:
            return State.STOPPED, reason
        return after, reason

    return state


def _only_ends(original: Any) -> Any:
    return lambda self, agent: [it for it in original(self, agent) if b'"continue"' not in it.record]


def _without_loss(original: Any) -> Any:
    return lambda self, now: [event.model_copy(update={"lost": 0}) for event in original(self, now)]


def _never_late(original: Any) -> Any:
    def accept(self: Execution, *args: Any) -> Any:
        return original(self, *args)._replace(flags=0)

    return accept


def _beacon_without_heads(original: Any) -> Any:
    return lambda self, _executions, now: original(self, [], now)


def _given_nowhere(original: Any) -> Any:
    def give(self: Cursor, batch: Any) -> Any:
        execution = self.supervised
        before = execution.given if execution else 0
        send = original(self, batch)
        if execution:
            execution.given = before
        return send

    return give


# --- senders -------------------------------------------------------------------------------------------


def _welcomed_without_resend(_original: Any) -> Any:
    def welcomed(self: Delivery, journal: str = "") -> bool:
        self._connected, self.journal = True, journal or self.journal
        return False

    return welcomed


def _without_rewind(original: Any) -> Any:
    return lambda self, header, now: original(self, header._replace(flags=0), now)


def _settled_early(original: Any) -> Any:
    return lambda self, _acknowledged: original(self, lambda _channel: math.inf)


def _without_counts(original: Any) -> Any:
    def parse(fields: Any) -> Any:
        saved = original(fields)
        return saved._replace(settled=saved.settled._replace(counts={}))

    return parse


# --- readers -------------------------------------------------------------------------------------------


def _confirm_first(original: Any) -> Any:
    def hear(self: Conversation, message: Any, now: float) -> list[Any]:
        out = original(self, message, now)
        sends = [each for each in out if isinstance(each, executor_values.Send)]
        return [*sends, *(each for each in out if not isinstance(each, executor_values.Send))]

    return hear


def _unmarked(original: Any) -> Any:
    def fresh(self: Conversation, header: Any, event: Any) -> Reported | None:
        return Reported(header, event) if original(self, header, event) else None

    return fresh


def _hear_anything(_original: Any) -> Any:
    return lambda _self, header, event: Reported(header, event)


def _read_all_again(original: Any) -> Any:
    def read(self: Conversation) -> Any:
        self._last_sequence = min(self._last_sequence, 1)
        return original(self)

    return read


def _skip_gap(_original: Any) -> Any:
    def accept(self: Splice, cursor: Any, header: Any, body: bytes, out: list[Any]) -> None:
        if self._joined and header.position > cursor.delivered:
            cursor.delivered = header.position - 1
            self._deliver(cursor, header, body, out)

    return accept


def _deliver_all(_original: Any) -> Any:
    def deliver(_self: Splice, cursor: Any, header: Any, body: bytes, out: list[Any]) -> None:
        cursor.delivered = max(cursor.delivered, header.position + header.count - 1)
        out.append(Deliver(header, body))

    return deliver


def _deaf_to_unknown_peer(original: Any) -> Any:
    def received(self: link_core.LinkCore, message: Any, now: float) -> Any:
        if b'"unknown_peer"' not in message.body:
            return original(self, message, now)
        self.heard_at = now
        return []

    return received


def _no_reconnect(original: Any) -> Any:
    def tick(self: link_core.LinkCore, now: float) -> Any:
        return [each for each in original(self, now) if not isinstance(each, link_core.Reconnect)]

    return tick


MUTATIONS = (
    Mutation("acknowledge before commit", ((Core, "handle", _also(_acknowledge_early)),)),
    Mutation("publish before commit", ((Core, "handle", _also(_publish_early)),)),
    Mutation("give readers before commit", ((Core, "handle", _also(_give_early)),)),
    Mutation("forget the epoch check", ((Execution, "stand", _always(None)),)),
    Mutation("do not drop duplicates", ((Deliveries, "put", _append_again),)),
    Mutation("forget to cut an overlap", ((deliveries, "drop_first", lambda _: lambda body, _count: body),)),
    Mutation("start positions anew after a restart",
             ((Execution, "recalled", _after_recall(lambda it: it.accepted_positions.clear())),)),
    Mutation("forget the state after a restart", ((Execution, "recalled", _after_recall(_forget_state)),)),
    Mutation("final state when the launcher has ended",
             ((Evidence, "delivered", lambda _: property(lambda self: self.ended)),)),
    Mutation("what is late is not marked", ((Execution, "accept", _never_late),), first=270),
    Mutation("numbered loss ignored", ((StreamHead, "lose", _always(False)),)),
    Mutation("conservation ignores loss", ((Execution, "_conservation", _without_loss),)),
    Mutation("control not repeated at HELLO", ((Peers, "hello", _without_control),)),
    Mutation("answer a request before commit", ((Requests, "ask", _answer_early),)),
    Mutation("do not know a request again", ((Controls, "known", _always(None)),)),
    Mutation("forget requests after a restart",
             ((Execution, "recalled", _after_recall(lambda it: it.controls._tokens.clear())),)),
    Mutation("continue is not repeated at HELLO", ((Controls, "for_agent", _only_ends),)),
    Mutation("stopped when some are held", ((Evidence, "state", _held_by_halves),), first=220),
    Mutation("give up agents at once", ((forsaken, "SILENT_S", lambda _: 0.0),)),
    Mutation("never give up an agent", ((Forsaken, "given_up", _always([])),)),
    Mutation("completed without what was given up", ((verdict, "_lost_nodes", lambda _: lambda *_: ""),), first=110),
    Mutation("credit ignored", ((Cursor, "affords", _always(True)),)),
    Mutation("beacon without heads", ((Beacon, "next", _beacon_without_heads),)),
    Mutation("forget what was given to an Executor", ((Cursor, "give", _given_nowhere),)),
    Mutation("drop the resend after WELCOME", ((Delivery, "welcomed", _welcomed_without_resend),)),
    Mutation("ignore REWIND, never send again",
             ((Delivery, "handle_ack", _without_rewind), (sending, "RESEND_S", lambda _: math.inf))),
    Mutation("checkpoint ahead of acknowledgements", ((SpoolFile, "settle", _settled_early),)),
    Mutation("a second agent forgets the counts", ((agent_core, "parse_checkpoint", _without_counts),)),
    Mutation("confirm before hooks", ((Conversation, "_hear", _confirm_first),)),
    Mutation("never mark redelivered", ((Conversation, "_fresh", _unmarked),)),
    Mutation("hear again after a reconnection",
             ((Conversation, "_fresh", _hear_anything), (Conversation, "_read", _read_all_again))),
    Mutation("splice ignores a gap", ((Splice, "_accept", _skip_gap),)),
    Mutation("splice does not drop what is known", ((Splice, "_deliver", _deliver_all),)),
    Mutation("no HELLO to a broker that does not know us", ((link_core.LinkCore, "received", _deaf_to_unknown_peer),)),
    Mutation("no new connection when the broker is silent", ((link_core.LinkCore, "tick", _no_reconnect),)),
)  # fmt: skip
