"""What runs beside a Task on a compute node; and, for the Task itself, how it reports.

::

    from theorbo.task_runtime import Task, log, progress, metric, data, result

    class Count(Task):
        def _run(self):
            for shot in range(100):
                progress(shot + 1, 100, unit="shots")
            self.result = {"shots": 100}

The in-process part (this module, `report`, `reporter`, `console`, `payload`, `task`, `parameters`, `loading`,
`failure`, `logging_bridge`, `cancellation`, `stacks_signal`, `main`, `preflight`, `emit`) needs nothing but the
standard library and runs in any Python from 3.9 on. Rules it keeps:

1. Reporting never raises, never waits for the network, and costs microseconds: one JSON text, one `write`.
2. A call that has returned has either left its record in the spool or counted it as lost; what was left
   there survives the end of the process, however it ends.
3. Without a bus (no THEORBO_SPOOL in the environment) the same calls print on stderr.
4. Importing costs next to nothing; what is needed to report is imported with the first report.
"""

from __future__ import annotations

from theorbo.task_runtime.cancellation import cancelled
from theorbo.task_runtime.report import data, log, metric, progress, result
from theorbo.task_runtime.task import Task


def install(level: str = "INFO", *, cooperative: bool = False) -> None:
    """Let `logging`, `warnings` and uncaught exceptions be reported, and stacks on request (`theorbo stacks`): for
    scripts that are no `Task`.

    (A Task that is run by `theorbo run` has it already.) `level` becomes the root logger's level unless the
    program has chosen one. With `cooperative` SIGTERM does not end the program, but makes `cancelled()` true (only the
    main thread can do that). May be called again.
    """
    from theorbo.task_runtime import cancellation, stacks_signal
    from theorbo.task_runtime.logging_bridge import install as install_bridge

    install_bridge(level)
    stacks_signal.register()
    if cooperative:
        cancellation.heed_sigterm()


__all__ = ["Task", "log", "progress", "metric", "data", "result", "cancelled", "install"]
