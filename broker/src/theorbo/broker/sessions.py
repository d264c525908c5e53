"""Sessions: the peers that have said HELLO to this run of the broker."""

from __future__ import annotations

from typing import Any, Literal, cast

from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import NO_EXECUTION, ErrorCode, Header

Role = Literal["executor", "agent", "observer"]
ROLES = ("executor", "agent", "observer")


class Session:
    """One peer: who it is, what it speaks for, when it was last heard."""

    __slots__ = ("execution", "heard_at", "host", "name", "peer", "pid", "principal", "role")

    def __init__(self, peer: bytes, principal: str, header: Header, hello: dict[str, Any], now: float) -> None:
        """Of what HELLO says. Raises ProtocolError."""
        if hello.get("role") not in ROLES:
            raise ProtocolError(ErrorCode.MALFORMED, f"role {hello.get('role')!r}: expected one of {', '.join(ROLES)}")
        self.peer = peer
        self.principal = principal
        self.role = cast("Role", hello["role"])
        self.execution = header.execution
        self.host = str(hello.get("host", ""))
        self.pid = hello.get("pid", 0)
        self.heard_at = now
        self.name: str | None = "executor" if self.role == "executor" else None
        """Under which the views of executions tell the contact with it; an agent's from its first words."""
        if self.role != "observer" and self.execution == NO_EXECUTION:
            raise ProtocolError(ErrorCode.MALFORMED, f"HELLO of an {self.role} names no execution")

    def __str__(self) -> str:
        """For people: `agent of alice, node7 pid 4711`."""
        return f"{self.role} of {self.principal or 'this user'}, {self.host or 'unknown host'} pid {self.pid}"
