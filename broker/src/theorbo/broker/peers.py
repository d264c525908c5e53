"""The peers: their HELLO and BYE, what all of them are told, and what is forgotten when one has gone. Pure."""

from __future__ import annotations

from theorbo.broker import deliveries
from theorbo.broker.cursors import Cursors
from theorbo.broker.executions import Execution
from theorbo.broker.payloads import Payloads
from theorbo.broker.refusals import Refusals
from theorbo.broker.reminders import Reminders
from theorbo.broker.sessions import Session, Sessions
from theorbo.broker.signals import told_to_end
from theorbo.broker.values import Instruction, Received, Send, Unsent
from theorbo.schemas import __version__
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import PROTOCOL_VERSION, Command, ErrorCode, Header, Message, decode_json, encode_json
from theorbo.schemas.limits import HEARTBEAT_S, WINDOW_BYTES
from theorbo.schemas.names import EXECUTOR, Channel


class Peers:
    """Everybody who talks with the broker."""

    def __init__(
        self, broker: str, executions: dict[bytes, Execution], cursors: Cursors, payloads: Payloads, now: float
    ) -> None:
        """`broker` identifies the journal, and `now`, when the broker was started, its run. What belongs to a peer in
        `cursors` and `payloads` goes with it.
        """
        self.sessions = Sessions()
        self.reminders = Reminders()
        self.refusals = Refusals()
        self.heard_at = now
        """When anybody was last heard."""
        self._broker, self._since = broker, now
        self._executions = executions
        self._cursors = cursors
        self._payloads = payloads
        self._problem = ""  # of the journal

    def hello(self, it: Received, message: Message, now: float) -> list[Instruction]:
        """Raises ProtocolError."""
        session = Session(it.peer, it.principal, message.header, decode_json(message.body), now)
        execution = self._executions.get(session.execution)
        if session.role == "agent" and execution is None:
            raise deliveries.unknown_execution(session.execution)
        if execution and session.source:
            execution.stand(session.source, session.epoch, session.incarnation)
        out: list[Instruction] = []
        for former in self.sessions.admit(session):
            self._let_go(former.peer)
            if former.peer != it.peer and (former.epoch, former.incarnation) != (session.epoch, session.incarnation):
                error = ProtocolError(ErrorCode.FENCED, f"another process speaks for {session.source} from now on")
                out += self.refusals.refuse(former.peer, former, former.principal, Header(), error, now)
        self.hear(session, now)
        fields: dict[str, object] = {
            "broker": self._broker, "version": __version__, "protocol": PROTOCOL_VERSION,
            "since": self._since, "heartbeat_s": HEARTBEAT_S, "window_bytes": WINDOW_BYTES,
        }  # fmt: skip
        if session.role == "executor":
            head = execution.streams.get((EXECUTOR, Channel.SIGNALS)) if execution else None
            fields["accepted"] = head.accepted if head else 0
            fields["confirmed"], fields["given"] = (execution.confirmed, execution.given) if execution else (0, 0)
        header = Header(request=message.header.request, execution=session.execution, time=now)
        out.append(Send(it.peer, Message(Command.WELCOME, header, encode_json(**fields))))
        if self._problem:
            out.append(self.pong(it.peer, Header(execution=session.execution, time=now)))
        return [*out, *self._controls(session, now)]

    def _controls(self, session: Session, now: float) -> list[Send]:
        """What an agent that is here has to hear, in the order of the journal."""
        execution = self._executions.get(session.execution)
        if execution is None or session.role != "agent":
            return []
        if execution.state.final:
            return [Send(session.peer, told_to_end(execution.id, execution.state, now))]
        if execution.decided.final:
            return []
        controls = execution.controls.for_agent(session.source.index if session.source else 0)
        return [Send(session.peer, Message(Command.CONTROL, *control)) for control in controls]

    def hear(self, session: Session, now: float) -> None:
        """Raises ProtocolError if another process has taken over from the one that speaks."""
        self.heard_at = session.heard_at = now
        execution = self._executions.get(session.execution)
        if execution and session.source:
            execution.stand(session.source, session.epoch, session.incarnation)
            execution.heard(session.source, now)

    def bye(self, session: Session) -> None:
        """It has said BYE."""
        execution = self._executions.get(session.execution)
        if execution and session.source:
            execution.contacts.left(session.source)
        self._drop(session.peer)

    def expire(self, now: float, silence_s: float) -> None:
        """Forget those that have been silent for so long."""
        for session in self.sessions:
            if now - session.heard_at >= silence_s:
                self._drop(session.peer)

    def renew(self, now: float) -> None:
        """The broker itself did not listen: nobody's silence counts."""
        for session in self.sessions:
            session.heard_at = now

    def unsent(self, it: Unsent) -> None:
        """A message did not leave."""
        if it.gone:
            self._drop(it.peer)
        elif it.message.command in (Command.EVENTS, Command.END):
            self._cursors.unsent(it)
        elif self.sessions.get(it.peer):
            self.reminders.unsent(it)

    def remind(self, now: float) -> list[Send]:
        """To be asked each second: what did not leave."""
        sessions = (self.sessions.get(peer) for peer in self.reminders.uncontrolled())
        controls = [send for session in sessions if session for send in self._controls(session, now)]
        return [*controls, *self.reminders.acknowledgements(self._executions, now)]

    def _drop(self, peer: bytes) -> None:
        """Forget a peer and what it reads."""
        self.sessions.drop(peer)
        self._let_go(peer)

    def _let_go(self, peer: bytes) -> None:
        """Nothing of what a former session has asked for is done any more."""
        self._cursors.drop(peer)
        self._payloads.drop(peer)
        self.reminders.drop(peer)

    # --- what they are told ---------------------------------------------------------------------

    def refuse(
        self, peer: bytes, header: Header, error: ProtocolError, now: float, principal: str = "", **more: str
    ) -> list[Instruction]:
        """REFUSED, to whoever sent what lies under the `header`; `more` tells what that was where the header cannot."""
        return self.refusals.refuse(peer, self.sessions.get(peer), principal, header, error, now, **more)

    def pong(self, peer: bytes, header: Header) -> Send:
        """PONG, with what hinders the journal."""
        body = encode_json(problem=self._problem) if self._problem else b""
        return Send(peer, Message(Command.PONG, header, body))

    def trouble(self, problem: str, now: float) -> list[Instruction]:
        """The journal cannot be written, or (empty) can be again: everybody is told, also who asks nothing now."""
        self._problem = problem
        return [self.pong(session.peer, Header(execution=session.execution, time=now)) for session in self.sessions]

    def goodbye(self, now: float) -> list[Instruction]:
        """The broker is about to end."""
        return [Send(session.peer, Message(Command.GOODBYE, Header(time=now))) for session in self.sessions]
