"""256 ranks on two nodes: two connections, and everything arrives."""

import pytest

from tests.slurm.cluster import NODES, wait_for
from tests.slurm.executions import Execution, Observer

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

RANKS = 256
LINES = 10

PORT = f"{5580:04X}"
"""Of the broker, as /proc/net/tcp has it."""


def connections(cluster):
    """How many connections each node has to the broker."""
    # Addresses there are numbers in the byte order of the machine: little endian wherever these tests run.
    nodes = {"".join(f"{int(part):02X}" for part in reversed(cluster.address(node).split("."))): node for node in NODES}
    counts = dict.fromkeys(NODES, 0)
    for line in cluster.run("broker", "cat", "/proc/net/tcp").stdout.splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        address = remote.partition(":")[0]
        if local.endswith(f":{PORT}") and state == "01" and address in nodes:
            counts[nodes[address]] += 1
    return counts


def test_two_connections_carry_all_that_256_ranks_report(cluster):
    observer = Observer(cluster)
    try:
        program = f"for i in $(seq {LINES}); do echo line $i; done; sleep 5"
        execution = Execution(cluster, observer, "--ranks", str(RANKS), program=["sh", "-c", program])
        running = execution.wait_state("RUNNING", 60.0)
        assert connections(cluster) == dict.fromkeys(NODES, 1)
        assert execution.over(120.0)["state"] == "COMPLETED"
        for kind in ("rank_started", "rank_ended"):
            assert len(list(execution.events(kind))) == RANKS
        lines = sorted((event["rank"], event["text"]) for event in execution.events("output"))
        assert lines == sorted((rank, f"line {number}") for rank in range(RANKS) for number in range(1, LINES + 1))
        [status] = [text for text in _statuses(cluster) if "VmHWM" in text and "theorbo" in text]
        memory = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        print(f"{RANKS} ranks: running {running['time'] - execution.began:.1f} s after the submission;", end=" ")
        print(f"the broker has used {int(memory) // 1024} MiB at most")
        wait_for(lambda: not cluster.jobs(), "an empty queue")
        cluster.wait_idle()
    finally:
        observer.close()


def _statuses(cluster):
    return cluster.run("broker", "sh", "-c", "for p in /proc/[0-9]*; do cat $p/status; echo; echo; done").stdout.split(
        "\n\n"
    )
