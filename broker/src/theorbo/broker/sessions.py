"""Sessions: the peers that have said HELLO to this run of the broker, and for whom they speak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import NO_EXECUTION, ErrorCode, Header
from theorbo.schemas.limits import COUNT, NAME_CHARACTERS, OBSERVERS, SESSIONS
from theorbo.schemas.names import Source, SourceKind

Role = Literal["executor", "agent", "observer"]
ROLES = ("executor", "agent", "observer")


class Session:
    """One peer: who it is, what it speaks for, when it was last heard."""

    __slots__ = ("epoch", "execution", "heard_at", "host", "incarnation", "peer", "pid", "principal", "role", "source")

    def __init__(self, peer: bytes, principal: str, header: Header, hello: dict[str, Any], now: float) -> None:
        """Of what HELLO says. Raises ProtocolError."""
        if hello.get("role") not in ROLES:
            raise ProtocolError(ErrorCode.MALFORMED, f"role {hello.get('role')!r}: expected one of {', '.join(ROLES)}")
        self.peer = peer
        self.principal = principal
        self.role = cast("Role", hello["role"])
        self.execution = header.execution
        self.host = str(hello.get("host", ""))[:NAME_CHARACTERS]
        self.pid = str(hello.get("pid", 0))[:NAME_CHARACTERS]
        self.heard_at = now
        self.source: Source | None = None
        """For whom it speaks, with its epoch and incarnation (`names.Speaker`); None for an observer."""
        self.epoch = 0
        self.incarnation = ""
        if self.role != "observer":
            if self.execution == NO_EXECUTION:
                raise ProtocolError(ErrorCode.MALFORMED, f"HELLO of an {self.role} names no execution")
            self.source = _source(self.role, hello.get("source"))
            self.epoch, self.incarnation = _epoch(hello.get("epoch")), _incarnation(hello.get("incarnation"))

    def __str__(self) -> str:
        """For people: `agent of alice, node7 pid 4711`."""
        return f"{self.role} of {self.principal or 'this user'}, {self.host or 'unknown host'} pid {self.pid}"

    def may_report(self, source: Source) -> bool:
        """Whether it may PUT what `source` has reported: an agent for itself and for what runs on its node."""
        return source == self.source or (self.role == "agent" and source.kind in (SourceKind.RANK, SourceKind.LAUNCHER))


def _source(role: Role, text: object) -> Source:
    try:
        source = Source.parse(str(text))
    except ValueError:
        source = None
    if source is None or source.kind.name.lower() != role:
        example = "executor" if role == "executor" else "agent:0"
        raise ProtocolError(ErrorCode.MALFORMED, f"HELLO of an {role}: source {text!r}; expected one like {example}")
    return source


def _epoch(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= COUNT:
        raise ProtocolError(ErrorCode.MALFORMED, f"HELLO: epoch {value!r} is no number from 1")
    return value


def _incarnation(value: object) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= NAME_CHARACTERS:
        raise ProtocolError(ErrorCode.MALFORMED, f"HELLO: incarnation {value!r} is no text of a process's own")
    return value


class Sessions:
    """All peers that are known."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, Session] = {}
        self._speaking: dict[tuple[bytes, Source], bytes] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def get(self, peer: bytes) -> Session | None:
        """Who said HELLO under this routing id."""
        return self._sessions.get(peer)

    def admit(self, session: Session) -> list[Session]:
        """From now on the session is known. Those whose place it takes are forgotten, and returned: what was said
        under the same routing id, and what spoke for the same source. Raises ProtocolError if there are too many.
        """
        former = [session.peer] if session.peer in self._sessions else []
        if session.source and (speaking := self._speaking.get((session.execution, session.source))):
            former.append(speaking)
        if not former:
            observers = len(self._sessions) - len(self._speaking)
            if len(self._sessions) >= SESSIONS or (session.role == "observer" and observers >= OBSERVERS):
                raise ProtocolError(ErrorCode.BUSY, f"the broker has {len(self._sessions)} peers; try again later")
        dropped = [former_session for peer in dict.fromkeys(former) if (former_session := self.drop(peer))]
        self._sessions[session.peer] = session
        if session.source:
            self._speaking[session.execution, session.source] = session.peer
        return dropped

    def drop(self, peer: bytes) -> Session | None:
        """Forget a peer."""
        session = self._sessions.pop(peer, None)
        if session and session.source:
            self._speaking.pop((session.execution, session.source), None)
        return session

    def agents(self, execution: bytes) -> list[Session]:
        """An execution's agents."""
        return [
            session for session in self._sessions.values() if session.role == "agent" and session.execution == execution
        ]
