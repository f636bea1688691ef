"""Drivers from r615 on limit a container's cgroup themselves: what escapes the shim is held all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cgpu.adapters.native import SIMULATED_CUDA, native_library
from cgpu.model.units import GIB
from tests.e2e.conftest import SETTLE_S
from tests.e2e.engines import Runc
from tests.e2e.host import Host, eventually
from tests.e2e.node import Node, told
from tests.e2e.wanted import Volume, Wanted

FILL = ("/client/quota", "fill")
DRIVER = {"CGPU_MEMORY": "2GiB", "CGPU_REQUIRE_LAYER": "driver"}


@pytest.fixture(scope="module")
def new_driver(host: Host) -> Iterator[Node]:
    """cGPU on a machine whose driver has memory limits."""
    with Node(host, driver="615.10", name="cgpu-615") as made:
        yield made
        eventually(made.nothing_left, "nothing is left", SETTLE_S)
        eventually(lambda: limits(host, made) == [], "no limit is left", SETTLE_S)


def limits(host: Host, node: Node) -> list[int]:
    """The hard limits of cgroups that are there. The simulated driver remembers those that are gone, too."""
    rows, there = node.machine.status().cards[0].cgroups, host.cgroups()
    return [row.hard_bytes for row in rows if row.hard_bytes and f"/sys/fs/cgroup{row.cgroup}" in there]


@pytest.fixture
def limited(host: Host, rootfs: Path, new_driver: Node) -> Runc:
    """cgpu-runtime on that machine."""
    return Runc(host, new_driver.runtime, rootfs)


def test_the_limit_is_on_the_containers_cgroup_before_its_first_process_runs(
    host: Host, new_driver: Node, limited: Runc
):
    wanted = Wanted(("sh", "-c", "sleep 1000 | /client/quota hold"), DRIVER)
    result = limited.start("limited", wanted)
    assert result.returncode == 0, result.stderr
    try:
        tenant = new_driver.tenants()[0]
        assert tenant["shares"][0]["memory_layer"] == "driver"
        assert limits(host, new_driver) == [2 * GIB]
    finally:
        limited.remove("limited")


def test_a_process_without_the_shim_is_held_by_the_driver(host: Host, new_driver: Node, rootfs: Path):
    # Without a cgroup namespace, as the simulated driver knows a cgroup in a bare root by its path alone.
    runc = Runc(host, new_driver.runtime, rootfs, cgroup_namespace=False)
    volumes = (
        Volume(rootfs, "/bare"),
        Volume(Path("/proc"), "/bare/proc"),
        Volume(native_library(SIMULATED_CUDA).parent, "/bare/sim"),
        Volume(new_driver.machine.folder, "/bare/machine", writable=True),
    )
    script = "chroot /bare /bin/env LD_LIBRARY_PATH=/sim CGPU_SIM_STATE=/machine /client/quota fill"
    result = runc.run("escapes", Wanted(("sh", "-c", script), DRIVER, volumes))
    assert told(result)["held"] < 2 * GIB


def test_a_driver_without_limits_refuses_the_layer(node: Node, runc: Runc):
    result = runc.run("refused", Wanted(("echo", "started"), DRIVER))
    assert result.returncode != 0
    assert "driver" in result.stderr
    assert "started" not in result.stdout
