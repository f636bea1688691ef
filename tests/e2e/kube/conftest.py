"""A cluster with our chart, started once for all tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import Final

import pytest

from tests.e2e import tools
from tests.e2e.conftest import needed
from tests.e2e.host import eventually
from tests.e2e.kube import programs
from tests.e2e.kube.cluster import Cluster
from tests.e2e.kube.distress import signs_of
from tests.e2e.kube.installation import Installation

_PROGRAMS: Final = ("runc", "busybox", "ip", "nft", "sysctl")
MINOR: Final = os.environ.get("KUBE", programs.DEFAULT)
_RUNNING: Final = pytest.StashKey[Cluster]()


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
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """Two nodes; of the release that the variable KUBE names."""
    need_everything()
    with Cluster(MINOR) as made:
        pytestconfig.stash[_RUNNING] = made
        yield made
        del pytestconfig.stash[_RUNNING]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what is to be seen of the cluster in which a test has failed."""
    report = yield
    running = item.config.stash.get(_RUNNING, None)
    if report.failed and running is not None and "cluster" in item.fixturenames:
        report.sections.append((f"the cluster after the {call.when} of {item.name}", signs_of(running)))
    return report


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
