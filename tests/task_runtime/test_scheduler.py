from __future__ import annotations

import pytest

from theorbo.task_runtime.scheduler import ended_state, grace_before_kill


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("JobId=5 JobName=a JobState=TIMEOUT Reason=TimeLimit Dependency=(null)", "TIMEOUT"),
        ("JobId=5 JobName=a JobState=COMPLETING Reason=TimeLimit Dependency=(null)", "TIMEOUT"),
        ("JobId=5 JobName=a JobState=COMPLETING Reason=NodeDown", "NODE_FAIL"),
        ("JobId=5 JobState=COMPLETING Reason=None PreemptEligibleTime=Unknown PreemptTime=None", "CANCELLED"),
        ("JobId=5 JobState=COMPLETING Reason=None PreemptTime=2026-11-23T03:30:00", "PREEMPTED"),
        ("JobId=5 JobName=a JobState=RUNNING Reason=None", ""),
        ("JobId=5 JobName=a JobState=SOMETHING_NEW Reason=None", "SOMETHING_NEW"),
        ("slurm_load_jobs error: Invalid job id specified", ""),
        ("", ""),
    ],
)
def test_how_a_job_has_ended(answer, state):
    assert ended_state(answer) == state


def test_a_node_that_has_failed_is_known_from_srun_where_the_job_will_be_queued_again():
    answer = "JobId=5 JobState=COMPLETING Reason=None Requeue=1 PreemptTime=None"
    assert ended_state(answer, "srun: error: Node failure on node2\n") == "NODE_FAIL"


@pytest.mark.parametrize(
    ("grace_s", "config", "seconds"),
    [
        (10.0, "KillOnBadExit = 0\nKillWait                = 30 sec\n", 10.0),
        (60.0, "KillWait                = 30 sec\n", 25.0),
        (10.0, "KillWait                = 5 sec\n", 2.5),
        (10.0, "KillWait                = 0 sec\n", 0.0),
        (10.0, "", 10.0),
    ],
)
def test_the_grace_ends_before_the_scheduler_kills(grace_s, config, seconds):
    assert grace_before_kill(grace_s, config) == seconds
