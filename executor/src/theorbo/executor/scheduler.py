"""Slurm's programs, called. A skin around `slurm` and `queue_cache`; no library carries this (see docs/running.md).

Each call is bounded. What a program does not say within its time is not known: nobody takes that for an end.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from theorbo.executor.environment import find_program
from theorbo.executor.launching import Launching
from theorbo.executor.queue_cache import Answer, QueueCache
from theorbo.executor.slurm import (
    QUEUE_FORMAT,
    JobStatus,
    in_doubt,
    parsed_accounting,
    parsed_config,
    parsed_job,
    parsed_queue,
    refusal,
    script,
    submit_command,
    submit_environment,
    submitted_job,
)
from theorbo.schemas.connection import state_directory
from theorbo.schemas.errors import Unavailable
from theorbo.schemas.limits import QUEUE_ANSWER_S, SUBMIT_S


class InDoubt(Unavailable):
    """Whether the job was submitted is not known."""


class Slurm:
    """The scheduler of this machine, for one user. Calls block; none is made before it is needed."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = submit_environment(environment)
        self._cache: QueueCache | None = None

    @property
    def here(self) -> bool:
        """Whether this machine can ask it at all."""
        return find_program("squeue", self._environment) is not None

    def submit(self, launching: Launching, ranks: int, name: str, files: JobFiles) -> str:
        """The number of the new job. Raises Unavailable with the scheduler's own words, InDoubt if it gave none."""
        command = submit_command(launching, ranks, name, files.output)
        try:
            code, answer, words = self._run(command, SUBMIT_S, script(sys.executable, files.plan))
        except TimeoutError:
            raise InDoubt(f"sbatch has not answered within {SUBMIT_S:g} s") from None
        job = submitted_job(answer)
        if code == 0 and job:
            return job
        said = refusal(words or answer) or f"sbatch ended with exit code {code}"
        raise (InDoubt if in_doubt(words) else Unavailable)(f"sbatch refuses the job: {said}")

    def queue(self) -> Answer | None:
        """The user's jobs, as of at most `QUEUE_POLL_S` ago; None: ask again soon."""
        if self._cache is None:
            with contextlib.suppress(OSError):  # then we ask for ourselves
                _directory().mkdir(parents=True, exist_ok=True, mode=0o700)
            self._cache = QueueCache(_directory() / f"queue-{self._cluster()}.json", self._ask_queue)
        return self._cache.look(time.time())

    def status(self, job: str) -> JobStatus | None:
        """What is known of one job, asked now; None if the scheduler has forgotten it. Raises Unavailable."""
        code, answer, words = self._asked("scontrol", "-o", "show", "job", job)
        if code == 0 and (found := parsed_job(answer)):
            return found
        if "Invalid job id" not in words:
            raise Unavailable(f"scontrol: {refusal(words) or f'exit code {code}'}")
        if find_program("sacct", self._environment):
            fields = "--format=State%40,ExitCode,NodeList%200,JobName%200"
            code, answer, _ = self._asked("sacct", "-n", "-X", "-P", "-j", job, fields)
            told = parsed_accounting(answer) if code == 0 else None
            return told if told and told.ended else None  # else its end was never put down: it will not change any more
        return None

    def cancel(self, job: str, *, waiting_only: bool) -> str:
        """Why it could not be cancelled; empty if it was. Raises Unavailable if there was no answer."""
        options = ["--state=PENDING"] if waiting_only else []
        code, answer, words = self._asked("scancel", *options, job)
        return "" if code == 0 else refusal(words or answer) or f"scancel ended with exit code {code}"

    def _ask_queue(self) -> dict[str, JobStatus]:
        arguments = ["--noheader", "--states=all", f"--user={os.getuid()}", f"--format={QUEUE_FORMAT}"]
        code, answer, words = self._asked("squeue", *arguments)
        if code != 0:
            raise Unavailable(f"squeue: {refusal(words) or f'exit code {code}'}")
        return parsed_queue(answer)

    def _cluster(self) -> str:
        """Its name: job numbers of two clusters with one home directory are not to be mixed up."""
        try:
            _, answer, _ = self._asked("scontrol", "show", "config")
        except Unavailable:
            return "slurm"
        return parsed_config(answer).get("ClusterName", "slurm").replace("/", "_")

    def _asked(self, *command: str) -> tuple[int, str, str]:
        try:
            return self._run(list(command), QUEUE_ANSWER_S)
        except TimeoutError:
            raise Unavailable(f"{command[0]} has not answered within {QUEUE_ANSWER_S:g} s") from None

    def _run(self, command: list[str], timeout_s: float, text: str = "") -> tuple[int, str, str]:
        try:
            done = subprocess.run(
                command, env=self._environment, input=text, capture_output=True, text=True, errors="replace",
                timeout=timeout_s, check=False, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        except OSError as error:
            raise Unavailable(f"{command[0]} cannot be run: {error.strerror}") from None
        return done.returncode, done.stdout, done.stderr


class JobFiles:
    """What this machine and the nodes share of one execution: the launch plan, and what the job itself says."""

    def __init__(self, plan_dir: str, execution: str) -> None:
        self.directory = (Path(plan_dir) if plan_dir else _directory()).absolute()
        self.plan = self.directory / f"{execution}.plan.json"
        self.output = self.directory / f"{execution}.out"

    def make(self) -> None:
        """Raises Unavailable."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unavailable(f"cannot make {self.directory}: {error.strerror}; see --plan-dir") from None


def _directory() -> Path:
    return state_directory() / "jobs"
