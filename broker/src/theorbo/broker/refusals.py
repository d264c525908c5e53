"""Refusals: counted by code and origin, in the log as long as they are no flood."""

from __future__ import annotations

from collections import Counter

from theorbo.broker.sessions import Session
from theorbo.broker.values import Instruction, Note, Send
from theorbo.schemas.errors import ProtocolError
from theorbo.schemas.frames import NO_EXECUTION, Command, ErrorCode, Header, Message, encode_json
from theorbo.schemas.limits import REFUSAL_CHARACTERS, REFUSALS_LOGGED, REFUSED_ORIGINS


class Refusals:
    """What was refused since the start of the broker."""

    def __init__(self) -> None:
        self.by_code: Counter[str] = Counter()
        self.by_origin: Counter[tuple[str, str]] = Counter()
        """By code and who sent it."""
        self._logged = self._silenced = 0

    def refuse(
        self,
        peer: bytes,
        session: Session | None,
        principal: str,
        header: Header,
        error: ProtocolError,
        now: float,
        **more: str,
    ) -> list[Instruction]:
        """REFUSED, to whoever sent what lies under the `header`; `more` tells what that was where the header cannot."""
        origin = str(session or f"a peer of {principal or 'this user'} that has not said HELLO")
        self.by_code[error.code] += 1
        key = (error.code, origin)
        self.by_origin[key if key in self.by_origin or len(self.by_origin) < REFUSED_ORIGINS else ("", "others")] += 1
        why = str(error)[:REFUSAL_CHARACTERS]
        body = encode_json(code=error.code, message=why, **more)
        out: list[Instruction] = [Send(peer, Message(Command.REFUSED, header._replace(time=now), body))]
        if error.code == ErrorCode.UNKNOWN_PEER:
            return out  # everybody's first words after a restart
        if self._logged >= REFUSALS_LOGGED:
            self._silenced += 1
            return out
        self._logged += 1
        fields = {"code": error.code, "why": why, "origin": origin}
        if header.execution != NO_EXECUTION:
            fields["execution"] = header.execution.hex()
        return [*out, Note("warning", "refused a message", fields)]

    def tick(self) -> list[Instruction]:
        """A second has passed: there is room in the log again."""
        silenced, self._logged, self._silenced = self._silenced, 0, 0
        if not silenced:
            return []
        (code, origin), _ = self.by_origin.most_common(1)[0]
        fields = {"messages": silenced, "most_often": code, "origin": origin, "refused": dict(self.by_code)}
        return [Note("warning", "refused more messages than are logged one by one", fields)]
