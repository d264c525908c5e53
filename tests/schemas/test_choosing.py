"""Which execution is meant, where the broker's answer is what it is."""

from __future__ import annotations

import pytest

from theorbo.schemas.choosing import chosen
from theorbo.schemas.errors import UsageError
from theorbo.schemas.frames import Command, Header, Message, encode_json
from theorbo.schemas.limits import LISTING_ROWS


class Answering:
    """A link to a broker that lists so many executions, and may have more that did not fit."""

    def __init__(self, count: int, *, more: bool = False) -> None:
        self.views = [{"execution": f"{n:032x}", "task": "peaks", "state": "COMPLETED"} for n in range(1, count + 1)]
        self.more = more

    def ask(self, _command: bytes, header: Header, _body: bytes) -> Message:
        return Message(Command.LISTING, header, encode_json(executions=self.views, more=self.more))


@pytest.mark.parametrize(
    ("count", "more", "among"),
    [(3, False, ""), (3, True, " among the newest 3"), (LISTING_ROWS, False, f" among the newest {LISTING_ROWS}")],
)
def test_an_execution_that_may_be_older_than_what_was_listed_is_not_said_to_be_none(count, more, among):
    with pytest.raises(UsageError) as error:
        chosen(Answering(count, more=more), "abcdef")
    hint = f"{among} (give all 32 digits of an older one)" if among else ""
    assert str(error.value).startswith(f"there is no execution 'abcdef'{hint}; the latest: ")
