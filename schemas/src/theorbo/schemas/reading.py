"""A READ from its client's side: what is asked for, how far it has come, and when to give CREDIT. Pure.

CREDIT is given for what was processed, once that is half of what was granted: the broker then reads few and large
pieces, and never has more under way to a client than that one has room for.
"""

from __future__ import annotations

from typing import Any, Callable

from theorbo.schemas.frames import NO_EXECUTION, Command, Header, Message, encode_json


class Reading:
    """One wish, asked for as often as the broker forgets it.

    `wish` holds fields of READ's body: either `channel`, `first` and `last` (positions), or `after` or `since`, and
    `channels` and `follow`. `new_request` gives numbers for the header's `request`.
    """

    def __init__(
        self, new_request: Callable[[], int], credit_bytes: int, execution: bytes = NO_EXECUTION, **wish: Any
    ) -> None:
        self._new_request = new_request
        self._credit_bytes = credit_bytes
        self._execution = execution
        self._wish = wish
        self._processed_bytes = 0
        self.request = 0
        """Of the READ that stands now; what is answered to another one is of no interest any more."""

    def begin(self) -> Message:
        """READ; also when the broker was restarted: it goes on behind what was taken."""
        self.request = self._new_request()
        self._processed_bytes = 0
        body = encode_json(**self._wish, credit=self._credit_bytes)
        return Message(Command.READ, Header(request=self.request, execution=self._execution), body)

    def took(self, header: Header, size_bytes: int) -> list[Message]:
        """A batch of EVENTS was processed: CREDIT, if it is time for it."""
        if "channel" in self._wish:
            self._wish["first"] = max(self._wish["first"], header.position + header.count)
        else:
            self._wish.pop("since", None)
            self._wish["after"] = header.sequence
        self._processed_bytes += size_bytes
        if 2 * self._processed_bytes < self._credit_bytes:
            return []
        count, self._processed_bytes = self._processed_bytes, 0
        return [Message(Command.CREDIT, Header(request=self.request, count=count, sequence=header.sequence))]

    def close(self) -> Message:
        """CLOSE: nothing more of it is wanted."""
        return Message(Command.CLOSE, Header(request=self.request, execution=self._execution))
