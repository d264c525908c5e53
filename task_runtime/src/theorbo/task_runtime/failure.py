"""What is reported of an exception: one sentence, and a traceback without our own frames."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from theorbo.schemas.errors import TheorboError
from theorbo.schemas.limits import BEGINNING_CHARACTERS
from theorbo.task_runtime import report

if TYPE_CHECKING:
    from types import TracebackType

_OUR_FILES = (os.path.dirname(os.path.abspath(__file__)) + os.sep, "<frozen ")  # noqa: PTH100, PTH120


def report_failure(error: BaseException) -> None:
    """Report that the Task has failed by an exception that nobody has caught.

    In a forked child it is a line of log: whether the Task has failed is for its first process to say.
    """
    sentence, traceback = describe(error)
    if is_forked_child():
        report.log(f"process {os.getpid()}, a child of the Task, has failed: {sentence}\n{traceback}", "ERROR")
    elif not report.task_failed(sentence, traceback):
        from theorbo.task_runtime.console import Console

        Console().send({"kind": "task_failed", "time": 0.0, "error": sentence, "traceback": traceback})


def is_forked_child() -> bool:
    """Whether this process is a child that the Task has forked (children that are spawned load all anew)."""
    return os.getpid() != _first_pid


_first_pid = os.getpid()


def describe(error: BaseException) -> tuple[str, str]:
    """`ValueError: text`, and the traceback; the latter is empty where our own sentence says it all."""
    if isinstance(error, TheorboError) and error.__cause__ is None:
        return cut(str(error)), ""
    import traceback

    shown = error if not isinstance(error, TheorboError) else error.__cause__
    assert shown is not None
    lines = traceback.format_exception(type(shown), shown, without_our_frames(shown.__traceback__))
    sentence = str(error) if isinstance(error, TheorboError) else named(error)
    return cut(sentence), _cut_middle("".join(lines))


def named(error: BaseException) -> str:
    """`ValueError: text`, also for errors that cannot be shown."""
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        text = str(error)
    except Exception:  # its __str__ is not ours
        text = "(its text cannot be shown)"
    return f"{name}: {text}" if text else name


def without_our_frames(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is neither ours nor of Python's import; whole if there is none."""
    inner = traceback
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_OUR_FILES):
        inner = inner.tb_next
    return inner or traceback


def cut(text: str) -> str:
    """The text, or the beginning of a long one: what says why must fit into a record."""
    return text if len(text) <= BEGINNING_CHARACTERS else text[:BEGINNING_CHARACTERS] + "…"


def _cut_middle(text: str) -> str:
    """The first and the last of a long traceback: where it began, and what went wrong."""
    if len(text) <= 2 * BEGINNING_CHARACTERS:
        return text
    return f"{text[:BEGINNING_CHARACTERS]}\n  …\n{text[-BEGINNING_CHARACTERS:]}"
