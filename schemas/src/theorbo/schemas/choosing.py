"""Which execution is meant: by its id, or by enough digits from the beginning or the end of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from theorbo.schemas.errors import ProtocolError, Refused, UsageError
from theorbo.schemas.frames import Command, ErrorCode, Header, decode_json, encode_json
from theorbo.schemas.limits import LISTING_ROWS
from theorbo.schemas.link import Link
from theorbo.schemas.presentation import visible

View = Mapping[str, Any]

SHORT_DIGITS = 8
"""The last digits of an id are random, its first ones are the time: the last are shown for short."""


def list_views(link: Link, execution: bytes = bytes(16), **wish: Any) -> list[View]:
    """The views that LIST gives. Raises Refused, ProtocolError or Unavailable."""
    return _listing(link, execution, **wish)[0]


def _listing(link: Link, execution: bytes = bytes(16), **wish: Any) -> tuple[list[View], bool]:
    """The views, and whether some did not fit into the message."""
    answer = link.ask(Command.LIST, Header(execution=execution), encode_json(**wish))
    fields = decode_json(answer.body)
    views = fields.get("executions")
    if not isinstance(views, list) or not all(isinstance(view, dict) for view in views):
        raise ProtocolError(ErrorCode.MALFORMED, "the broker's LISTING holds no list of executions")
    return views, bool(fields.get("more"))


def chosen(link: Link, text: str) -> View:
    """The view of the execution that `text` names. Raises UsageError, saying what there is instead."""
    digits = text.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{4,32}", digits):
        raise UsageError(f"{text!r} is no execution: 4 to 32 hexadecimal digits are wanted; {_nearest(link)}")
    if len(digits) == 32:
        return _exact(link, digits)
    views, more = _listing(link, all=True, limit=LISTING_ROWS)
    found = [view for view in views if str(view["execution"]).startswith(digits)]
    found = found or [view for view in views if str(view["execution"]).endswith(digits)]
    if len(found) == 1:
        return found[0]
    if not found:
        full = more or len(views) >= LISTING_ROWS
        older = f" among the newest {len(views)} (give all 32 digits of an older one)" * full
        raise UsageError(f"there is no execution {text!r}{older}; {_nearest(link)}")
    raise UsageError(f"{text!r} may be any of {len(found)} executions; give more digits: {_named(found)}")


def _exact(link: Link, digits: str) -> View:
    try:
        views = list_views(link, bytes.fromhex(digits), all=True, limit=1)
    except Refused as refusal:
        if refusal.code != ErrorCode.UNKNOWN_EXECUTION:
            raise
        views = []
    for view in views:
        if view["execution"] == digits:  # zeros alone ask for all
            return view
    raise UsageError(f"there is no execution {digits!r}; {_nearest(link)}")


def _nearest(link: Link) -> str:
    views = list_views(link, all=True, limit=3)
    return f"the latest: {_named(views)}" if views else "this broker knows of none yet"


def _named(views: list[View]) -> str:
    shown = [f"{view['execution']} ({visible(str(view.get('task')))}, {view.get('state')})" for view in views[:5]]
    return ", ".join(shown) + (", …" if len(views) > len(shown) else "")
