"""The cluster, started once for all tests that use it."""

import pytest

from tests.slurm.cluster import Cluster


@pytest.fixture(scope="package")
def _clusters():
    """The cluster that is up: two would be too much for a small machine."""
    up = {}
    yield up
    for cluster in up.values():
        cluster.__exit__()


def _taken(up, *, cgroups):
    if cgroups not in up:
        for other in list(up):
            up.pop(other).__exit__()
        cluster = Cluster(cgroups=cgroups)
        cluster.__enter__()
        up[cgroups] = cluster
    return up[cgroups]


@pytest.fixture
def cluster(_clusters):
    """A cluster that tracks processes by their parents."""
    return _taken(_clusters, cgroups=False)


@pytest.fixture
def cgroup_cluster(_clusters):
    """A cluster that tracks processes by cgroups, as real sites do."""
    return _taken(_clusters, cgroups=True)


def pytest_collection_modifyitems(items):
    """Those of one cluster one after the other."""
    items.sort(key=lambda item: "cgroup_cluster" in getattr(item, "fixturenames", ()))
