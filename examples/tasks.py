"""Executors that are run by name, here all examples.

    theorbo run Galaxies --tasks examples/tasks.py

What is set once (ranks, time limits, environments, hooks) stands in such a file, and not on every command line.
"""

from pathlib import Path

from theorbo.executor import BinaryExecutor, Executor, MPIExecutor, Reported

HERE = Path(__file__).parent


def warn_if_empty(executor: Executor, event: Reported) -> None:
    """A hook, called for every result."""
    if event.summary.startswith("0 "):
        executor.log.warning("nothing was found; is the threshold too high?")


Galaxies = MPIExecutor(f"{HERE}/galaxies/galaxies.py:Galaxies", ranks=4, time_limit_s=300.0)
Galaxies.add_hook("TASK_RESULT", warn_if_empty)

SourceExtractor = Executor(f"{HERE}/source_extractor/source_extractor.py:SourceExtractor", time_limit_s=300.0)
SourceExtractor.add_hook("TASK_RESULT", warn_if_empty)

Checksums = BinaryExecutor(command=[f"{HERE}/shell/report.sh", f"{HERE}/tasks.py"])
