"""The cases of `python -m tests.slurm`."""

import pytest

from tests.slurm.cases import CASES, CGROUP_CASES, Machines, play
from tests.slurm.executions import Observer

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]


@pytest.fixture
def observed():
    """Machines of a cluster, with an observer that ends with the test."""
    observers = []

    def machines(cluster):
        observers.append(Observer(cluster))
        return Machines(cluster, observers[-1])

    yield machines
    for observer in observers:
        observer.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_what_may_happen(case, cluster, observed):
    row = play(case, observed(cluster))
    assert (row.jobs, row.processes) == (0, 0)


@pytest.mark.parametrize("case", CGROUP_CASES, ids=lambda case: case.__name__)
def test_what_may_happen_where_a_steps_end_is_the_end_of_its_processes(case, cgroup_cluster, observed):
    row = play(case, observed(cgroup_cluster))
    assert (row.jobs, row.processes) == (0, 0)
