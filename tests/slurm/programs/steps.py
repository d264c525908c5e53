"""Tasks for the cases: MPI ranks that report steadily, and one that wants more memory than there is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from theorbo.task_runtime import Task, log, progress, result


class Steps(Task):
    """Each rank logs its steps, ten a second, and the last word is a sum over all ranks."""

    use_mpi = True

    @dataclass
    class Parameters:
        steps: int = 20

    def _run(self):
        from mpi4py import MPI

        ranks = MPI.COMM_WORLD
        steps = self.parameters.steps
        for step in range(1, steps + 1):
            log(f"step {step}")
            progress(step, steps)
            time.sleep(0.1)
        total = ranks.reduce(steps, op=MPI.SUM, root=0)
        if ranks.rank == 0:
            result({"steps": total}, summary=f"{total} steps")


class Hungry(Task):
    """The last rank takes more and more memory; the others wait for it."""

    use_mpi = True

    def _run(self):
        from mpi4py import MPI

        ranks = MPI.COMM_WORLD
        taken = []
        while ranks.rank == ranks.size - 1 and len(taken) < 200:
            taken.append(b"x" * 10_000_000)
            progress(len(taken) * 10, 2000, unit="MB")
        ranks.Barrier()
