"""What follows when something is on disk: acknowledgements, events for readers, live streams, states. Never earlier."""

from __future__ import annotations

from theorbo.broker import batches
from theorbo.broker.cursors import Cursors
from theorbo.broker.damage import Damage
from theorbo.broker.deliveries import Deliveries, acknowledgement
from theorbo.broker.executions import Execution
from theorbo.broker.payloads import Payloads
from theorbo.broker.requests import Requests
from theorbo.broker.sessions import Sessions
from theorbo.broker.signals import told_to_end
from theorbo.broker.values import Batch, Committed, Instruction, Keep, Note, Publish, Send
from theorbo.broker.views import view
from theorbo.schemas.frames import Command, Message
from theorbo.schemas.limits import REFUSAL_CHARACTERS
from theorbo.schemas.names import BROKER, Channel, Source


class Commits:
    """Everybody who has to do with what was committed."""

    def __init__(
        self,
        last_sequence: int,
        executions: dict[bytes, Execution],
        sessions: Sessions,
        deliveries: Deliveries,
        cursors: Cursors,
        payloads: Payloads,
        damage: Damage,
        requests: Requests,
    ) -> None:
        """`last_sequence` is the journal's last."""
        self.last_sequence = last_sequence
        self._executions = executions
        self._sessions = sessions
        self._deliveries = deliveries
        self._cursors = cursors
        self._payloads = payloads
        self._damage = damage
        self._requests = requests

    def committed(self, it: Committed, now: float) -> list[Instruction]:
        """Acknowledge, forward, publish; then what the signals among it lead to."""
        stored: list[Instruction] = []
        published: list[Instruction] = []
        states: list[Instruction] = []
        streams: dict[tuple[bytes, Source, int], Execution] = {}
        flags: dict[tuple[bytes, Source, int], int] = {}
        touched: dict[bytes, Execution] = {}
        new = [item for item in it.items if isinstance(item, Batch)]
        for item in it.items:
            if not isinstance(item, Batch):
                stored += self._payloads.noted(item, now)
        for batch in new:
            self.last_sequence = batch.sequence
            execution = self._executions[batch.execution]
            self._deliveries.committed(execution, batch)
            self._damage.committed(batch)
            execution.changed_at = now
            if batch.source == BROKER:
                stored += self._requests.committed(batch, now)
            else:
                streams[batch.execution, batch.source, batch.channel] = execution
            if batch.channel == Channel.SIGNALS:
                moved, further = self._observe(execution, batch, now)
                streams |= {(batch.execution, *stream): execution for stream in moved}
                flags |= {
                    (batch.execution, *stream): self._deliveries.gap_closed(execution, *stream) for stream in moved
                }
                states += further
            if batch.channel == Channel.SIGNALS or execution.evidence.ended:
                touched[batch.execution] = execution
            topic = execution.topic(batch.channel)
            published += [Publish(topic, piece.header(), piece.body) for piece in batches.live_pieces(batch)]
        acknowledged = [
            acknowledgement(execution, *stream[1:], now, flags.get(stream, 0))
            for stream, execution in streams.items()
            if execution.streams[stream[1:]].sender
        ]
        forwarded = self._cursors.committed(new)
        for execution in touched.values():
            states += self._deliveries.own(execution, execution.decide(now))
        return [*stored, *acknowledged, *forwarded, *published, *states, *self._deliveries.feed_starved(now)]

    def _observe(
        self, execution: Execution, batch: Batch, now: float
    ) -> tuple[list[tuple[Source, int]], list[Instruction]]:
        """What committed signals lead to beside a change of state: streams that have moved past a loss; control for
        agents, words for the log.
        """
        out: list[Instruction] = []
        before = execution.state
        observed = execution.observe(batch)
        if observed.invalid:
            fields = {
                "execution": execution.id.hex(),
                "source": str(batch.source),
                "problem": observed.invalid[0][:REFUSAL_CHARACTERS],
            }
            text = "signals are malformed; they are kept, and change nothing"
            out.append(Note("warning", text, {**fields, "signals": len(observed.invalid)}))
        agents = self._sessions.agents(execution.id) if observed.controls or execution.state is not before else []
        for control in observed.controls:
            out += [Send(agent.peer, Message(Command.CONTROL, *control)) for agent in agents]
        if execution.state is not before:
            if execution.state.final:
                closed = execution.evidence.agents_closed
                open_ones = [agent for agent in agents if agent.source and agent.source.index not in closed]
                out += [Send(agent.peer, told_to_end(execution.id, execution.state, now)) for agent in open_ones]
            fields = {"execution": execution.id.hex(), "state": str(execution.state), "reason": execution.reason}
            out.append(Note("info", "state changed", fields))
            out += self.keep(execution, now)
        return observed.moved, out

    @staticmethod
    def keep(execution: Execution, now: float) -> list[Instruction]:
        """An execution whose final state is on disk is noted as ended."""
        if not execution.state.final or execution.ended_view is not None:
            return []
        shown = view(execution, now)
        return [Keep(execution.id, shown["submitted"] or now, now, shown)]
