"""Launching and supervising Tasks: `Executor`, `MPIExecutor`, `BinaryExecutor`, and their `Outcome`.

The one file to read first is `core.py`: what an Executor decides, and when.
"""

from theorbo.executor.executor import BinaryExecutor, Executor, MPIExecutor
from theorbo.executor.launching import Launching
from theorbo.executor.outcome import Outcome
from theorbo.executor.reported import Reported

__all__ = ["Executor", "MPIExecutor", "BinaryExecutor", "Launching", "Outcome", "Reported"]
