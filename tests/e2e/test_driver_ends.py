"""The driver's limits of a container, from before its first process to after its last, whatever engine and end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cgpu.model.units import GIB
from tests.e2e import image
from tests.e2e.conftest import ENGINES, SETTLE_S
from tests.e2e.engines import Containerd, Docker, Engine, Podman, Runc
from tests.e2e.host import Host, eventually
from tests.e2e.node import Node
from tests.e2e.wanted import Wanted

DRIVER = {"CGPU_MEMORY": "2GiB", "CGPU_REQUIRE_LAYER": "driver"}
HOLDS = Wanted(("sh", "-c", "sleep 1000 | /client/quota hold"), DRIVER)


class Limits:
    """The simulated driver's own word on its limits."""

    def __init__(self, host: Host, node: Node) -> None:
        self._host = host
        self._node = node

    def now(self) -> dict[str, tuple[int, int]]:
        """Hard and soft limit by cgroup, of those that are there."""
        there = self._host.cgroups()
        return {
            row.cgroup: (row.hard_bytes, row.soft_bytes)
            for row in self._node.machine.status().cards[0].cgroups
            if (row.hard_bytes or row.soft_bytes) and f"/sys/fs/cgroup{row.cgroup}" in there
        }


@pytest.fixture(scope="module")
def limited_node(host: Host) -> Iterator[Node]:
    """cGPU on a machine whose driver has memory limits."""
    with Node(host, driver="615.10", name="cgpu-limits") as made:
        yield made


@pytest.fixture
def limits(host: Host, limited_node: Node) -> Iterator[Limits]:
    """The driver's limits; after a test none may be left."""
    found = Limits(host, limited_node)
    yield found
    eventually(limited_node.nothing_left, "nothing is left", SETTLE_S)
    eventually(lambda: found.now() == {}, "no limit is left", SETTLE_S)


@pytest.fixture(scope="module")
def limited_docker(host: Host, rootfs: Path, limited_node: Node, docker: Docker) -> Iterator[Docker]:
    """Docker over cgpu-runtime there."""
    tar = image.make_tar(rootfs, host.folder / "limits.tar")
    with Docker(host, limited_node.runtime, tar, name="docker-limits") as made:
        yield made


@pytest.fixture(params=ENGINES)
def limited(request: pytest.FixtureRequest, limited_node: Node) -> Engine:
    """Each engine in turn, over cgpu-runtime there."""
    if request.param == "docker":
        return request.getfixturevalue("limited_docker")  # type: ignore[no-any-return]
    engine: Podman | Containerd | Runc = request.getfixturevalue(request.param)
    return replace(engine, runtime=limited_node.runtime)


def started(node: Node, engine: Engine) -> None:
    """A container that has filled its slice and holds it."""
    result = engine.start("limited", HOLDS)
    assert result.returncode == 0, result.stderr
    eventually(node.is_filled, "the container has filled its slice of the card")


def test_the_limit_is_on_its_own_cgroup(limits: Limits, host: Host, limited_node: Node, limited: Engine):
    started(limited_node, limited)
    try:
        lines = host.run("cat", f"/proc/{limited.pid('limited')}/cgroup").stdout.splitlines()
        own = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
        assert limits.now() == {own: (2 * GIB, 2 * GIB)}
    finally:
        limited.remove("limited")


def test_the_limit_is_there_before_the_first_process_begins(limits: Limits, limited_node: Node, runc: Runc):
    limited = replace(runc, runtime=limited_node.runtime)
    assert limited.create("limited", HOLDS).wait() == 0
    try:
        assert list(limits.now().values()) == [(2 * GIB, 2 * GIB)]
        assert limited_node.used_bytes() == 0
    finally:
        limited.remove("limited")


def test_it_exits(limits: Limits, limited: Engine):
    """A runtime in the foreground deletes its container and cgroup itself: nobody calls cgpu-runtime for that."""
    result = limited.run("limited", Wanted(("/client/quota", "fill"), DRIVER))
    assert result.returncode == 0, result.stderr


def test_its_first_process_is_killed(limits: Limits, host: Host, limited_node: Node, limited: Engine):
    started(limited_node, limited)
    try:
        host.kill(limited.pid("limited"))
        eventually(limited_node.nothing_left, "nothing is left", SETTLE_S)
        eventually(lambda: limits.now() == {}, "no limit is left", SETTLE_S)
    finally:
        limited.remove("limited")


def test_what_watches_over_it_is_killed_first(limits: Limits, host: Host, limited_node: Node, limited_docker: Docker):
    started(limited_node, limited_docker)
    try:
        first = limited_docker.pid("limited")
        host.kill(host.parent_of(first), first)
        eventually(lambda: limits.now() == {}, "no limit is left", SETTLE_S)
    finally:
        limited_docker.remove("limited")


def test_the_agent_is_killed_while_it_runs(limits: Limits, limited_node: Node, limited: Engine):
    started(limited_node, limited)
    try:
        before = limits.now()
        limited_node.kill_agent()
        assert limits.now() == before
        limited_node.start_agent()
        assert limits.now() == before
    finally:
        limited.remove("limited")


def test_it_ends_while_the_agent_is_dead(limits: Limits, limited_node: Node, limited: Engine):
    started(limited_node, limited)
    limited_node.kill_agent()
    try:
        limited.remove("limited")
    finally:
        limited_node.start_agent()


def test_its_first_process_ends_while_the_agent_is_dead(limits: Limits, host: Host, limited_node: Node, runc: Runc):
    limited = replace(runc, runtime=limited_node.runtime)
    started(limited_node, limited)
    try:
        limited_node.kill_agent()
        host.kill(limited.pid("limited"))
        limited_node.start_agent()
        eventually(lambda: limits.now() == {}, "no limit is left", SETTLE_S)
    finally:
        limited.remove("limited")
