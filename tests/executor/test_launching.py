"""Which launches can be meant, and what follows from them."""

from __future__ import annotations

import os

import pytest

from theorbo.executor.launching import Launching, as_launching, parsed_hosts
from theorbo.executor.launching_options import joined_options
from theorbo.executor.placement import place
from theorbo.schemas.errors import UsageError


def problem(launching: Launching, ranks: int | None = None) -> str:
    with pytest.raises(UsageError) as raised:
        launching.check(ranks)
    return str(raised.value)


@pytest.mark.parametrize(
    ("launching", "ranks", "words"),
    [
        (Launching("slrum"), None, "there is no launcher 'slrum'; did you mean slurm"),
        (Launching("pbs"), None, "there are local, mpi, slurm, srun"),
        (
            Launching("local", partition="main"),
            None,
            "--partition belongs to --launcher slurm, not to --launcher local",
        ),
        (Launching(partition="main"), None, "--partition belongs to --launcher slurm"),
        (Launching("slurm", hosts="a:2"), None, "--hosts belongs to --launcher mpi"),
        (Launching("mpi", nodes=2), None, "--nodes belongs to --launcher slurm or --launcher srun"),
        (Launching("slurm", scheduler_options=["--array=1-3"]), None, "one execution is one job"),
        (Launching("slurm", scheduler_options=["-a1-3"]), None, "one execution is one job"),
        (Launching("slurm", scheduler_options=["--arr=1-3"]), None, "one execution is one job"),
        (Launching("slurm", scheduler_options=["-Mother"]), None, "set SLURM_CLUSTERS"),
        (Launching("slurm", scheduler_options=["--requeue"]), None, "a Task that runs twice has two outcomes"),
        (
            Launching("slurm", scheduler_options=["exclusive"]),
            None,
            "--scheduler-option 'exclusive': an option is wanted",
        ),
        (Launching("slurm", nodes=0), None, "--nodes 0: at least 1"),
        (Launching("slurm", nodes="2"), None, "--nodes '2': a whole number is wanted"),
        (Launching("slurm", time=30), None, "--time 30: a text is wanted"),
        (Launching("slurm", partition=True), None, "--partition True: a text is wanted"),
        (Launching("slurm", nodes=4), 2, "--ranks 2 on --nodes 4: each node needs at least one rank"),
        (Launching("slurm", nodes=2, ranks_per_node=4), 9, "have room for 8"),
        (Launching("slurm", time="an hour"), None, "--time 'an hour': minutes, or [days-]hours"),
        (Launching("slurm", memory="lots"), None, "--memory 'lots': a size such as 4G"),
        (Launching("slurm", mpi_type="pmi"), None, "there is no MPI type 'pmi'; did you mean pmix or pmi2"),
        (Launching("mpi", hosts="a:2,a:1"), None, "a is there twice"),
        (Launching("mpi", hosts="a:0"), None, "such as node1:2,node2:2"),
        (Launching("mpi", hosts="-oProxyCommand=x"), None, "such as node1:2,node2:2"),
        (Launching("mpi", hosts="a:2,b:1"), 4, "--ranks 4: --hosts a:2,b:1 has room for 3"),
    ],
)
def test_what_cannot_be_meant_is_named(launching, ranks, words):
    assert words in problem(launching, ranks)


@pytest.mark.parametrize("time", ["30", "30:00", "2:00:00", "1-12", "1-12:30:00", "UNLIMITED"])
def test_the_schedulers_ways_to_write_a_time_are_taken(time):
    Launching("slurm", time=time).check(None)


def test_a_mapping_and_a_name_will_do_for_an_executor():
    assert as_launching("slurm") == Launching("slurm")
    assert as_launching({"kind": "slurm", "scheduler_options": ["-x"]}).scheduler_options == ("-x",)
    with pytest.raises(UsageError, match="there is no 'partitions'; did you mean partition"):
        as_launching({"kind": "slurm", "partitions": "main"})
    with pytest.raises(UsageError, match="a Launching is wanted"):
        as_launching(7)


def test_what_is_given_later_wins_and_another_launcher_forgets_what_it_does_not_know():
    configured = Launching("slurm", nodes=2, partition="main", mpi_type="pmix")
    assert configured.merged({"partition": "short"}) == Launching("slurm", nodes=2, partition="short", mpi_type="pmix")
    assert configured.merged({"kind": "local"}) == Launching("local")
    assert configured.merged({"kind": "srun"}) == Launching("srun", nodes=2, mpi_type="pmix")


def test_an_option_of_the_scheduler_is_no_option_of_ours():
    assert joined_options(["--ranks", "2", "--scheduler-option", "--exclusive", "task"]) == [
        "--ranks", "2", "--scheduler-option=--exclusive", "task",
    ]  # fmt: skip


def test_hosts_are_names_with_numbers():
    assert parsed_hosts("node1:2, node-2.lab") == [("node1", 2), ("node-2.lab", 1)]


# --- placement -----------------------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path):
    """A PATH with an srun and an mpiexec of MPICH."""
    for name, words in (("srun", "slurm 22.05.8"), ("mpiexec", "HYDRA build details:")):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho '{words}'\n")
        path.chmod(0o755)
    return {"PATH": f"{tmp_path}:/bin"}


def test_without_a_word_a_task_is_launched_as_it_is_and_as_its_surroundings_are(programs):
    assert place(Launching(), 3, None, programs, mpi=False)[:4] == ("local", 3, 1, [])
    assert place(Launching(), 3, None, programs, mpi=True).kind == "mpi"
    inside = {**programs, "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "n1"}
    placed = place(Launching(), None, None, inside, mpi=True)
    assert (placed.kind, placed.ranks, placed.nodes) == ("srun", 4, 2)
    assert "--mpi=pmi2" in placed.command
    assert [(start.first, start.nodes) for start in placed.node_starts] == [(1, 1)]


def test_outside_of_its_nodes_an_allocation_has_an_agent_on_each(programs):
    """salloc leaves one on the login node."""
    inside = {**programs, "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2"}
    (start,) = place(Launching("srun"), None, None, inside, mpi=True).node_starts
    assert start.nodes == 2


def test_a_single_process_in_a_job_needs_no_srun(programs):
    assert place(Launching("slurm"), None, None, programs, mpi=False)[:4] == ("slurm", 1, 1, [])
    copies = place(Launching("slurm", nodes=2, ranks_per_node=3), None, None, programs, mpi=False)
    assert (copies.ranks, copies.nodes) == (6, 2)
    assert "--mpi=none" in copies.command


@pytest.mark.parametrize(
    ("launching", "ranks", "environment", "words"),
    [
        (Launching("slurm"), None, {}, "how many ranks"),
        (Launching("srun"), 2, {}, "inside of an allocation"),
        (Launching("srun"), 2, {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n2", "SLURM_NODEID": "1"}, "first node"),
        (Launching("srun"), 2, {"SLURM_JOB_ID": "7", "SLURM_NNODES": "two"}, "expected a number of nodes"),
        (
            Launching("mpi"),
            2,
            {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2"},
            "has 2 nodes: use --launcher srun, or name them",
        ),
        (Launching("local"), 2, {}, "do not know of one another"),
    ],
)
def test_what_cannot_be_placed_is_named(programs, launching, ranks, environment, words):
    with pytest.raises(UsageError, match=words):
        place(launching, ranks, None, {**programs, **environment}, mpi=True)


def test_other_machines_are_reached_by_ssh_with_the_key_that_a_variable_names(programs, monkeypatch):
    own = os.uname().nodename
    monkeypatch.setenv("THEORBO_KEY_FILE", "/keys/my key.json")
    placed = place(Launching("mpi", hosts=f"{own}:1,node2:2,node3"), None, None, programs, mpi=True)
    assert (placed.kind, placed.ranks, placed.nodes) == ("mpi", 4, 3)
    assert [start.first for start in placed.node_starts] == [1, 2]
    command = placed.node_starts[0].command
    assert command[0] == "ssh"
    assert "BatchMode=yes" in command
    assert command[-3:] == ["node2", "env", "'THEORBO_KEY_FILE=/keys/my key.json'"]
    monkeypatch.delenv("THEORBO_KEY_FILE")
    monkeypatch.delenv("THEORBO_CONFIG")
    placed = place(Launching("mpi", hosts="node2:2"), None, None, programs, mpi=True)
    assert placed.node_starts[0].command[-1] == "node2"
