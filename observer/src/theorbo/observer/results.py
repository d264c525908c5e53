"""The results of an execution, read from the journal page by page."""

from __future__ import annotations

from collections.abc import Iterator

from theorbo.observer.reading import JournalReader
from theorbo.schemas.choosing import View
from theorbo.schemas.events import Data, Result
from theorbo.schemas.frames import Header
from theorbo.schemas.limits import RESULTS_PAGE
from theorbo.schemas.link import Link
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
    reader = JournalReader(link, execution, channel=Channel.RESULTS.text, first=first, last=last)
    events = (found for header, body in reader.batches() for found in single_events(header, body))
    return [(header, event) for header, event in events if first <= header.position <= last]
