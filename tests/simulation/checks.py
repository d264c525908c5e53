"""The invariants of delivery, journal and state, checked at each step that could break one.

They compare what the broker does with what was really reported (the calls that returned) and really committed; nothing
is taken from the parties' own books. `readers` has the invariants of Executors and observers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from theorbo.broker.values import Batch
from theorbo.schemas import limits
from theorbo.schemas.frames import Command, Flag, Header, Message
from theorbo.schemas.names import BROKER, EXECUTOR, Channel, Source, SourceKind, Stream
from theorbo.schemas.records import RS, split_body
from theorbo.schemas.states import TRANSITIONS, State

from .known import Known, batch_name, is_part, said
from .story import Story

if TYPE_CHECKING:
    from .world import World

_OUTPUT = (Channel.STDOUT, Channel.STDERR)


class Violation(Exception):
    """An invariant does not hold."""


class Credit(NamedTuple):
    """What a reader may still be sent."""

    left_bytes: int
    under_way: list[int]
    """Sequences of what was sent and not confirmed."""


class Checks:
    def __init__(self, story: Story) -> None:
        self._story = story
        self.count = Counter[str]()
        """Checks made, by invariant."""
        self.events = 0
        """Events in the journal that were compared with what had been reported."""
        self.truth: dict[tuple[bytes, Stream], list[bytes]] = {}
        self.executor_truth: dict[bytes, set[bytes]] = {}
        self.drops = Counter[bytes]()
        self.excused_drops: set[bytes] = set()
        self.rows: dict[int, Batch] = {}
        self.executions: dict[bytes, Known] = {}
        self.damaged_rows: set[int] = set()
        self.forgotten: set[bytes] = set()
        """Executions of which the journal has lost that there was an agent: their end cannot wait for it."""
        self.damaged_executions: set[bytes] = set()
        self.damaged_events = Counter[tuple[bytes, Stream]]()
        self.excused: set[bytes] = set()
        """Executions whose journal lost something when nobody was left who had it."""
        self.recoveries = 0
        self._dead: set[tuple[bytes, Source]] = set()
        """Whose machine died with what it had not delivered."""
        self._credit: dict[tuple[bytes, int], Credit] = {}
        """Of each READ, by peer and request."""
        self._last_sequence = 0

    def require(self, invariant: str, holds: bool, details: Callable[[], str]) -> None:
        self.count[invariant] += 1
        if not holds:
            raise Violation(f"{invariant}: {details()}")

    def known(self, execution: bytes) -> Known:
        return self.executions.setdefault(execution, Known())

    # --- what was reported -----------------------------------------------------------------------

    def reported(self, execution: bytes, stream: Stream, record: bytes) -> None:
        """The call returned: from now on it must arrive, once, as this number of the stream."""
        if stream.source == EXECUTOR:  # several Executors may report, each to a spool of its own
            self.executor_truth.setdefault(execution, set()).add(record)
        else:
            self.truth.setdefault((execution, stream), []).append(record)

    def died(self, execution: bytes, sources: set[Source]) -> None:
        """A machine is gone, and its spool: what was not delivered never will be."""
        self._dead.update((execution, source) for source in sources)
        self.excused_drops.add(execution)

    def dropped(self, execution: bytes) -> None:
        """The call failed, for the disk was full: that must be counted."""
        self.drops[execution] += 1

    # --- what reaches the disk -------------------------------------------------------------------

    def committed(self, batch: Batch) -> None:
        known, name = self.known(batch.execution), batch_name
        self.require("sequences ascend", batch.sequence > self._last_sequence, lambda: name(batch))
        self._last_sequence = batch.sequence
        position = known.positions.get(batch.channel, 0) + 1
        self.require(
            "positions have no gap",
            batch.position == position,
            lambda: f"{name(batch)}: {batch.position}, not {position}",
        )
        stream = Stream(batch.source, Channel(batch.channel))
        number = known.next_number(stream, batch.first)
        self.require(
            "numbers have no gap, and nothing is there twice",
            batch.first == number,
            lambda: f"{name(batch)}: {batch.first}, not {number}",
        )
        self.require(
            "what comes after the final state is marked late",
            bool(batch.flags & Flag.LATE) or not known.state.final,
            lambda: name(batch),
        )
        self._compare(batch, stream, known)
        known.take(batch)
        self.rows[batch.sequence] = batch
        self._story.mark("committed", batch)
        if self._story.told:
            self._story.tell("journal", f"{name(batch)}: {batch.first} to {batch.last}")
        if batch.channel == Channel.SIGNALS:
            for text in split_body(batch.body):
                self._signal(batch, json.loads(text), known)

    def _compare(self, batch: Batch, stream: Stream, known: Known) -> None:
        if batch.source == BROKER:
            return
        found = [RS + part for part in batch.body.split(RS)[1:]]
        self.events += len(found)
        if batch.source == EXECUTOR:
            truth = self.executor_truth.get(batch.execution, set())
            before = [known.executor_records[record] for record in found if record in known.executor_records]
            # Who has attached to a broker that is killed just then cannot know whose records have its numbers.
            again = any(b'{"kind":"executor_attached"' in record for record in found)
            twice = [sequence for sequence in before if sequence not in self.damaged_rows]
            self.require(
                "the journal has what an Executor reported, once",
                truth.issuperset(found) and (not twice or self.recoveries > 1 or again),  # see docs
                lambda: f"{batch_name(batch)}: {found}",
            )
            return
        expected = self.truth.get((batch.execution, stream), [])[batch.first - 1 : batch.last]
        if stream.channel in _OUTPUT:
            found = [json.loads(record[1:])["text"].encode() for record in found]
        self.require(
            "the journal has what was reported, in its order",
            expected == found,
            lambda: f"{batch_name(batch)}: {found} is not {expected}",
        )

    def _signal(self, batch: Batch, event: dict[str, Any], known: Known) -> None:
        before, held, ran = known.state, known.was_held, known.was_running
        known.take_signal(batch.source, event)
        if batch.source == BROKER and event["kind"] == "control_requested":
            self._journaled(batch, event["token"], known)
        if batch.source != BROKER or event["kind"] != "state_changed":
            return
        whole = batch.execution not in self.damaged_executions
        self.require(
            "stopped only when all that have started and not ended were held, running only when one was not",
            not whole
            or (
                held
                if known.state is State.STOPPED
                else ran or before is not State.STOPPED or not known.alive or known.state.final
            ),
            lambda: f"{batch_name(batch)}: {before} to {known.state}",
        )
        self.require(
            "states only along the table",
            known.state in TRANSITIONS[before] and event["previous"] == before,
            lambda: f"{batch_name(batch)}: {before} to {known.state}, said to be from {event['previous']}",
        )
        if known.state.final:
            self._final(batch, known)

    def _journaled(self, batch: Batch, token: str, known: Known) -> None:
        former = known.tokens.get(token)
        self.require(
            "a request is journaled once",
            former is None or former in self.damaged_rows,
            lambda: f"{batch_name(batch)}: {token} is there already, at sequence {former}",
        )
        known.tokens[token] = batch.sequence

    def answered(self, execution: bytes, token: str, header: Header) -> None:
        """A bystander was told that its request is in the journal."""
        known = self.known(execution)
        self.require(
            "who has requested is told where that is",
            known.tokens.get(token) == header.sequence or self.recoveries > 0,
            lambda: f"{token}: {header.sequence}, it is at {known.tokens.get(token)}",
        )

    def gives_up(self, node: int, silent_s: float) -> None:
        """The broker is about to report that an agent is given up."""
        self.require(
            "nobody is given up who was heard lately",
            silent_s >= limits.SILENT_S - 1.0,
            lambda: f"agent {node}, heard {silent_s:.1f} s ago",
        )

    def _final(self, batch: Batch, known: Known) -> None:
        conserved = known.conserved
        self.require("a conservation record before the final state", bool(conserved), lambda: batch_name(batch))
        lost = conserved.get("lost", 0)
        self.require(
            "conservation counts every loss",
            lost == known.lost_events or batch.execution in self.damaged_executions,  # a loss may have been damaged
            lambda: f"{lost}, lost were {known.lost_events}",
        )
        forsaken = known.launcher_ended and known.agents and known.agents <= known.lost_nodes
        self.require(
            "lost is only what nobody says has gone",
            known.state is not State.LOST or not forsaken or batch.execution in self.damaged_executions,
            lambda: f"{batch_name(batch)}: {known.agents} of {known.lost_nodes}",
        )
        self.require(
            "what was given up is not completed",
            known.state is not State.COMPLETED or not known.given_up_agents,
            lambda: f"{batch_name(batch)}: {known.given_up_agents}",
        )
        if known.state is State.LOST or batch.execution in self.forgotten:
            return
        for (execution, stream), records in self.truth.items():
            if execution != batch.execution or self._given_up(known, stream):
                continue
            number = known.settled_number(stream)
            self.require(
                "a final state only when all is in the journal",
                number >= len(records),
                said(f"{batch_name(batch)} is {known.state}, but of {stream} {number} of {len(records)} are there"),
            )
            delivered = known.numbers.get(stream, 0) - known.missing[stream]
            told = conserved["streams"].get(str(stream), [number, delivered])
            self.require(
                "conservation says what is there",
                delivered - self.damaged_events[execution, stream] <= told[1] <= delivered and told[0] >= number,
                said(f"{stream}: {told}, but {delivered} of {number} are there"),
            )

    def _given_up(self, known: Known, stream: Stream) -> bool:
        """Whether the stream's agent was given up; two nodes share the ranks."""
        source = stream.source
        node = source.index % 2 if source.kind is SourceKind.RANK else source.index
        return source.kind is not SourceKind.LAUNCHER and node in known.given_up_agents

    # --- what happens to the disk ----------------------------------------------------------------

    def damaged(self, batch: Batch) -> None:
        self.damaged_rows.add(batch.sequence)
        self.damaged_executions.add(batch.execution)
        self.damaged_events[batch.execution, Stream(batch.source, Channel(batch.channel))] += batch.count

    def lost(self, lost: list[Batch], remaining: list[Batch]) -> None:
        """The journal's end is gone: from now on all is measured by what remains."""
        self.recoveries += 1
        for batch in lost:
            del self.rows[batch.sequence]
            if batch.source.kind is not SourceKind.RANK and batch.first == 1 and batch.channel == Channel.SIGNALS:
                self.forgotten.add(batch.execution)
        for execution in {batch.execution for batch in lost}:
            known = self.executions[execution] = Known()
            for batch in remaining:
                if batch.execution == execution:
                    known.take(batch)
                    if batch.channel == Channel.SIGNALS:
                        for text in split_body(batch.body):
                            known.take_signal(batch.source, json.loads(text))

    # --- what leaves the broker ------------------------------------------------------------------

    def wished(self, peer: bytes, message: Message) -> None:
        """READ and CREDIT, as they reach the broker."""
        header = message.header
        key = peer, header.request
        if message.command == Command.READ:
            wish = json.loads(message.body)
            self._credit.setdefault(key, Credit(min(wish.get("credit", limits.CREDIT_BYTES), limits.CREDIT_BYTES), []))
        elif key in self._credit:
            left, under_way = self._credit[key]
            under_way = [sequence for sequence in under_way if sequence > header.sequence]
            self._credit[key] = Credit(min(left + header.count, limits.CREDIT_BYTES), under_way)

    def given(self, peer: bytes, message: Message) -> None:
        """EVENTS have left for a reader."""
        key = peer, message.header.request
        credit = self._credit[key]
        left = credit.left_bytes - len(message.body)
        self.require(
            "a reader is sent what it has credit for, or one batch",
            left >= 0 or not credit.under_way,
            lambda: f"{message.header}: {left} bytes left, {credit.under_way} under way",
        )
        self._credit[key] = Credit(left, [*credit.under_way, message.header.sequence])

    def sent(self, message: Message) -> None:
        header = message.header
        match message.command:
            case Command.ACK:
                assert header.source is not None
                stream = Stream(header.source, Channel(header.channel))
                number = self.known(header.execution).settled_number(stream)
                self.require(
                    "nothing is acknowledged that is not committed",
                    header.first <= number,
                    lambda: f"{stream}: {header.first}, the journal has {number}",
                )
            case Command.EVENTS:
                self._is_committed("readers are given only what is committed", header, message.body)
            case Command.CONTROL if header.position:
                self._is_committed("control is sent only when the request is committed", header, message.body)
            case Command.REQUESTED:
                row = self.rows.get(header.sequence)
                self.require(
                    "a request is answered only when it is committed",
                    row is not None and row.position == header.position and b"control_requested" in row.body,
                    lambda: f"{header}: {row}",
                )
            case Command.LISTING:
                for view in json.loads(message.body)["executions"]:
                    self._view(view)

    def _view(self, view: dict[str, Any]) -> None:
        known = self.known(bytes.fromhex(view["execution"]))
        self._heads(known, view["heads"])
        self.require(
            "views show only what is committed",
            view["state"] == known.state,
            lambda: f"{view['state']}, the journal has {known.state}",
        )

    def published(self, message: Message) -> None:
        if message.header.count:
            self._is_committed("only what is committed is published", message.header, message.body)
        elif message.command == b"beacon/":
            for execution, heads in json.loads(message.body)["heads"].items():
                self._heads(self.known(bytes.fromhex(execution)), heads)

    def _heads(self, known: Known, heads: dict[str, int]) -> None:
        for name, head in heads.items():
            position = known.positions.get(Channel[name.upper()], 0)
            self.require(
                "heads show only what is committed",
                head <= position,
                said(f"{name}: {head}, the journal has {position}"),
            )

    def _is_committed(self, invariant: str, header: Header, body: bytes) -> None:
        row = self.rows.get(header.sequence)
        self.require(invariant, row is not None and is_part(header, body, row), lambda: f"{header} of {row}")

    # --- bounds, and what agents keep ------------------------------------------------------------

    def bounded_broker(self, core: Any) -> None:
        pending = core._deliveries._pending_bytes
        bound = limits.PENDING_JOURNAL_BYTES + 64 * limits.KIB  # and what the broker itself reports
        self.require("the broker's memory is bounded", pending <= bound, lambda: f"{pending} bytes wait for the disk")

    def bounded_sender(self, name: str, delivery: Any) -> None:
        bound = delivery._window_bytes + 2 * limits.READ_ROOM_BYTES
        held = delivery._held_bytes
        self.require("a sender's window is bounded", held <= bound, lambda: f"{name} holds {held}, bound {bound}")

    def acknowledged(self, execution: bytes, conversation: Any) -> None:
        """What an Executor believes to be in the journal is there; another one may have given the same numbers."""
        own, delivery = conversation._own, conversation._delivery
        number = delivery.acknowledged(Stream(EXECUTOR, Channel.SIGNALS))
        committed = self.known(execution).executor_records
        self.require(
            "what an Executor believes delivered is in the journal",
            self.recoveries > 0 or set(committed).issuperset(own.records[: max(0, number - own.base)]),
            lambda: f"{number} of {own.records} from {own.base}, the journal has {sorted(committed)}",
        )

    def checkpoint(self, execution: bytes, core: Any) -> None:
        """Written now: a successor will not read again what is before it."""
        if self.recoveries:
            return  # the agent may not have heard of it yet
        known = self.known(execution)
        for file in core.files.values():
            for channel, count in file.settled.counts.items():
                stream = Stream(file.source, channel)
                number = known.settled_number(stream)
                self.require(
                    "a checkpoint is not ahead of the journal",
                    count <= number,
                    said(f"{stream}: {count}, the journal has {number}"),
                )

    # --- the end ---------------------------------------------------------------------------------

    def all_delivered(self, world: World) -> None:
        for (execution, stream), records in self.truth.items():
            if execution in self.excused or not self.known(execution).numbers or (execution, stream[0]) in self._dead:
                continue
            number = self.known(execution).settled_number(stream)
            self.require(
                "nothing that was reported is lost",
                number == len(records),
                said(f"{execution[:2].hex()}: of {stream} {number} of {len(records)} are there"),
            )
        for execution, dropped in self.drops.items():
            if self.recoveries or execution in self.damaged_executions | self.excused_drops:
                continue  # what counted them may be lost itself, and told as a number
            lost = self.known(execution).lost_events
            self.require("what was dropped is counted", lost >= dropped, said(f"{lost} of {dropped}"))
        world.readers.complete(world)
