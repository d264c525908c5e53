"""Whole executions by batch jobs: real broker, real `theorbo launch`, and programs that behave as a scheduler's do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.executor.fake_slurm import scheduler
from tests.running_broker import DEADLINE_S
from theorbo.schemas.limits import QUEUE_POLL_S

TASK = """\
import os, time
from theorbo.task_runtime import Task, log

class Fine(Task):
    def _run(self):
        log("in job " + os.environ["SLURM_JOB_ID"])

class Sleeps(Task):
    def _run(self):
        log("asleep")
        time.sleep(60)
"""


class Batch:
    """The scheduler, and `theorbo` before it."""

    def __init__(self, home: Path, broker: Path, task: Path) -> None:
        self.home = home
        self._broker = broker
        self._task = task
        self._started: list[subprocess.Popen[str]] = []

    def set(self, flag: str, text: str = "") -> None:
        (self.home / flag).write_text(text)

    def release(self) -> None:
        (self.home / "hold").unlink()

    @property
    def jobs(self) -> dict[str, dict[str, str]]:
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.home.glob("*.job"))}

    @property
    def states(self) -> list[str]:
        return [job["state"] for job in self.jobs.values()]

    def run(self, task: str = "Fine", *options: str) -> Run:
        return self.start("run", f"{self._task}:{task}", "--launcher", "slurm", *options)

    def start(self, *arguments: str) -> Run:
        command = [sys.executable, "-m", "theorbo.schemas.command", *arguments, "--broker", str(self._broker), "--json"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._started.append(process)
        return Run(process)

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for number, job in self.jobs.items():
            if job["state"] == "RUNNING" and job.get("pid"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(job["pid"]), signal.SIGTERM)
            if job["state"] == "PENDING":
                (self.home / f"{number}.job").write_text(json.dumps({**job, "state": "CANCELLED"}))


class Run:
    """One command under way, read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict] = []

    def until(self, kind: str, **fields: object) -> dict:
        """The next event of this kind with these fields."""
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            found = self.lines[-1]
            if found["kind"] == kind and all(found.get(name) == value for name, value in fields.items()):
                return found
        raise AssertionError(f"no {kind} {fields} in {self.lines}; {self.process.stderr.read()}")

    def end(self) -> dict:
        """The outcome."""
        outcome = self.until("outcome")
        self.process.wait(DEADLINE_S)
        return outcome

    @property
    def execution(self) -> str:
        return self.lines[0]["execution"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def batch(tmp_path, broker, monkeypatch):
    programs, home = tmp_path / "bin", tmp_path / "slurm"
    programs.mkdir()
    home.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {scheduler.__file__} {name} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    task = tmp_path / "tasks.py"
    task.write_text(TASK)
    there = Batch(home, broker.connection_file, task)
    yield there
    there.close()


def test_a_task_runs_in_a_job_and_leaves_nothing_behind(batch, isolation):
    run = batch.run("Fine", "--partition", "main", "--scheduler-option", "--exclusive")
    submitted = run.until("job_submitted")
    assert submitted["details"]["partition"] == "main"
    assert run.until("log")["text"] == "in job 100"
    assert run.end()["state"] == "COMPLETED"
    (job,) = batch.jobs.values()
    assert "--exclusive" in job["arguments"]
    assert job["name"] == f"Fine.{run.execution}"
    assert {path.name for path in (isolation / "state/jobs").iterdir()} <= {"queue-fake.json", "queue-fake.lock"}


def test_cancelled_while_it_waits_it_never_begins(batch):
    batch.set("hold")
    run = batch.run("Fine")
    run.until("job_submitted")
    run.process.send_signal(signal.SIGINT)
    assert run.until("control_accepted")["source"] == "executor"
    done = run.until("control_done")
    assert done["source"] == "executor"
    # Whichever is heard first: scancel's answer, or that the queue has it as cancelled.
    assert done["detail"] in ("job 100 was cancelled in the queue", "job 100 ended as CANCELLED")
    assert not done["refused"]
    assert run.until("launcher_gone")["scheduler_state"] == "CANCELLED"
    assert run.end()["state"] == "CANCELLED"
    assert batch.states == ["CANCELLED"]


def test_a_job_that_cannot_be_cancelled_while_the_scheduler_is_away_is_cancelled_when_it_is_back(batch):
    batch.set("hold")
    run = batch.run("Fine", "--grace", "0")
    run.until("job_submitted")
    batch.set("down")
    run.process.send_signal(signal.SIGINT)
    assert "Unable to contact slurm controller" in run.until("control_done")["refused"]
    for line in run.process.stderr:
        if "it is tried again" in line:
            break
    (batch.home / "down").unlink()
    assert run.end()["state"] == "CANCELLED"
    assert batch.states == ["CANCELLED"]


def test_another_may_cancel_it_in_the_queue(batch):
    batch.set("hold")
    run = batch.run("Fine")
    run.until("job_submitted")
    asking = batch.start("cancel", run.execution, "--reason", "wrong run")
    outcome = run.end()
    assert (outcome["state"], "wrong run" in outcome["reason"]) == ("CANCELLED", True)
    asking.process.communicate(timeout=DEADLINE_S)
    assert asking.process.returncode == 0
    assert batch.states == ["CANCELLED"]


def test_a_running_job_is_cancelled_by_its_agent_not_in_the_queue(batch, wait_for):
    run = batch.run("Sleeps")
    run.until("log", text="asleep")
    run.process.send_signal(signal.SIGINT)
    assert run.until("control_done")["source"] == "agent:0"
    assert run.end()["state"] == "CANCELLED"
    wait_for(lambda: batch.states == ["FAILED"], "the job ends by itself")


def test_a_rejected_job_ends_the_execution_with_the_schedulers_reason(batch):
    batch.set("reject", "Batch job submission failed: Invalid account or account/partition combination specified")
    outcome = batch.run("Fine", "--account", "nosuch").end()
    assert (outcome["state"], outcome["exit_status"]) == ("FAILED", 1)
    assert "sbatch refuses the job: Invalid account or account/partition combination specified" in outcome["reason"]
    assert batch.jobs == {}


def test_a_job_of_which_sbatch_does_not_know_is_found_in_the_queue(batch):
    batch.set("doubt")
    run = batch.run("Fine")
    assert run.until("job_submitted")["job"] == "100"
    assert run.end()["state"] == "COMPLETED"
    assert batch.states == ["COMPLETED"] or batch.states == ["RUNNING"]


def test_an_executor_that_is_killed_while_its_job_waits_is_replaced(batch):
    batch.set("hold")
    run = batch.run("Fine")
    run.until("job_submitted")
    run.kill()
    attached = batch.start("attach", run.execution)
    attached.until("executor_attached")
    batch.release()
    assert attached.until("log")["text"] == "in job 100"
    assert attached.end()["state"] == "COMPLETED"


def test_an_executor_that_attaches_removes_the_plan_of_a_job_that_never_began(batch, tmp_path):
    batch.set("hold")
    run = batch.run("Fine", "--plan-dir", str(tmp_path / "plans"))
    run.until("job_submitted")
    run.kill()
    assert len(list((tmp_path / "plans").iterdir())) == 1
    attached = batch.start("attach", run.execution)
    attached.until("executor_attached")
    attached.process.send_signal(signal.SIGTERM)
    assert attached.end()["state"] == "CANCELLED"
    assert list((tmp_path / "plans").iterdir()) == []


def test_a_job_whose_executor_was_killed_before_it_knew_the_number_is_found_by_its_name(batch, run_theorbo):
    batch.set("hold")
    batch.set("fatal")
    run = batch.run("Fine")
    run.process.wait(DEADLINE_S)
    execution = run.until("execution_submitted")["execution"]
    attached = batch.start("attach", execution)
    assert attached.until("job_submitted")["job"] == "100"
    batch.release()
    assert attached.end()["state"] == "COMPLETED"


def test_detached_it_waits_in_the_queue_without_an_executor(batch):
    batch.set("hold")
    run = batch.run("Fine", "--detach")
    outcome = run.end()
    assert (outcome["state"], outcome["exit_status"]) == ("PENDING", 0)
    batch.release()
    attached = batch.start("attach", run.execution)
    assert attached.end()["state"] == "COMPLETED"


def test_a_terminal_that_closes_leaves_the_job_where_it_is(batch):
    batch.set("hold")
    run = batch.run("Fine")
    run.until("job_submitted")
    run.process.send_signal(signal.SIGHUP)
    assert run.end()["state"] == "PENDING"
    assert batch.states == ["PENDING"]


def test_a_node_that_does_not_see_the_plan_is_named_within_two_polls(batch):
    batch.set("blind")
    began = time.monotonic()
    run = batch.run("Fine")
    outcome = run.end()
    assert outcome["state"] == "FAILED"
    assert "job 100 ended as FAILED" in outcome["reason"]
    assert "cannot read the launch plan" in outcome["reason"]
    assert time.monotonic() - began < 2 * QUEUE_POLL_S
    assert len((batch.home / "asked").read_text()) <= 3


def test_from_a_machine_without_a_scheduler_it_is_followed_by_what_its_agents_report(batch, monkeypatch, tmp_path):
    batch.set("hold")
    run = batch.run("Fine")
    run.until("job_submitted")
    run.kill()
    programs = str(tmp_path / "bin")
    monkeypatch.setenv("PATH", os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != programs))
    attached = batch.start("attach", run.execution)
    attached.until("executor_attached")
    asking = batch.start("cancel", run.execution, "--no-wait")
    assert attached.until("control_done")["refused"].endswith("the scheduler cannot be asked from this machine")
    asking.process.communicate(timeout=DEADLINE_S)
    batch.release()
    assert attached.end()["state"] == "CANCELLED"
    assert "the scheduler cannot be asked from this machine" in attached.process.stderr.read()


def test_executors_of_one_user_ask_the_queue_together(batch):
    batch.set("hold")
    runs = [batch.run("Fine") for _ in range(4)]
    for run in runs:
        run.until("job_submitted")
    for run in runs:
        run.until("job_changed", state="PENDING")
    batch.release()
    assert [run.end()["state"] for run in runs] == ["COMPLETED"] * 4
    assert len((batch.home / "asked").read_text()) <= 3
