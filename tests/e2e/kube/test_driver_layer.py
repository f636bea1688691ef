"""A node as new ones are: its driver has memory limits, its cgroups are v2's alone, its root is read-only.

Where the driver has limits they are on a claim's containers before their first processes run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cgpu.model.units import GIB
from tests.e2e.host import Host, eventually
from tests.e2e.kube import images
from tests.e2e.kube.cluster import Cluster
from tests.e2e.kube.conftest import MINOR, need_everything
from tests.e2e.kube.installation import VALUES, Installation, pod, template

NODE = "node-a"
MUSL = "docker.io/local/musl:1"
SLEEP = ("sleep", "3600")
MACHINE = "/run/cgpu-machine"
ESCAPE = "chroot /bare /bin/env LD_LIBRARY_PATH=/sim CGPU_SIM_STATE=/machine /client/quota fill"
SETTLE_S = 60.0
START_S = 120.0  # the old one may take half a minute to end
UNTIL_OPEN = "until [ -e /gate/open ]; do sleep 0.2; done"


@pytest.fixture(scope="module")
def limiting() -> Iterator[Installation]:
    """cgpu on such a node."""
    need_everything()
    simulated = {**VALUES["simulated"], "driver": "615.71.09"}
    with Cluster(MINOR, nodes=(NODE,), only_v2=True, read_only=True) as cluster:
        made = Installation(cluster, {**VALUES, "simulated": simulated})
        made.begin()
        host = cluster.control_plane.host
        cluster.workers[0].import_image(images.without_glibc(host.folder / "musl", MUSL))
        yield made


@pytest.fixture(autouse=True)
def no_limit_left(limiting: Installation) -> Iterator[None]:
    """Fails a test after which the cards hold anybody to anything."""
    yield
    limiting.delete("pod", "--all")
    eventually(lambda: not limits(limiting), "no limit is left", SETTLE_S)
    eventually(lambda: not limiting.tenants(NODE), "no tenant is left", SETTLE_S)


def limits(installation: Installation) -> dict[str, tuple[int, int]]:
    """Soft and hard limits by cgroup, by the card's own word, of those that are there."""
    status = json.loads(installation.cgpu(NODE, "sim", "status", f"--state={MACHINE}", "--json"))
    there = installation.cluster.control_plane.host.cgroups()
    return {
        row["cgroup"]: (row["soft_bytes"], row["hard_bytes"])
        for card in status["cards"]
        for row in card["cgroups"]
        if row["hard_bytes"] and f"/sys/fs/cgroup{row['cgroup']}" in there
    }


def pids(host: Host, words: str) -> set[str]:
    """The node's processes with these words in their command, as they are called there."""
    return set(host.run("pgrep", "--full", words).stdout.split())


def layer(installation: Installation) -> str:
    (tenant,) = installation.tenants(NODE)
    found: str = tenant["shares"][0]["memory_layer"]
    return found


def escaping(name: str, simulated_driver: str, rootfs: Path) -> dict[str, Any]:
    """A pod whose process enters a root without the shim, and takes what memory it gets."""
    made = pod(name, "two", "sh", "-c", ESCAPE)
    places = {"/bare": str(rootfs), "/bare/proc": "/proc", "/bare/sim": simulated_driver, "/bare/machine": MACHINE}
    volumes = {f"v{number}": (where, path) for number, (where, path) in enumerate(places.items())}
    made["spec"]["volumes"] = [{"name": name, "hostPath": {"path": path}} for name, (_, path) in volumes.items()]
    container = made["spec"]["containers"][0]
    container["volumeMounts"] = [{"name": name, "mountPath": where} for name, (where, _) in volumes.items()]
    # The simulated driver knows a cgroup in a bare root by its path alone: no cgroup namespace.
    container["securityContext"] = {"privileged": True}
    return made


def test_a_process_that_goes_round_the_shim_is_held_by_the_driver(limiting: Installation):
    assert limiting.devices(NODE)[0]["attributes"]["memoryLayer"] == {"string": "driver"}
    host = limiting.cluster.control_plane.host
    limiting.apply(template("two", "2Gi"), pod("first", "two", "true"))
    limiting.wait_for("first", "Succeeded")
    simulated = host.run("sh", "-c", "ls -d /run/cgpu/sim-*/lib/sim-*", check=True).stdout.strip()
    limiting.apply(escaping("escaping", simulated, host.folder / "installation" / "client"))
    assert limiting.wait_for("escaping", "Succeeded", "Failed") == "Succeeded", limiting.logs("escaping")
    assert GIB < json.loads(limiting.logs("escaping"))["held"] < 2 * GIB


def test_only_a_few_folders_of_the_node_are_written(limiting: Installation):
    """A pod with a claim runs, and nothing else of the node could have been written for it."""
    limiting.apply(template("two", "2Gi"), pod("plain", "two", "/client/quota", "fill"))
    assert limiting.wait_for("plain", "Succeeded", "Failed") == "Succeeded", limiting.logs("plain")
    assert json.loads(limiting.logs("plain"))["total"] == 2 * GIB
    host = limiting.cluster.control_plane.host
    for folder in ("/etc", "/usr", "/var/lib", "/run", "/opt"):
        assert "Read-only file system" in host.run("mkdir", f"{folder}/written").stderr


def test_containers_of_a_pod_have_the_quota_together(limiting: Installation):
    shared = pod("shared", "two", *SLEEP)
    shared["spec"]["containers"].append({**shared["spec"]["containers"][0], "name": "second"})
    limiting.apply(template("two", "2Gi"), shared)
    limiting.wait_for("shared", "Running")
    uid = limiting.kubectl("get", "pod", "shared", "-o=jsonpath={.metadata.uid}")
    found = limits(limiting)
    assert len(found) == 3
    assert set(found.values()) == {(0, 2 * GIB)}
    assert all(path.startswith(f"/cgpu-e2e/pod{uid}") for path in found)
    assert layer(limiting) == "driver"


def test_an_image_that_cannot_load_the_shim_starts(limiting: Installation):
    musl = pod("musl", "two", *SLEEP)
    musl["spec"]["containers"][0]["image"] = MUSL
    limiting.apply(template("two", "2Gi"), musl)
    limiting.wait_for("musl", "Running")
    assert (list(limits(limiting).values()), layer(limiting)) == ([(0, 2 * GIB)], "driver")


def test_a_pod_that_is_never_restarted_starts_while_the_agent_is_replaced(limiting: Installation):
    """Its second container waits for the agent, which is held while it starts until somebody waits for it."""
    host = limiting.cluster.control_plane.host
    gate = host.folder / "gate"
    gate.mkdir()
    late = pod("late", "two", *SLEEP)
    first = {**late["spec"]["containers"][0], "name": "before", "command": ["sh", "-c", UNTIL_OPEN]}
    late["spec"]["volumes"] = [{"name": "gate", "hostPath": {"path": str(gate), "type": "Directory"}}]
    late["spec"]["initContainers"] = [{**first, "volumeMounts": [{"name": "gate", "mountPath": "/gate"}]}]
    limiting.apply(template("two", "2Gi"), late)
    eventually(lambda: limits(limiting), "the first container has its limit")
    old = pids(host, "cgpu agent")
    is_replaced = limiting.replace_agent(NODE)
    eventually(lambda: pids(host, "cgpu agent") - old, "another agent begins", START_S)
    new = min(pids(host, "cgpu agent") - old)
    host.run("kill", "-STOP", new, check=True)
    (gate / "open").touch()
    eventually(lambda: pids(host, "hook claim"), "the second container waits for it")
    host.run("kill", "-CONT", new, check=True)
    limiting.wait_for("late", "Running")
    eventually(is_replaced, "there is another agent")
    eventually(lambda: list(limits(limiting).values()) == [(0, 2 * GIB)], "the second has its limit")
