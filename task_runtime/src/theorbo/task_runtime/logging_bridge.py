"""Lets `logging`, `warnings` and uncaught exceptions be reported on a bus, instead of being printed.

On a bus each of them is reported once: handlers of the root logger that print on stderr or stdout are taken
off, as what they print would arrive a second time, as a line of output. Without a bus everything prints as
Python has it, only INFO is shown too.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING

from theorbo.task_runtime import failure, report

if TYPE_CHECKING:
    from types import TracebackType


class BusHandler(logging.Handler):
    """Reports records of `logging`, the text as `logging` formats it (exceptions included)."""

    def emit(self, record: logging.LogRecord) -> None:
        """Report one record."""
        if len(logging.root.handlers) > 1:
            _take_off_printing_handlers()
        try:
            text = self.format(record)
        except Exception:  # arguments that do not fit the text: logging says so on stderr, and goes on
            self.handleError(record)
            return
        logger = "" if record.name == "root" else record.name
        report.log_record(text, report.level_of(record.levelno), logger, record.created)


def install(level: str = "INFO") -> None:
    """Install everything; see `theorbo.task_runtime.install`."""
    root = logging.getLogger()
    if not report.sink().on_bus:
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
        return
    if any(isinstance(handler, BusHandler) for handler in root.handlers):
        return
    _take_off_printing_handlers()
    root.handlers.insert(0, BusHandler())  # first: it takes off a printing handler before that sees the record
    if root.level in (logging.NOTSET, logging.WARNING):  # nobody has chosen one
        root.setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = _report_uncaught
    threading.excepthook = _report_uncaught_in_thread


def _take_off_printing_handlers() -> None:
    streams = (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
    for handler in list(logging.root.handlers):
        if isinstance(handler, logging.StreamHandler) and any(handler.stream is stream for stream in streams):
            logging.root.removeHandler(handler)


def _report_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        failure.report_failure(error)


def _report_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    error = arguments.exc_value
    if error is None or isinstance(error, SystemExit):
        return
    name = arguments.thread.name if arguments.thread else "of unknown name"
    sentence, traceback = failure.describe(error)
    report.log(f"thread {name} has failed: {sentence}\n{traceback}", "ERROR")
