"""Showing an execution while it is supervised: what `theorbo run` and `theorbo attach` have in common."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable

from theorbo.executor.display import Display
from theorbo.executor.executor import Executor
from theorbo.executor.outcome import Outcome


def shown(executor: Executor, display: Display, supervise: Callable[[], Outcome], before: str) -> int:
    """The exit status of what `supervise` does with the Executor, while its events and words are shown.

    `before` says, for people, what has not happened yet when it is interrupted too early.
    """
    executor.add_hook("ANY", lambda executor, event: display.show(event, executor.submission))
    notices = _Notices(display)
    executor.log.addHandler(notices)
    outcome = None
    # Until there is an execution these end what is under way, as Ctrl-C does; after that they are the Executor's.
    ending = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ending:
        signal.signal(number, signal.default_int_handler)
    try:
        outcome = supervise()
    except KeyboardInterrupt:
        display.notice(f"interrupted before {before}")
        return 128 + signal.SIGINT
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)
        executor.log.removeHandler(notices)
        display.end(outcome)
    return outcome.exit_status


class _Notices(logging.Handler):
    """Shows what the Executor logs, tracebacks of hooks included."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        """One line after the other, for a notice makes control characters visible."""
        for line in self.format(record).splitlines():
            self._display.notice(line)
