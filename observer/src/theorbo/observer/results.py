"""The results of an execution, read from the journal page by page."""

from __future__ import annotations

import time
from collections.abc import Iterator

from theorbo.observer.choose import View
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.events import Data, Result
from theorbo.schemas.frames import Command, Header, Message, encode_json
from theorbo.schemas.limits import ANSWER_S, RESULTS_PAGE
from theorbo.schemas.link import Link, accepted
from theorbo.schemas.names import Channel
from theorbo.schemas.presentation import single_events


def read_results(link: Link, view: View, *, with_data: bool) -> Iterator[tuple[Header, Result | Data]]:
    """What an execution has reported up to the heads of its view, oldest first; of data only if asked for.

    Between two of them the link is free for other requests. Raises Refused, ProtocolError or Unavailable.
    """
    execution = bytes.fromhex(str(view["execution"]))
    last = int((view.get("heads") or {}).get(Channel.RESULTS.text, 0))
    for first in range(1, last + 1, RESULTS_PAGE):
        for header, event in _page(link, execution, first, min(last, first + RESULTS_PAGE - 1)):
            if isinstance(event, Result) or (with_data and isinstance(event, Data)):
                yield header, event


def _page(link: Link, execution: bytes, first: int, last: int) -> list[tuple[Header, object]]:
    request = link.new_request()
    wish = encode_json(channel=Channel.RESULTS.text, first=first, last=last)
    link.send(Message(Command.READ, Header(request=request, execution=execution), wish))
    found: list[tuple[Header, object]] = []
    deadline = time.monotonic() + ANSWER_S
    while (left_s := deadline - time.monotonic()) > 0:
        for message in link.receive(left_s):
            if message.header.request != request:
                continue
            command, header, body = accepted(message)
            if command == Command.END:
                return found
            found += [(own, event) for own, event in single_events(header, body) if first <= own.position <= last]
            link.send(Message(Command.CREDIT, Header(request=request, count=len(body), sequence=header.sequence)))
            deadline = time.monotonic() + ANSWER_S
    raise Unavailable(f"the broker stopped answering while results were read (nothing for {ANSWER_S:.0f} s)")
