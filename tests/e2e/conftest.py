"""The host and the engines, started once; each test's containers are removed after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import image, tools
from tests.e2e.engines import Containerd, Docker, Engine, Podman, Runc
from tests.e2e.host import Host


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A host of one's own."""
    tools.root_with_namespaces()
    with Host() as made:
        yield made


@pytest.fixture(scope="session")
def rootfs(host: Host) -> Path:
    """The image as a folder."""
    return image.make_rootfs(host.folder / "image")


@pytest.fixture(scope="session")
def runtime() -> str:
    """The runtime that the engines use."""
    return tools.program("runc")


@pytest.fixture(scope="session")
def docker(host: Host, rootfs: Path, runtime: str) -> Iterator[Docker]:
    """Docker with a dockerd of its own."""
    with Docker(host, runtime, image.make_tar(rootfs, host.folder / "image.tar")) as made:
        yield made


@pytest.fixture(scope="session")
def podman(host: Host, rootfs: Path, runtime: str) -> Podman:
    """Podman."""
    return Podman(host, runtime, rootfs)


@pytest.fixture(scope="session")
def containerd(host: Host, rootfs: Path, runtime: str) -> Iterator[Containerd]:
    """containerd v2."""
    with Containerd(host, runtime, rootfs, tools.containerd()) as made:
        yield made


@pytest.fixture(scope="session")
def runc(host: Host, rootfs: Path, runtime: str) -> Runc:
    """The runtime by itself."""
    return Runc(host, runtime, rootfs)


@pytest.fixture(params=["docker", "podman", "containerd", "runc"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each engine in turn."""
    made: Engine = request.getfixturevalue(request.param)
    return made
