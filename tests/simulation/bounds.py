"""Small bounds: what takes gigabytes in life is reached here by a few kilobytes, so that every policy is at work."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import theorbo.executor.conversation  # noqa: F401 - all modules whose bounds are made small have to be there
from theorbo.broker import core  # noqa: F401
from theorbo.observer import subscription  # noqa: F401
from theorbo.observer.splice import Splice
from theorbo.schemas import limits
from theorbo.schemas.delivery import Delivery
from theorbo.task_runtime.agent_core import AgentCore

SMALL = {
    "WINDOW_BYTES": 8_000,
    "READ_ROOM_BYTES": 3_000,
    "READ_BYTES": 1_500,
    "OUTPUT_READ_BYTES": 700,
    "BATCH_BYTES": 1_400,
    "BATCH_EVENTS": 9,
    "CHUNK_BYTES": 2_500,
    "CREDIT_BYTES": 4_000,
    "PENDING_JOURNAL_BYTES": 5_000,
    "HELD_BYTES": 6_000,
    "LIVE_BYTES": 1_400,
    "JOURNAL_READ_BYTES": 2_500,
    "REPAIR_CREDIT_BYTES": 1_200,
    "PUNCH_BYTES": 700,
    "SPOOL_BYTES": 30_000,
    "SPOOL_RESERVE_BYTES": 8_000,
}

_WITH_DEFAULTS: tuple[Callable[..., Any], ...] = (Delivery.__init__, Splice.__init__, AgentCore.__init__)


@contextlib.contextmanager
def small_bounds() -> Iterator[None]:
    """While this holds, the bounds are small, in every module that has taken them from `limits`."""
    undo: list[tuple[Any, str, Any]] = []
    by_value = {getattr(limits, name): small for name, small in SMALL.items()}
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("theorbo.")]
    for name, small in SMALL.items():
        for module in modules:
            if name in vars(module):
                undo.append((module, name, vars(module)[name]))
                setattr(module, name, small)
    for function in _WITH_DEFAULTS:
        undo.append((function, "__defaults__", function.__defaults__))
        defaults = tuple(
            by_value.get(value, value) if isinstance(value, int) else value for value in function.__defaults__ or ()
        )
        setattr(function, "__defaults__", defaults)  # noqa: B010 - the type says it cannot be set
    try:
        yield
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)
