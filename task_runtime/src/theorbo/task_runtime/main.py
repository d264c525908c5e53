"""Runs a Task: `python -m theorbo.task_runtime.main SPEC`, its parameters as JSON in THEORBO_PARAMETERS.

Exit status: 0 if all went well; 1 if the Task raised, could not be loaded, or a part of its result could not be
sent (each reported as `task_failed`); 3 if the Task ended well because it has seen that it was cancelled; else what it
gave to `sys.exit`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

from theorbo.schemas.errors import ExitStatus, UsageError
from theorbo.task_runtime import cancellation, failure, logging_bridge, report, stacks_signal

PARAMETERS_VARIABLE = "THEORBO_PARAMETERS"


def main(argv: list[str]) -> int:
    """Load the Task, run it, report its end; the exit status."""
    if len(argv) != 1:
        print("usage: python -m theorbo.task_runtime.main path/file.py:Class | module:Class", file=sys.stderr)
        return ExitStatus.USAGE
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # whole lines reach the spool as they are printed
    logging_bridge.install()
    stacks_signal.register()
    code = _run(argv[0])
    cancellation.disregard_sigterm()
    if code != 0 and not failure.is_forked_child():
        _end_other_ranks(code)
    # Other ranks of a cancelled Task end by themselves, if only because one that looks has told them.
    return ExitStatus.CANCELLED if code == 0 and cancellation.heeded() else code


def _run(spec: str) -> int:
    try:
        from theorbo.task_runtime.loading import load_task

        task = load_task(spec)(_given_parameters())
        if task.cooperative:
            cancellation.heed_sigterm()
        task.run()
    except KeyboardInterrupt:
        raise
    except SystemExit as ending:
        return _exit_code(ending)
    except BaseException as error:
        failure.report_failure(error)
        return ExitStatus.FAILED
    return ExitStatus.FAILED if report.unsent() else ExitStatus.COMPLETED


def _given_parameters() -> dict[str, Any]:
    text = os.environ.get(PARAMETERS_VARIABLE) or "{}"
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{PARAMETERS_VARIABLE} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{PARAMETERS_VARIABLE} is no JSON object but {text:.80}")
    return values


def _exit_code(ending: SystemExit) -> int:
    """Of `sys.exit(…)`: nothing, a number, or a text that says why."""
    if ending.code is None or isinstance(ending.code, int):
        return ending.code or 0
    report.task_failed(failure.cut(str(ending.code)))
    return ExitStatus.FAILED


def _end_other_ranks(code: int) -> None:
    """Abort the MPI program, if this is one: the other ranks would wait for this one for ever."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None or not mpi.Is_initialized() or mpi.Is_finalized() or mpi.COMM_WORLD.Get_size() == 1:
        return
    # An abort kills before anybody can say how this rank has ended, so that is said now.
    if not report.has_failed():
        report.task_failed(f"exit code {code}")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, replaced, or on a full disk: the abort must not depend on it
            stream.flush()
    mpi.COMM_WORLD.Abort(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
if __name__ == "__mp_main__":  # a child of multiprocessing that was spawned, and not forked
    logging_bridge.install()
