"""The functions by which a program reports: log, progress, metric, data, result.

Each makes the fields of one record, whose kinds and fields are those of `theorbo.schemas.events`, and hands
them to the sink: the spool's `Reporter` on a bus, else the `Console`. None of them raises; what cannot be
reported as asked for is reported as a warning that says why.
"""

from __future__ import annotations

import sys
from os import environ, getpid, register_at_fork
from time import time

from theorbo.schemas.limits import NAME_CHARACTERS

TYPE_CHECKING = False  # type checkers know the name; importing typing for it costs 8 ms
if TYPE_CHECKING:
    from typing import Any, Protocol

    from theorbo.schemas.records import Attachment

    class Sink(Protocol):
        """Where reports go."""

        on_bus: bool

        def send(self, fields: dict[str, Any]) -> bool:
            """Take over one report; False if it is lost (and counted). Raises nothing."""
            ...

        def store(self, payload: bytes) -> Attachment:
            """Take over bytes that a report is going to name. Raises OSError."""
            ...


SPOOL_VARIABLE = "THEORBO_SPOOL"
RANK_VARIABLE = "THEORBO_RANK"

_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
_OTHER_LEVELS = {"WARN": "WARNING", "FATAL": "CRITICAL"}
_LEVEL_NUMBERS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}

_sink: Sink | None = None
_unsent: str | None = None
_failed = False


def sink() -> Sink:
    """Where this process reports, chosen by its environment at the first report."""
    global _sink
    if _sink is None:
        _sink = _choose_sink()
    return _sink


def _prepare_for_fork() -> None:
    """Import now what reports may need: a child that is forked while another thread imports waits for ever."""
    sink()
    import hashlib  # noqa: F401
    import pathlib  # noqa: F401

    import theorbo.task_runtime.payload  # noqa: F401


register_at_fork(before=_prepare_for_fork)


def unsent() -> str | None:
    """The first part of a result that could not be sent, as a sentence; None if there was none."""
    return _unsent


def has_failed() -> bool:
    """Whether this process has reported that the Task has failed."""
    return _failed


def _choose_sink() -> Sink:
    spool = environ.get(SPOOL_VARIABLE)
    if spool:
        from theorbo.task_runtime.reporter import Reporter

        try:
            return Reporter(spool, int(environ.get(RANK_VARIABLE) or 0))
        except (OSError, ValueError) as error:
            _complain(f"cannot report to the spool {spool} ({error}); printing instead")
    from theorbo.task_runtime.console import Console

    return Console()


def log(text: str, level: str = "INFO") -> None:
    """Report a line for people (it may have line ends in it).

    `level` is DEBUG, INFO, WARNING, ERROR or CRITICAL, or the number that the module `logging` has for it. With
    anything else the line is INFO, and shows what was given.
    """
    try:
        if level not in _LEVELS:
            level, text = _known_level(level, text)
        if type(text) is not str:
            text = _as_text(text)
        (_sink or sink()).send({"kind": "log", "time": time(), "pid": getpid(), "level": level, "text": text})
    except Exception as error:  # whatever it is: reporting must not end a Task
        _complain(f"log: {error!r}")


def log_record(text: str, level: str, logger: str, time_s: float) -> None:
    """A record of the module `logging`."""
    try:
        fields = {"kind": "log", "time": time_s, "pid": getpid(), "level": level, "text": text}
        if logger:
            fields["logger"] = _short(logger)
        sink().send(fields)
    except Exception as error:
        _complain(f"log: {error!r}")


def progress(done: float, total: float | None = None, unit: str = "", text: str = "") -> None:
    """Report how far this rank is: `progress(3, 40, unit="tiles")`."""
    try:
        fields = {"kind": "progress", "time": time(), "pid": getpid(), "done": float(done)}
        if total is not None:
            fields["total"] = float(total)
        _add_texts(fields, unit=unit, text=text)
        sink().send(fields)
    except (TypeError, ValueError, OverflowError):
        log(f"progress({_shown(done)}, {_shown(total)}) is not reported: numbers are wanted", "WARNING")
    except Exception as error:
        _complain(f"progress: {error!r}")


def metric(name: str, value: float, unit: str = "", step: int | None = None) -> None:
    """Report a number worth watching: `metric("hit rate", 0.31)`."""
    try:
        fields = {"kind": "metric", "time": time(), "pid": getpid(), "name": _short(name), "value": float(value)}
        if step is not None:
            fields["step"] = int(step)
        _add_texts(fields, unit=unit)
        sink().send(fields)
    except (TypeError, ValueError, OverflowError):
        at_step = "" if step is None else f" at step {_shown(step)}"
        log(f"metric {_short(name)!r} = {_shown(value)}{at_step} is not reported: numbers are wanted", "WARNING")
    except Exception as error:
        _complain(f"metric: {error!r}")


def data(name: str, value: Any) -> None:
    """Report something worth showing while the Task runs: an array, a figure. See `result` for what can be sent."""
    try:
        fields = {"kind": "data", "time": time(), "pid": getpid(), "name": _short(name)}
        for problem in _add_parts(fields, value):
            log(f"data {_short(name)!r}: {problem}", "WARNING")
        sink().send(fields)
    except Exception as error:
        _complain(f"data: {error!r}")


def result(value: Any = None, *, summary: str = "", name: str = "result") -> None:
    """Report what the Task has found out.

    `value` may be a JSON value, a numpy array, bytes, a figure, a `pathlib.Path` (sent by reference), an
    object that shows itself in notebooks, or a dict or list of these. What of it cannot be sent is named by
    an ERROR line and fails the Task; the rest is kept.
    """
    global _unsent
    try:
        fields: dict[str, Any] = {"kind": "result", "time": time(), "pid": getpid(), "name": _short(name)}
        problems = _add_parts(fields, value, _as_text(summary))
        if not sink().send(fields):
            problems.append("it could not be written to the spool")
        for problem in problems:
            sentence = f"result {_short(name)!r}: {problem}"
            log(sentence, "ERROR")
            if _unsent is None:
                _unsent = sentence
                task_failed(sentence)
    except Exception as error:
        _complain(f"result: {error!r}")


def task_failed(error: str, traceback: str = "") -> bool:
    """Report that the Task itself says that it has failed; False if that could not be reported."""
    global _failed
    _failed = True
    fields = {"kind": "task_failed", "time": time(), "pid": getpid(), "error": error}
    if traceback:
        fields["traceback"] = traceback
    return sink().send(fields)


def _add_parts(fields: dict[str, Any], value: Any, summary: str = "") -> list[str]:
    from theorbo.task_runtime.payload import Payload

    payload = Payload(sink().store)
    if summary:
        fields["summary"] = payload.add_summary(summary)
    if value is not None:
        payload.add(value)
    fields["parts"] = payload.parts
    if payload.attachments:
        fields["attachments"] = payload.attachments
    return payload.problems


def _add_texts(fields: dict[str, Any], **texts: str) -> None:
    for key, text in texts.items():
        if text:
            fields[key] = _short(text)


def _known_level(level: Any, text: Any) -> tuple[str, str]:
    name = _LEVEL_NUMBERS.get(level, "") if isinstance(level, int) else _as_text(level).upper()
    name = _OTHER_LEVELS.get(name, name)
    return (name, text) if name in _LEVELS else ("INFO", f"{_as_text(text)} [level {_shown(level)}]")


def level_of(number: int) -> str:
    """The level of the module `logging`'s number: the next lower one that has a name."""
    names = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    return names[min(max(number // 10 - 1, 0), 4)]


def _as_text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # its __str__ is not ours
        return f"<{type(value).__name__} that cannot be shown>"


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # its __repr__ is not ours
        return f"<{type(value).__name__} that cannot be shown>"


def _short(value: Any) -> str:
    text = _as_text(value)
    return text if len(text) <= NAME_CHARACTERS else text[: NAME_CHARACTERS - 1] + "…"


def _complain(sentence: str) -> None:
    """Say on stderr what is wrong with reporting itself, as far as there is a stderr."""
    try:
        print(f"theorbo: {sentence}", file=sys.stderr)
    except (OSError, ValueError, AttributeError):
        return
