"""What Slurm is told and what it says: command lines, the batch script, the answers of its programs. Pure.

Rules, each for something that was seen to go wrong:

1. States and reasons that are not known here stand for themselves; nothing is concluded from them but that the job is
   there.
2. A job is known by its number and its name, which holds the execution: numbers begin anew on another cluster.
3. `srun` without -K leaves the other ranks waiting for ever for one that has crashed.
4. Nothing is requeued: a Task that ran twice would have two outcomes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from theorbo.executor.launching import Launching
from theorbo.schemas.launch_plan import NodeStart

ENDED = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
})  # fmt: skip
"""States that a job does not leave any more. All others, those that we do not know too, are of jobs that are there."""

WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
"""States of jobs that have not been given any node."""

QUEUE_FORMAT = "%A|%T|%N|%r|%j"
"""Of squeue: number, state, nodes, reason, name. The name is last, for it may have anything in it."""

_FIELD = re.compile("[A-Z][A-Za-z/:]*")

_NOTHING = ("", "None", "(null)", "None assigned", "N/A")


class JobStatus(NamedTuple):
    """What the scheduler says of a job."""

    state: str
    reason: str = ""
    nodes: str = ""
    name: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED


def job_name(task: str, execution: str) -> str:
    """What people see in the queue; the execution is its end, so that it can be found again."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", task)[:60] + "." + execution


def submit_command(launching: Launching, ranks: int, name: str, output: Path) -> list[str]:
    """`sbatch` with its options. A site's own come first: what we need holds."""
    options = {
        "partition": launching.partition, "time": launching.time, "account": launching.account,
        "reservation": launching.reservation, "constraint": launching.constraint, "qos": launching.qos,
        "mem": launching.memory, "ntasks-per-node": launching.most_per_node(ranks),
        "nodes": launching.nodes or 1, "ntasks": ranks, "job-name": name, "output": output, "error": output,
    }  # fmt: skip
    given = [f"--{option}={value}" for option, value in options.items() if value]
    fixed = ["--parsable", "--no-requeue", "--open-mode=append", "--input=/dev/null", "--export=ALL"]
    return ["sbatch", *launching.scheduler_options, *given, *fixed]


def submit_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Of sbatch: what a surrounding allocation has set is not meant for the new job, nor may it change its nature."""
    unwanted = (
        "SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_REQUEUE", "SBATCH_EXPORT", "SBATCH_TEST_ONLY", "SBATCH_CLUSTERS",
    )  # fmt: skip
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    if "SBATCH_CLUSTERS" in environment:  # squeue and scancel do not know it
        environment = {**environment, "SLURM_CLUSTERS": environment["SBATCH_CLUSTERS"]}
    return {
        name: value
        for name, value in environment.items()
        if name in kept or not (name.startswith(("SLURM_", "SLURMD_", "SRUN_")) or name in unwanted)
    }


def script(python: str, plan: Path) -> str:
    """The batch script. What it says goes to the job's output file, which the Executor quotes."""
    program, file = shlex.quote(python), shlex.quote(str(plan))
    return f"""#!/bin/sh
if ! [ -x {program} ]; then
    echo "$(hostname) has no Python "{program}": Theorbo must stand at the same path on all machines" >&2
    exit 127
fi
if ! [ -r {file} ]; then
    echo "$(hostname) cannot read the launch plan "{file}": --plan-dir names a directory that all machines see" >&2
    exit 126
fi
exec {program} -P -m theorbo.task_runtime.launch --plan {file}
"""


def ranks_command(srun: str, launching: Launching, ranks: int, nodes: int | None, mpi_type: str) -> list[str]:
    """The `srun` that starts all ranks. It ends them all when one ends badly, and does not end those that go on after
    others have ended well (a site's WaitTime would).
    """
    options = {
        "mpi": mpi_type, "ntasks": ranks, "nodes": nodes, "ntasks-per-node": launching.most_per_node(ranks),
    }  # fmt: skip
    given = [f"--{option}={value}" for option, value in options.items() if value]
    return [srun, "--kill-on-bad-exit=1", "--wait=0", *given, *launching.srun_options]


def node_starts(srun: str, nodes: int, *, beside: bool) -> list[NodeStart]:
    """The `srun` that starts `theorbo node` on the other nodes, in a step of its own that takes nothing from the
    ranks. `beside`: the launcher runs on the allocation's first node; else it stands outside.
    """
    others = nodes - 1 if beside else nodes
    if others < 1:
        return []
    place = ["--relative=1"] if beside else []
    command = [
        srun, "--overlap", "--mem=0", *place, f"--nodes={others}", f"--ntasks={others}", "--ntasks-per-node=1",
        "--mpi=none", "--kill-on-bad-exit=0", "--wait=0",
    ]  # fmt: skip
    return [NodeStart(command, first=1, nodes=others)]


def submitted_job(answer: str) -> str:
    """The number in what `sbatch --parsable` says: `123` or `123;cluster`, the last line. Empty if there is none."""
    lines = answer.split()
    number = lines[-1].partition(";")[0] if lines else ""
    return number if number.isdecimal() else ""


def parsed_queue(answer: str) -> dict[str, JobStatus]:
    """All jobs in what `squeue` says in `QUEUE_FORMAT`. Lines of another form are passed over."""
    jobs: dict[str, JobStatus] = {}
    for line in answer.splitlines():
        fields = line.split("|", 4)
        if len(fields) == 5 and fields[0].strip().isdecimal():
            number, state, nodes, reason, name = (field.strip() for field in fields)
            jobs[number] = JobStatus(state, _said(reason), _said(nodes), name)
    return jobs


def parsed_job(answer: str) -> JobStatus | None:
    """What `scontrol -o show job` says; None if it is nothing of this kind."""
    fields = _fields(answer)
    if "JobState" not in fields:
        return None
    reason = fields.get("Reason", "")
    if fields.get("ExitCode", "0:0") != "0:0":
        reason = " ".join(filter(None, (_said(reason), f"exit code {fields['ExitCode']}")))
    return JobStatus(fields["JobState"], _said(reason), _said(fields.get("NodeList", "")), fields.get("JobName", ""))


def parsed_accounting(answer: str) -> JobStatus | None:
    """What `sacct -n -X -P -o State,ExitCode,NodeList,JobName` says; None if it knows no such job."""
    fields = answer.strip().partition("\n")[0].split("|", 3)
    if len(fields) != 4 or not fields[0]:
        return None
    state, _, who = fields[0].partition(" ")  # CANCELLED by 1000
    return JobStatus(state, who, _said(fields[2]), fields[3])


def parsed_config(answer: str) -> dict[str, str]:
    """`scontrol show config` as names and values."""
    lines = (line.partition("=") for line in answer.splitlines())
    return {name.strip(): value.strip() for name, equals, value in lines if equals}


def refusal(answer: str) -> str:
    """Why one of its programs does not do what it was asked, in one line: the last two things that it says."""
    said = [re.sub(r"^\s*(sbatch|squeue|scancel|scontrol|srun): (error: )?", "", line) for line in answer.splitlines()]
    reasons = [re.sub("^Batch job submission failed: ", "", line.strip()) for line in said]
    return "; ".join(list(dict.fromkeys(reason for reason in reasons if reason not in ("", "No error")))[-2:])


def in_doubt(answer: str) -> bool:
    """Whether sbatch has failed in a way that may have left a job in the queue: it has asked, and got no answer."""
    asked_nobody = "Unable to contact" in answer
    return not asked_nobody and bool(re.search("timed out|communication|connection|Zero Bytes", answer, re.IGNORECASE))


def _said(text: str) -> str:
    return "" if text in _NOTHING else text


def _fields(answer: str) -> dict[str, str]:
    """`Name=value Name=value …`; a value may have blanks in it. Word by word, for no text may take long."""
    fields: dict[str, str] = {}
    last = ""
    for word in answer.split():
        name, equals, value = word.partition("=")
        if equals and _FIELD.fullmatch(name):
            last = name
            fields[name] = value
        elif last:
            fields[last] += f" {word}"
    return fields
