"""dockerd, or containerd below it, is killed with containers running: they go on or end, as it was told to do it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import image
from tests.e2e.conftest import SETTLE_S
from tests.e2e.engines import Docker
from tests.e2e.host import Host, eventually
from tests.e2e.node import Node
from tests.e2e.wanted import Wanted

# It ends when it is told to, else dockerd waits 10 s for it.
SCRIPT = "trap exit TERM; sleep 1000 | /client/quota hold & wait"
HOLDS = Wanted(("sh", "-c", SCRIPT), {"CGPU_MEMORY": "1GiB"})
_numbers = itertools.count()


@pytest.fixture(scope="module")
def tar(rootfs: Path, host: Host) -> Path:
    """The image for dockerds of one's own."""
    return image.make_tar(rootfs, host.folder / "killed.tar")


@pytest.fixture(params=["its own child", "beside it"])
def own_containerd(request: pytest.FixtureRequest) -> bool:
    """Where dockerd's containerd is."""
    return request.param in (True, "beside it")


@pytest.fixture
def going_on(host: Host, started_node: Node, tar: Path, own_containerd: bool) -> Iterator[Docker]:
    """A dockerd whose containers go on without it."""
    with Docker(host, started_node.runtime, tar, name=name(), own_containerd=own_containerd) as made:
        yield made


@pytest.fixture
def ending(host: Host, started_node: Node, tar: Path, own_containerd: bool) -> Iterator[Docker]:
    """A dockerd that ends the containers that it finds running when it starts."""
    with Docker(
        host, started_node.runtime, tar, name=name(), own_containerd=own_containerd, live_restore=False
    ) as made:
        yield made


def name() -> str:
    """A folder for a dockerd."""
    return f"docker-{next(_numbers)}"


def started(node: Node, docker: Docker) -> None:
    """A container that has filled its slice and holds it."""
    result = docker.start("holds", HOLDS)
    assert result.returncode == 0, result.stderr
    eventually(node.is_filled, "the container has filled its slice of the card")


def test_with_live_restore_its_containers_go_on(node: Node, going_on: Docker):
    started(node, going_on)
    held = node.used_bytes()
    going_on.kill_daemon()
    assert (len(node.tenants()), node.used_bytes()) == (1, held)
    going_on.start_daemon()
    assert going_on.execute("holds", "echo", "alive").stdout == "alive\n"
    assert (len(node.tenants()), node.used_bytes()) == (1, held)
    assert going_on.remove("holds").returncode == 0


def test_a_container_that_ends_while_it_is_dead_leaves_nothing(node: Node, going_on: Docker):
    started(node, going_on)
    first = going_on.pid("holds")
    going_on.kill_daemon()
    node.host.kill(first)
    eventually(node.nothing_left, "nothing is left", SETTLE_S)
    going_on.start_daemon()
    eventually(lambda: going_on.inspect("holds", "{{.State.Status}}") == "exited", "dockerd knows of the end")
    assert going_on.remove("holds").returncode == 0


def test_without_live_restore_its_containers_end_with_the_next_start(node: Node, ending: Docker):
    started(node, ending)
    ending.kill_daemon()
    assert len(node.tenants()) == 1
    ending.start_daemon()
    eventually(node.nothing_left, "nothing is left", SETTLE_S)
    assert ending.inspect("holds", "{{.State.Status}}") == "exited"
    assert ending.remove("holds").returncode == 0
    assert ending.run("next", Wanted(("true",), {"CGPU_MEMORY": "1GiB"})).returncode == 0


@pytest.mark.parametrize("own_containerd", [True], indirect=True)
def test_containerd_is_killed_below_it(node: Node, going_on: Docker):
    started(node, going_on)
    going_on.kill_containerd()
    assert len(node.tenants()) == 1
    going_on.start_containerd()
    eventually(lambda: going_on.execute("holds", "echo", "alive").stdout == "alive\n", "dockerd reaches its containers")
    assert going_on.remove("holds").returncode == 0
