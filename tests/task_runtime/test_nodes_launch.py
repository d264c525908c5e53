"""`theorbo launch` with ranks and agents on several machines, which are namespaces of this one."""

from __future__ import annotations

import pytest

from tests.task_runtime.launching import launch
from tests.task_runtime.machine import Machine
from theorbo.schemas.launch_plan import NodeStart

SRUN = """
number=0
for init in here $NODES; do
    enter="nsenter --target $init --mount --uts --pid"
    [ $init = here ] && enter=
    for each in $(seq $RANKS_PER_NODE); do
        PMI_RANK=$number $enter "$@" &
        number=$((number + 1))
    done
done
wait
"""


@pytest.fixture
def machines(tmp_path):
    """Makes machines whose place for spools is that of the test's launches."""
    spools = tmp_path / "spools"
    spools.mkdir(mode=0o700)
    made = []

    def make(*names):
        made.extend(Machine(name, spools) for name in names)
        return made

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def launched(broker, tmp_path):
    """Launches one rank or more here and on each of the machines."""
    all_launched = []

    def start(machines, *command, ranks_per_node=1, **options):
        ranks = ranks_per_node * (1 + len(machines))
        inits = " ".join(machine.shell[2] for machine in machines)
        nodes = [NodeStart(machine.shell, number) for number, machine in enumerate(machines, 1)]
        environment = {"NODES": inits, "RANKS_PER_NODE": str(ranks_per_node), **options.pop("environment", {})}
        file = options.pop("broker", broker.connection_file)
        all_launched.append(
            launch(
                file, tmp_path, *command, ranks=ranks, launcher=["sh", "-c", SRUN, "srun"], environment=environment,
                nodes=options.pop("nodes", nodes), **options,
            )
        )  # fmt: skip
        return all_launched[-1]

    yield start
    for each in all_launched:
        each.client.close()
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()


def ended(run):
    outcome = run.client.follow_to_end()
    status, stderr = run.end()
    assert run.left_behind() == []
    return outcome, status, stderr


def test_ranks_on_three_machines_are_delivered_by_three_agents(launched, machines):
    there = machines("node1", "node2")
    run = launched(there, "sh", "-c", "echo rank $THEORBO_RANK on $(hostname)", ranks_per_node=2)
    assert ended(run) == (("COMPLETED", ""), 0, "")
    texts = [run.client.texts(f"rank:{rank}", "stdout") for rank in range(6)]
    assert texts[2:] == [["rank 2 on node1"], ["rank 3 on node1"], ["rank 4 on node2"], ["rank 5 on node2"]]
    (started,) = run.client.events("launcher_started")
    assert started.agents == 3
    agents = {told.source: told.event for told in run.client.told if told.event.kind == "agent_started"}
    assert [agents[f"agent:{number}"].host for number in (1, 2)] == ["node1", "node2"]
    assert not run.spool.exists()
    assert [machine.exists(run.spool) for machine in there] == [False, False]
