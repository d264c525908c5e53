"""READ and CREDIT from the client's side."""

from __future__ import annotations

import itertools

from theorbo.schemas.frames import Command, Header, decode_json
from theorbo.schemas.reading import Reading

RUN = b"r" * 16


def reading(**wish) -> Reading:
    return Reading(itertools.count(1).__next__, 1000, RUN, **wish)


def test_credit_is_given_for_what_was_processed_once_that_is_half_of_what_was_granted():
    one = reading(after=0)
    one.begin()
    assert one.took(Header(sequence=7), 499) == []
    (credit,) = one.took(Header(sequence=8), 1)
    assert (credit.command, credit.header.count, credit.header.sequence) == (Command.CREDIT, 500, 8)
    assert one.took(Header(sequence=9), 499) == []


def test_after_a_restart_it_goes_on_behind_what_was_taken():
    one = reading(since=17.5, channels=["log"])
    first = one.begin()
    assert decode_json(first.body) == {"since": 17.5, "channels": ["log"], "credit": 1000}
    assert decode_json(one.begin().body)["since"] == 17.5  # nothing has come yet
    one.took(Header(sequence=8), 1)
    again = one.begin()
    assert decode_json(again.body) == {"after": 8, "channels": ["log"], "credit": 1000}
    assert again.header.request == one.request != first.header.request
    assert one.close().header.request == one.request


def test_of_positions_it_goes_on_behind_the_last_one():
    one = reading(channel="log", first=3, last=9)
    one.begin()
    one.took(Header(position=2, count=4, sequence=8), 1)
    assert decode_json(one.begin().body) == {"channel": "log", "first": 6, "last": 9, "credit": 1000}
