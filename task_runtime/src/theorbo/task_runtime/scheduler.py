"""What the batch scheduler says of the job in which a launch runs. Slurm; each question once, and bounded.

Which words a scheduler uses is its own business: they are handed on as they are, and none is asserted.
"""

from __future__ import annotations

import os
import re
import subprocess

from theorbo.schemas.limits import KILL_WAIT_RESERVE_S, SCHEDULER_ANSWER_S

JOB_VARIABLE = "SLURM_JOB_ID"

_UNDER_WAY = frozenset({"RUNNING", "SUSPENDED", "CONFIGURING", "PENDING", "STOPPED", "SIGNALING", "STAGE_OUT"})
_BY_REASON = {
    "TimeLimit": "TIMEOUT",
    "NodeDown": "NODE_FAIL",
    "OutOfMemory": "OUT_OF_MEMORY",
    "Preempted": "PREEMPTED",
    "BootFail": "BOOT_FAIL",
    "DeadLine": "DEADLINE",
}
"""While a job is COMPLETING its end has a reason, if any, but no state yet."""


_NODE_FAILURE = "error: Node failure on "


def job() -> str:
    """The number of the job that we are in, or nothing."""
    return os.environ.get(JOB_VARIABLE, "")


def ended_state(answer: str, launcher_output: str = "") -> str:
    """How a job has ended, by what `scontrol -o show job` says; nothing while it goes on, or is not known. Pure.

    Of a job that will be queued once more because a node has failed Slurm gives no reason; srun does.
    """
    state, reason = _field(answer, "JobState"), _field(answer, "Reason")
    if state == "COMPLETING":  # it does so by itself only after the script that we are in
        if reason in _BY_REASON:
            return _BY_REASON[reason]
        if _field(answer, "PreemptTime") not in ("", "None"):
            return "PREEMPTED"
        return "NODE_FAIL" if _NODE_FAILURE in launcher_output else "CANCELLED"
    return "" if state in _UNDER_WAY else state


def grace_before_kill(grace_s: float, answer: str) -> float:
    """The grace for ranks when everything got SIGTERM, by what `scontrol show config` says. Pure.

    Slurm kills what is left after KillWait, agents too, and those have to deliver what the ranks leave at their end.
    """
    kill_wait = re.search(r"^KillWait\s*=\s*(\d+)", answer, re.MULTILINE)
    if kill_wait is None:
        return grace_s
    seconds = float(kill_wait[1])
    return max(0.0, min(grace_s, seconds - min(KILL_WAIT_RESERVE_S, seconds / 2)))


def ask_state(launcher_output: str) -> str:
    """How our job has ended; nothing if there is none, or the scheduler does not say."""
    return ended_state(_ask("-o", "show", "job", job()), launcher_output) if job() else ""


def ask_grace(grace_s: float) -> float:
    """The grace that there is in our job."""
    return grace_before_kill(grace_s, _ask("show", "config")) if job() else grace_s


def _field(answer: str, name: str) -> str:
    found = re.search(rf"(?:^|\s){name}=(\S*)", answer)
    return found[1] if found else ""


def _ask(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=SCHEDULER_ANSWER_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
