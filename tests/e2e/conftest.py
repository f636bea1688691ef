"""The host, cGPU and the engines, started once; after each test nothing may be left of its containers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e import image, tools
from tests.e2e.engines import Containerd, Docker, Engine, Podman, Runc
from tests.e2e.host import Host, eventually
from tests.e2e.node import Node

FOLDER: Final = Path(__file__).parent
ENGINES: Final = ("docker", "podman", "containerd", "runc")
TIMEOUT_S: Final = 400
"""More than what a test waits for one after the other, so that it says itself what did not happen."""

SETTLE_S: Final = 20.0
"""Within which nothing may be left of a container: the agent looks twice a second."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each a limit of time of its own."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Skip on a person's machine what misses something; fail in CI, where `make tools` has installed it."""
    try:
        yield
    except tools.MissingToolError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{error}: `make tools` should have seen to that", pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A host of one's own."""
    with needed():
        tools.root_with_namespaces()
        for name in ("busybox", "ip", "runc"):
            tools.program(name)
    with Host() as made:
        yield made


@pytest.fixture(scope="session")
def rootfs(host: Host) -> Path:
    """The image as a folder."""
    return image.make_rootfs(host.folder / "image")


@pytest.fixture(scope="session")
def started_node(host: Host) -> Iterator[Node]:
    """cGPU on a simulated T4, whose agent runs for all tests."""
    with Node(host) as made:
        yield made


@pytest.fixture
def node(started_node: Node) -> Iterator[Node]:
    """cGPU; fails a test that leaves anything of a tenant behind."""
    yield started_node
    eventually(started_node.nothing_left, "no tenant, no region, no process on the card is left", SETTLE_S)


@pytest.fixture(scope="session")
def limiting_host() -> Iterator[Host]:
    """A host whose cgroups can limit memory: where both are there, v1 or v2 has the controller."""
    with needed():
        tools.root_with_namespaces()
        for name in ("busybox", "ip", "runc"):
            tools.program(name)
        only_v2 = tools.memory_controller() == 2
    with Host(only_v2=only_v2) as made:
        yield made


@pytest.fixture(scope="session")
def limiting_node(limiting_host: Host) -> Iterator[Node]:
    """cGPU there."""
    with Node(limiting_host) as made:
        yield made


@pytest.fixture(scope="session")
def docker(host: Host, rootfs: Path, started_node: Node) -> Iterator[Docker]:
    """Docker with a dockerd of its own, which knows the runtime `cgpu`."""
    with needed():
        tools.program("docker")
        tools.program("dockerd")
    with Docker(host, started_node.runtime, image.make_tar(rootfs, host.folder / "image.tar")) as made:
        yield made


@pytest.fixture(scope="session")
def podman(host: Host, rootfs: Path, started_node: Node) -> Podman:
    """Podman over cgpu-runtime."""
    with needed():
        tools.program("podman")
    return Podman(host, started_node.runtime, rootfs)


@pytest.fixture(scope="session")
def containerd(host: Host, rootfs: Path, started_node: Node) -> Iterator[Containerd]:
    """containerd v2 over cgpu-runtime."""
    with needed():
        programs = tools.containerd()
    with Containerd(host, started_node.runtime, rootfs, programs) as made:
        yield made


@pytest.fixture(scope="session")
def runc(host: Host, rootfs: Path, started_node: Node) -> Runc:
    """cgpu-runtime called as runc is, on bundles written by the tests."""
    return Runc(host, started_node.runtime, rootfs)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    made: Engine = request.getfixturevalue(request.param)
    return made
