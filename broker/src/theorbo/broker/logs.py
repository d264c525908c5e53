"""The broker's own log, on stderr: readable on a terminal, one JSON object a line otherwise."""

from __future__ import annotations

import logging
import sys
from typing import Any


def configure(level: str) -> Any:
    """The logger; called once, by the command."""
    # structlog imports rich where it finds it, for pictures of tracebacks: 80 ms that `theorbo run` would
    # wait for, and not what we want in a log.
    if "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]
    import structlog

    if sys.modules["rich"] is None:
        del sys.modules["rich"]
    if sys.stderr.isatty():
        render: list[Any] = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(),
        ]
    else:
        render = [
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=[structlog.processors.add_log_level, *render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger()
