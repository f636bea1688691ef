"""A cluster with our chart, started once for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.e2e import tools
from tests.e2e.conftest import needed
from tests.e2e.host import eventually
from tests.e2e.kube import programs
from tests.e2e.kube.cluster import Cluster
from tests.e2e.kube.installation import Installation

_PROGRAMS: Final = ("runc", "busybox", "ip", "nft", "sysctl")
MINOR: Final = os.environ.get("KUBE", programs.DEFAULT)


def need_everything() -> None:
    """Skip or fail where something is missing that a cluster needs."""
    with needed():
        tools.root_with_namespaces()
        for name in _PROGRAMS:
            tools.program(name)
        programs.kubernetes(MINOR)
        programs.etcd()
        programs.helm()
        tools.containerd()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes; of the release that the variable KUBE names."""
    need_everything()
    with Cluster(MINOR) as made:
        yield made


@pytest.fixture(scope="session")
def installation(cluster: Cluster) -> Installation:
    """cgpu on both nodes, whose cards' memory and compute are divided."""
    made = Installation(cluster)
    made.begin()
    return made


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves anything of a claim behind in the cluster with the chart."""
    yield
    if "installation" not in request.fixturenames:
        return
    installation: Installation = request.getfixturevalue("installation")
    installation.delete("pod", "--all")
    eventually(lambda: not installation.get("resourceclaims"), "no claim is left")
    names = [worker.name for worker in installation.cluster.workers]
    eventually(
        lambda: not [file for name in names for file in installation.left_on(name)], "no file of a claim is left"
    )
    eventually(lambda: not [row for name in names for row in installation.tenants(name)], "no tenant is left")
