"""What ranks find around them: their environment, and the directories in the spool that it names."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.schemas.spool import PYTHON
from theorbo.task_runtime.inprocess_path import make_inprocess_path, with_inprocess_path

OUR_MAIN = "theorbo.task_runtime.main"
BIN = "bin"
"""A directory in the spool that holds the command `theorbo`, for PATH."""

_FOREIGN_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")

_OF_THE_JOB = ("SLURM_", "SLURMD_")

_DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK", "GPU_DEVICE_ORDINAL")
"""Which GPUs the job was given. srun tells each rank by itself; one that is started directly has it from us."""


def make_rank_directories(spool: Path) -> None:
    """Make what `rank_environment` names. Raises OSError."""
    make_inprocess_path(spool / PYTHON)
    (spool / BIN).mkdir()
    (spool / BIN / "theorbo").symlink_to(Path(sys.executable).with_name("theorbo"))


def rank_environment(plan: LaunchPlan, spool: Path) -> dict[str, str]:
    """The environment of every rank, but for THEORBO_RANK of those that are started directly."""
    environment = with_inprocess_path(_in_this_job(plan.environment), spool / PYTHON)
    environment["THEORBO_SPOOL"] = str(spool)
    environment["THEORBO_EXECUTION"] = plan.execution
    environment["THEORBO_RANKS"] = str(plan.ranks)
    # So that scripts find `theorbo emit`; last, and alone in its directory, so that it hides nothing.
    environment["PATH"] = os.pathsep.join([environment.get("PATH", os.defpath), str(spool / BIN)])
    environment.pop("THEORBO_RANK", None)  # of a Task inside of which we may have been started
    if not plan.launcher_command:
        for name in _FOREIGN_RANKS:
            environment.pop(name, None)
    if OUR_MAIN not in plan.command:
        # Python writes to a file in blocks of 8 KiB, and what is in there dies with it. Our own main turns on
        # buffering by lines, which is cheaper; other programs do not look at this.
        environment.setdefault("PYTHONUNBUFFERED", "1")
    return environment


def _in_this_job(environment: Mapping[str, str]) -> dict[str, str]:
    """The plan may come from another machine: srun wants to know the job that we are in, not one that was there."""
    if os.environ.get("SLURM_JOB_ID") in (None, environment.get("SLURM_JOB_ID")):
        return dict(environment)
    ours = {name: value for name, value in os.environ.items() if name.startswith(_OF_THE_JOB) or name in _DEVICES}
    return {**{name: value for name, value in environment.items() if not name.startswith(_OF_THE_JOB)}, **ours}
