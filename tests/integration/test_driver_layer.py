"""The driver's memory limits with a real agent, real cgroups and real clients, on a simulated card of driver 615.

A machine's cgroups may be v1, or not ours: each test runs in a mount namespace of its own with
cgroup v2 at its usual place, where it makes and removes its own cgroups.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cgpu.errors import LayerError, NoSuchTenantError, RefusedError
from cgpu.model.units import GIB
from cgpu.sim.machine import SimMachine
from tests.integration.conftest import CLIENT, Node, eventually, told

MOUNT = Path("/sys/fs/cgroup")
_DRIVER = "615.71.09"
_NO_CGROUP2 = "cgroup v2 cannot be mounted in a mount namespace here; that needs root"


@pytest.fixture(scope="module", autouse=True)
def cgroup2() -> Iterator[None]:
    """This process, and so its children, see cgroup v2 at /sys/fs/cgroup; nobody else does."""
    libc = ctypes.CDLL(None, use_errno=True)
    original, place = os.open("/proc/self/ns/mnt", os.O_RDONLY), Path.cwd()
    flags = 0x00020000  # CLONE_NEWNS
    private = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
    able = (
        libc.unshare(flags) == 0
        and libc.mount(None, b"/", None, private, None) == 0
        and libc.mount(b"cgroup2", bytes(MOUNT), b"cgroup2", 0, None) == 0
    )
    try:
        if not able:
            if os.environ.get("CI") == "true":
                pytest.fail(_NO_CGROUP2)
            pytest.skip(_NO_CGROUP2)
        yield
    finally:
        assert libc.setns(original, 0) == 0
        os.chdir(place)  # it leads to the root
        os.close(original)


@pytest.fixture
def node() -> Iterator[Node]:
    """A simulated T4 of driver 615, and its agent."""
    with tempfile.TemporaryDirectory(prefix="cgpu-test-") as folder:
        machine = SimMachine.create(Path(folder) / "machine", "t4", driver=_DRIVER)
        node = Node(Path(folder), machine)
        node.start_agent()
        yield node
        node.close()


@pytest.fixture
def cgroup(node: Node) -> Iterator[Path]:
    """A container's cgroup, made by its engine."""
    folder = MOUNT / f"engine-{node.folder.name}" / "c1"
    folder.mkdir(parents=True)
    yield folder
    if folder.exists():
        for pid in (folder / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        eventually(lambda: (folder / "cgroup.procs").read_text() == "")
        folder.rmdir()
    folder.parent.rmdir()


def limits(node: Node) -> dict[str, tuple[int, int]]:
    """Hard and soft limit by cgroup, by the card's own word."""
    rows = node.machine.status().cards[0].cgroups
    return {row.cgroup: (row.hard_bytes, row.soft_bytes) for row in rows if row.hard_bytes or row.soft_bytes}


def put(node: Node, name: str = "oci-c1", **fields: Any) -> dict[str, Any]:
    document: dict[str, Any] = node.client.put(
        f"/v1/tenants/{name}",
        {"shares": [{"gpu": "0", "memory_bytes": 2 * GIB}], "container": "c1", "lifetime": "caller", **fields},
    )
    return document


def attach(node: Node, pid: int) -> dict[str, Any]:
    document: dict[str, Any] = node.client.post("/v1/tenants/oci-c1/attach", {"pid": pid, "ociVersion": "1.2.0"})
    return document


class Container:
    """A container's first process as a runtime makes it: in its cgroup, waiting to begin."""

    def __init__(self, node: Node, cgroup: Path, *command: str) -> None:
        script = f'echo $$ > "{cgroup}/cgroup.procs"; echo there; read -r _; exec "$@"'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *command],
            env=node.environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        node.started.append(self.process)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "there\n"

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def test_the_limits_bind_a_container_that_knows_nothing_of_the_shim(node: Node, cgroup: Path):
    assert put(node)["shares"][0]["memory_layer"] == "driver"
    assert limits(node) == {}
    container = Container(node, cgroup, *CLIENT, "fill")
    tenant = attach(node, container.process.pid)
    path = str(cgroup).removeprefix(str(MOUNT))
    assert (tenant["cgroup"], tenant["container"]) == (path, "c1")
    assert limits(node) == {path: (2 * GIB, 2 * GIB)}
    assert attach(node, container.process.pid)["id"] == "oci-c1"
    container.begin()
    assert told(container.process)["total_bytes"] == 2 * GIB
    assert GIB < told(container.process)["held_bytes"] < 2 * GIB
    node.client.patch("/v1/tenants/oci-c1", {"memory_bytes": GIB})
    assert limits(node) == {path: (GIB, GIB)}
    container.process.send_signal(signal.SIGKILL)
    container.process.wait()
    eventually(lambda: node.client.get("/v1/tenants") == [])
    eventually(lambda: limits(node) == {})


def test_a_killed_agent_clears_when_it_is_back(node: Node, cgroup: Path):
    put(node)
    container = Container(node, cgroup, "sleep", "1000")
    attach(node, container.process.pid)
    agent = node.agent_pid()
    os.kill(agent, signal.SIGKILL)
    container.process.kill()
    container.process.wait()
    assert limits(node) != {}
    node.started[0].wait()
    node.start_agent()
    eventually(lambda: node.client.get("/v1/tenants") == [])
    eventually(lambda: limits(node) == {})


def test_the_end_of_a_container_gives_all_back_before_its_cgroup_is_deleted(node: Node, cgroup: Path):
    put(node)
    container = Container(node, cgroup, "sleep", "1000")
    attach(node, container.process.pid)
    container.process.kill()
    container.process.wait()
    with contextlib.suppress(NoSuchTenantError):  # the agent may have seen its end first
        node.client.post("/v1/tenants/oci-c1/ending")
    assert (limits(node), node.client.get("/v1/tenants")) == ({}, [])
    cgroup.rmdir()


def test_processes_that_are_no_container_are_refused(node: Node):
    put(node)
    with pytest.raises(RefusedError, match="no process"):
        attach(node, 4194304)
    tenant = attach(node, os.getpid())  # whoever makes containers is in a cgroup that is not theirs
    assert (tenant["cgroup"], tenant["shares"][0]["memory_layer"]) == ("", "shim")
    node.client.delete("/v1/tenants/oci-c1")


def test_cgpu_run_has_the_limits_too(node: Node):
    client = node.start_client("fill", memory="1GiB", options=("--require-layer", "driver", "--name", "web"))
    told(client)
    ((path, bounds),) = limits(node).items()
    assert bounds == (GIB, GIB)
    assert node.share("web")["memory_layer"] == "driver"
    client.kill()
    eventually(lambda: node.callers_tenants() == [])
    eventually(lambda: limits(node) == {})
    eventually(lambda: not (MOUNT / path.lstrip("/")).exists())
    assert node.client.get("/v1/info")["memory_layers"] == ["driver", "shim"]


def test_an_older_driver_is_refused_where_the_layer_is_required():
    with tempfile.TemporaryDirectory(prefix="cgpu-test-") as folder:
        node = Node(Path(folder), SimMachine.create(Path(folder) / "machine", "t4", driver="550.163.01"))
        node.start_agent()
        with pytest.raises(LayerError, match=r"550\.163\.01"):
            put(node, require_layer="driver")
        result = node.cgpu("run", "--require-layer", "driver", "--memory", "1GiB", "--", sys.executable, "-c", "")
        assert result.returncode == 3
        assert "CGPU-LAYER" in result.stderr
        assert put(node, require_layer="shim")["shares"][0]["memory_layer"] == "shim"
        node.client.delete("/v1/tenants/oci-c1")
        node.close()


def test_the_simulated_drivers_limits_go_with_their_cgroup(node: Node, cgroup: Path):
    node.machine.set_memory_limit(0, str(cgroup), 2 * GIB, GIB)
    assert list(limits(node).values()) == [(2 * GIB, GIB)]
    cgroup.rmdir()
    cgroup.mkdir()  # the same name, another cgroup
    node.machine.set_memory_limit(0, str(cgroup.parent), 3 * GIB)
    assert list(limits(node).values()) == [(3 * GIB, 0)]
    node.machine.set_memory_limit(0, str(cgroup.parent), 0)
