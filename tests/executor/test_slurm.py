"""What Slurm is told, and what its programs say, as they have said it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from theorbo.executor import slurm
from theorbo.executor.launching import Launching
from theorbo.executor.scheduler import Slurm
from theorbo.executor.slurm import JobStatus

EXECUTION = "01a206698f7f770090c68598166d30b3"


def test_the_queue_is_what_squeue_says_with_states_and_reasons_of_any_kind():
    answer = (
        f"12|PENDING||(Resources, or so|it says)|peaks.{EXECUTION}\n"
        f"13|RUNNING|node[1-2]|None|a|b\n"
        "14|QUITE_NEW|node3|Nodes required for job are DOWN|x\n"
        "slurm_load_jobs: something odd\n\n"
    )
    jobs = slurm.parsed_queue(answer)
    assert jobs["13"] == JobStatus("RUNNING", "", "node[1-2]", "a|b")
    assert jobs["14"] == JobStatus("QUITE_NEW", "Nodes required for job are DOWN", "node3", "x")
    assert not jobs["14"].ended, "nothing is concluded from a state that is not known"
    assert jobs["12"].state == "PENDING"
    assert len(jobs) == 3


CONTROL = (
    "JobId=14 JobName=Hello.01a2 UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901 Nice=0 Account=(null) "
    "QOS=(null) JobState={state} Reason={reason} Dependency=(null) Requeue=0 Restarts=0 BatchFlag=1 Reboot=0 "
    "ExitCode={code} RunTime=00:00:01 NodeList={nodes} BatchHost=node1 ReqB:S:C:T=0:0:*:* TRES=cpu=1,mem=2000M,node=1\n"
)


@pytest.mark.parametrize(
    ("state", "reason", "code", "nodes", "expected"),
    [
        ("FAILED", "NonZeroExitCode", "3:0", "node1", JobStatus("FAILED", "NonZeroExitCode exit code 3:0", "node1")),
        (
            "FAILED",
            "JobLaunchFailure",
            "0:53",
            "node1",
            JobStatus("FAILED", "JobLaunchFailure exit code 0:53", "node1"),
        ),
        ("CANCELLED", "None", "0:0", "(null)", JobStatus("CANCELLED")),
        ("COMPLETED", "None", "0:0", "node[1-2]", JobStatus("COMPLETED", "", "node[1-2]")),
        ("PENDING", "Some words of it", "0:0", "", JobStatus("PENDING", "Some words of it")),
    ],
)
def test_one_job_is_what_scontrol_says(state, reason, code, nodes, expected):
    status = slurm.parsed_job(CONTROL.format(state=state, reason=reason, code=code, nodes=nodes))
    assert status == expected._replace(name="Hello.01a2")


def test_what_is_no_answer_about_a_job_is_none():
    assert slurm.parsed_job("slurm_load_jobs error: Invalid job id specified\n") is None
    assert slurm.parsed_accounting("") is None
    assert slurm.parsed_accounting("CANCELLED by 1000|0:15|node1|x\n") == JobStatus(
        "CANCELLED", "by 1000", "node1", "x"
    )


@pytest.mark.parametrize(
    ("answer", "job"),
    [("17\n", "17"), ("17;cluster\n", "17"), ("a site's greeting\n17\n", "17"), ("", ""), ("sbatch: hm\n", "")],
)
def test_the_number_of_a_job_is_the_last_thing_that_sbatch_says(answer, job):
    assert slurm.submitted_job(answer) == job


def test_a_refusal_is_one_sentence():
    words = (
        "sbatch: error: invalid partition specified: nosuch\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n"
    )
    assert slurm.refusal(words) == "invalid partition specified: nosuch; Invalid partition name specified"
    assert not slurm.in_doubt(words)
    lookup = (
        "sbatch: error: get_addr_info: getaddrinfo() failed: Name or service not known: No error, attempt number {}\n"
    )
    unresolved = (
        "".join(map(lookup.format, range(10)))
        + 'sbatch: error: slurm_set_addr: Unable to resolve "ctl"\n'
        + "sbatch: error: Unable to establish control machine address\n"
        + "sbatch: error: Batch job submission failed: No error\n"
    )
    assert slurm.refusal(unresolved) == (
        'slurm_set_addr: Unable to resolve "ctl"; Unable to establish control machine address'
    )
    assert slurm.in_doubt("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n")
    assert not slurm.in_doubt("sbatch: error: Unable to contact slurm controller (connect failure): timed out\n")


def test_what_we_need_comes_last_so_that_it_holds():
    launching = Launching(
        "slurm", nodes=2, partition="main", time="30:00", account="lcls", memory="4G", qos="normal", reservation="r",
        constraint="ib", scheduler_options=["--exclusive", "--output=mine"],
    )  # fmt: skip
    command = slurm.submit_command(launching, 5, f"peaks.{EXECUTION}", Path("/state/x.out"))
    assert command[:3] == ["sbatch", "--exclusive", "--output=mine"]
    for option in (
        "--partition=main", "--time=30:00", "--account=lcls", "--mem=4G", "--qos=normal", "--reservation=r",
        "--constraint=ib", "--nodes=2", "--ntasks=5", "--ntasks-per-node=3", "--output=/state/x.out", "--parsable",
        "--no-requeue", f"--job-name=peaks.{EXECUTION}",
    ):  # fmt: skip
        assert option in command[3:]


def test_a_new_job_knows_nothing_of_the_allocation_around_it():
    environment = {
        "PATH": "/bin", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n", "SBATCH_WAIT": "1", "SLURM_CONF": "/etc/s",
        "SBATCH_ACCOUNT": "mine",
    }  # fmt: skip
    assert slurm.submit_environment(environment) == {"PATH": "/bin", "SLURM_CONF": "/etc/s", "SBATCH_ACCOUNT": "mine"}


def test_all_programs_ask_the_cluster_to_which_jobs_are_submitted():
    assert slurm.submit_environment({"SBATCH_CLUSTERS": "b", "SLURM_CLUSTERS": "a"}) == {"SLURM_CLUSTERS": "b"}


def test_a_name_can_be_found_again_whatever_the_task_is_called():
    assert slurm.job_name("find peaks | ä", EXECUTION) == f"find_peaks_.{EXECUTION}"


def test_other_nodes_are_a_step_of_their_own_that_takes_nothing_from_the_ranks():
    (start,) = slurm.node_starts("srun", 4, beside=True)
    assert (start.first, start.nodes) == (1, 3)
    for option in ("--overlap", "--mem=0", "--relative=1", "--nodes=3", "--ntasks=3", "--ntasks-per-node=1"):
        assert option in start.command
    assert slurm.node_starts("srun", 1, beside=True) == []
    (outside,) = slurm.node_starts("srun", 2, beside=False)
    assert outside.nodes == 2
    assert "--relative=1" not in outside.command


def test_all_ranks_end_when_one_ends_badly_and_only_then():
    launching = Launching("slurm", nodes=2, srun_options=["--cpu-bind=cores"])
    assert slurm.ranks_command("/usr/bin/srun", launching, 8, 2, "pmi2") == [
        "/usr/bin/srun", "--kill-on-bad-exit=1", "--wait=0", "--mpi=pmi2", "--ntasks=8", "--nodes=2",
        "--ntasks-per-node=4", "--cpu-bind=cores",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("python", "plan", "words"),
    [
        ("/no/such python", "plan", "has no Python /no/such python: Theorbo must stand at the same path"),
        ("/bin/true", "no plan's here", "cannot read the launch plan"),
    ],
)
def test_a_node_that_lacks_something_names_it(tmp_path, python, plan, words):
    script = slurm.script(python, tmp_path / plan)
    done = subprocess.run(["/bin/sh"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode > 100
    assert words in done.stderr


@pytest.mark.parametrize(
    ("state", "known"), [("TIMEOUT", "TIMEOUT"), ("CANCELLED by 7", "CANCELLED"), ("RUNNING", None)]
)
def test_of_a_job_that_the_controller_has_forgotten_accounting_tells_how_it_ended_if_it_did(tmp_path, state, known):
    """Accounting calls a job RUNNING for ever whose end did not get there."""
    for name, script in (
        ("scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"),
        ("sacct", f"echo '{state}|0:0|node1|Fine.{EXECUTION}'"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    status = Slurm({"PATH": f"{tmp_path}:/bin"}).status("100")
    assert (status and status.state) == known
