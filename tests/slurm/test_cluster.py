"""The cluster itself: what the cases stand on."""

import pytest

from tests.slurm.cluster import NODES, wait_for

TIMED_OUT = 124
"""Exit status of timeout(1)."""

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]


def test_ada_runs_mpi_ranks_on_both_nodes(cluster):
    script = "from mpi4py import MPI; import os; print(MPI.COMM_WORLD.size, os.getuid(), os.uname().nodename)"
    lines = cluster.ada("srun", "-N2", "--ntasks-per-node=2", "python", "-c", script).stdout.splitlines()
    assert sorted(lines) == ["4 2000 node1"] * 2 + ["4 2000 node2"] * 2


def test_homes_are_shared_and_tmp_is_not(cluster):
    cluster.ada("touch", "/home/ada/here", "/tmp/here")
    assert cluster.ada("srun", "-N2", "ls", "/home/ada/here").stdout.splitlines() == ["/home/ada/here"] * 2
    assert cluster.ada("srun", "-N2", "ls", "/tmp/here", check=False).returncode != 0


def test_nobody_opens_a_connection_to_a_compute_node(cluster):
    listener = cluster.ada(
        "sbatch", "--parsable", "-N2", "-n2", "--wrap", "srun python -m http.server 8123"
    ).stdout.strip()
    try:
        for node in NODES:
            wait_for(lambda to=node: _connects(cluster, to, to) == 0, f"the listener on {node}")
            for service in ("login", "broker"):
                assert _connects(cluster, service, node) == TIMED_OUT
    finally:
        cluster.ada("scancel", listener)
    cluster.wait_idle()


def _connects(cluster, service, node):
    """The exit status of an attempt to connect to the listener on a node."""
    attempt = ["timeout", "1", "bash", "-c", f"exec 3<>/dev/tcp/{node}/8123"]
    return cluster.run(service, *attempt, check=False).returncode


def test_an_urgent_job_ends_others(cluster):
    job = cluster.ada(
        "sbatch", "--parsable", "--no-requeue", "-N2", "--exclusive", "--wrap", "srun sleep 300"
    ).stdout.strip()
    wait_for(lambda: f"{job} RUNNING" in cluster.jobs(), "a job that runs")
    cluster.ada("srun", "-p", "urgent", "-N2", "true")
    assert "JobState=PREEMPTED" in cluster.ada("scontrol", "-o", "show", "job", job).stdout
    cluster.wait_idle()


def test_a_step_ends_with_all_that_it_has_started(cgroup_cluster):
    script = "import subprocess; subprocess.Popen(['sleep', '300'], start_new_session=True)"
    cluster = cgroup_cluster
    cluster.ada("srun", "-N2", "python", "-c", script)
    wait_for(lambda: not cluster.left(), "nothing that is left")
