"""What cannot work on a cluster: one clear reason, no job left in the queue, no process on any machine."""

import contextlib

import pytest

from tests.slurm.cases import Machines
from tests.slurm.cluster import NODES, wait_for
from tests.slurm.executions import Observer

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]


@pytest.fixture
def refused(cluster):
    """`refused(OPTION…)` runs a Task in vain, and gives the exit status and the last line of what was said."""
    observer = Observer(cluster)
    machines = Machines(cluster, observer)

    def run(*options):
        task = [] if "--" in options else ["/opt/programs/steps.py:Steps"]
        done = cluster.ada(
            "theorbo", "run", "--launcher", "slurm", "--nodes", "2", "--ranks", "4", *options, *task,
            check=False, timeout=150,
        )  # fmt: skip
        wait_for(lambda: not cluster.jobs(), "an empty queue")
        wait_for(lambda: not machines.left(), "the end of all processes")
        return done.returncode, (done.stdout + done.stderr).splitlines()[-1]

    yield run
    observer.close()


def test_a_partition_that_does_not_exist(refused):
    status, said = refused("--partition", "nowhere")
    assert status != 0
    assert "partition" in said
    assert "nowhere" in said


def test_more_nodes_than_there_are(refused):
    status, said = refused("--nodes", "5")
    assert status != 0
    assert "node" in said.lower()


def test_a_python_that_only_the_login_node_has(cluster, refused):
    cluster.run("login", "ln", "-sf", "/opt/theorbo/bin/python", "/usr/local/bin/python-of-login", user="root")
    status, said = refused("--python", "/usr/local/bin/python-of-login")
    assert status == 1
    assert "python-of-login" in said


def test_a_spool_that_cannot_be_written(refused):
    status, said = refused("--spool-root", "/proc/spool")
    assert status != 0
    assert "/proc/spool" in said


def test_nodes_that_do_not_reach_the_broker(cluster, refused):
    with contextlib.ExitStack() as cuts:
        for node in NODES:
            cuts.enter_context(cluster.dropped(node, "broker", both_ways=True))
        status, said = refused()
    assert status != 0
    assert "broker" in said
