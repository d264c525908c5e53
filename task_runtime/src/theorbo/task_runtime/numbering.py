"""Which numbers the events of a file get: where its streams begin, begin again, and go on. Pure.

A number must never be given to two different events: the broker would drop the second as known. So wherever this agent
cannot know which numbers were used (by an agent before it, or in a journal that has been recovered), the broker is
asked first; see `schemas.delivery`.
"""

from __future__ import annotations

from collections.abc import Iterable

from theorbo.schemas.delivery import Delivery
from theorbo.schemas.names import Channel, Stream
from theorbo.task_runtime.spool_reader import BEGINNING, SpoolFile


class Numbering:
    """Keeps the streams of `delivery` in step with the files they are read from."""

    def __init__(self, delivery: Delivery, own_name: str, *, takes_over: bool) -> None:
        """`own_name` is the agent's own file; `takes_over`: there was an agent before this one."""
        self._delivery = delivery
        self._own_name = own_name
        self._takes_over = takes_over
        self._another_journal = False

    def begin(self, file: SpoolFile, *, known: bool) -> None:
        """A file is about to be read for the first time; `known`: a checkpoint says from where on."""
        if self._another_journal:
            self._offer_again(file)
            return
        for channel, stream in _streams(file).items():
            # What an agent before has read last is in no checkpoint, but may be in the journal.
            ask = self._takes_over and not known
            if ask or file.counts.get(channel):
                self._delivery.start(stream, file.counts.get(channel, 0), ask=ask)

    def another_journal(self, files: Iterable[SpoolFile]) -> None:
        """It may lack anything: all that still stands in the files is read again and offered."""
        self._another_journal = True
        for file in files:
            self._offer_again(file)

    def _offer_again(self, file: SpoolFile) -> None:
        if not file.starts_over:
            file.rewind(BEGINNING if file.name == self._own_name else file.kept)
        for channel, stream in _streams(file).items():
            self._delivery.start(stream, file.counts.get(channel, 0), ask=True)

    def start_over(self, file: SpoolFile) -> None:
        """A file is not what it was. Numbers go on after those in the journal: an agent before may have read more."""
        streams = _streams(file)
        if self._takes_over and not file.numbers_asked:
            file.numbers_asked = True
            for channel, stream in streams.items():
                self._delivery.start(stream, file.counts.get(channel, 0), ask=True)
        if any(map(self._delivery.asked, streams.values())):
            return
        last = {c: max(file.counts.get(c, 0), self._delivery.journaled(stream)) for c, stream in streams.items()}
        for channel, stream in streams.items():
            if last[channel] > file.counts.get(channel, 0):
                self._delivery.start(stream, last[channel])
        file.start_over({channel: count for channel, count in last.items() if count})

    def totals(self, files: Iterable[SpoolFile]) -> tuple[dict[Stream, int], list[tuple[Stream, str]]]:
        """The last number of every stream; and those of which the journal has more than was read, with words: lines
        of a former content have taken the numbers of later ones.
        """
        counts = {stream: number for stream, number in self._delivery.counts().items() if number}
        changed = []
        for file in files:
            for stream in _streams(file).values():
                read, journaled = counts.get(stream, 0), self._delivery.journaled(stream)
                if journaled > read:
                    changed.append(
                        (stream, f"the journal has {journaled} of it, {file.name} only {read}: it was changed unseen")
                    )
                    counts[stream] = journaled
        return counts, changed


def _streams(file: SpoolFile) -> dict[Channel, Stream]:
    return {channel: Stream(file.source, channel) for channel in file.channels}
