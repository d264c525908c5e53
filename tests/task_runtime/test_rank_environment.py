"""What ranks find around them."""

from __future__ import annotations

from theorbo.schemas.launch_plan import LaunchPlan
from theorbo.task_runtime.rank_environment import rank_environment


def test_in_a_job_ranks_have_what_the_job_was_given_and_else_what_the_plan_says(tmp_path, monkeypatch):
    for name, value in (("SLURM_JOB_ID", "77"), ("CUDA_VISIBLE_DEVICES", "1,2"), ("HOME", "/job")):
        monkeypatch.setenv(name, value)
    around = {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "9", "CUDA_VISIBLE_DEVICES": "0", "HOME": "/plan"}
    plan = LaunchPlan("0" * 32, "broker.json", ["true"], around, "/")
    environment = rank_environment(plan, tmp_path)
    assert {name: environment.get(name) for name in around} == {
        "SLURM_JOB_ID": "77", "SLURM_NTASKS": None, "CUDA_VISIBLE_DEVICES": "1,2", "HOME": "/plan",
    }  # fmt: skip
