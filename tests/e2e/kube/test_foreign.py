"""Nodes whose GPUs somebody else manages: ours are taken back there, with an event, and offered again afterwards."""

from __future__ import annotations

import json
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from tests.e2e.host import eventually
from tests.e2e.kube.cluster import Cluster
from tests.e2e.kube.installation import Installation, pod, template
from tests.e2e.node import SOURCE
from tests.e2e.tools import SEARCHED

NODE: Final = "node-b"
SLEEP: Final = ("sleep", "3600")


def refusals(cluster: Cluster, node: str, reason: str = "GpuSharingRefused") -> list[str]:
    """What events on a node say."""
    rows = json.loads(cluster.control_plane.kubectl("get", "events", "--namespace=default", "-o=json"))["items"]
    return [
        row["message"]
        for row in rows
        if row["reason"] == reason and row["involvedObject"]["kind"] == "Node" and row["involvedObject"]["name"] == node
    ]


@contextmanager
def resource_of_another(installation: Installation, name: str) -> Iterator[None]:
    """As another's device plugin has it: in what the kubelet says of the node."""

    def patch(amount: str | None) -> None:
        amounts = {name: amount}
        body = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
        installation.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", f"--patch={body}")

    patch("2")
    try:
        yield
    finally:
        patch(None)


@contextmanager
def slice_of_another(installation: Installation, driver: str, **attributes: str) -> Iterator[None]:
    """As another DRA driver publishes it."""
    device = {"name": "gpu-0", "attributes": {key: {"string": value} for key, value in attributes.items()}}
    name = f"another-{NODE}"
    pool = {"name": NODE, "generation": 1, "resourceSliceCount": 1}
    spec: dict[str, Any] = {"driver": driver, "nodeName": NODE, "pool": pool, "devices": [device]}
    head = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}}
    installation.apply({**head, "spec": spec})
    try:
        yield
    finally:
        installation.kubectl("delete", "resourceslice", name)


def ours(installation: Installation) -> int:
    """How many devices of ours the node offers."""
    return sum(
        len(item["spec"].get("devices", ()))
        for item in installation.get("resourceslices")
        if item["spec"]["nodeName"] == NODE and item["spec"]["driver"] == "gpu.cgpu.dev"
    )


def test_a_node_that_a_device_plugin_manages_is_left_to_it(installation: Installation):
    """A pod that runs there stays and ends as usual; the next is told why it does not start."""
    installation.apply(template("one", "1Gi"), pod("before", "one", *SLEEP, node=NODE))
    installation.wait_for("before", "Running")
    told = refusals(installation.cluster, NODE)
    resumed = len(refusals(installation.cluster, NODE, "GpuSharingResumed"))
    with resource_of_another(installation, "nvidia.com/gpu"):
        eventually(lambda: ours(installation) == 0, "ours are taken back")
        eventually(lambda: len(refusals(installation.cluster, NODE)) == len(told) + 1, "the node says so")
        (said,) = (Counter(refusals(installation.cluster, NODE)) - Counter(told)).elements()
        assert "the Node has the resource nvidia.com/gpu" in said
        assert "GpuSharingRefused" in installation.kubectl("describe", "node", NODE)
        assert [row["name"].split("-")[0] for row in installation.tenants(NODE)] == ["default/before"]
        assert installation.phase("before") == "Running"
        said = installation.cgpu(NODE, "ps")  # the agent answers and knows the pod
        assert "default/before" in said
        installation.delete("pod", "before")
        assert not installation.tenants(NODE)
    eventually(lambda: ours(installation) == 2, "ours are offered again")
    assert len(refusals(installation.cluster, NODE)) == len(told) + 1
    eventually(
        lambda: len(refusals(installation.cluster, NODE, "GpuSharingResumed")) == resumed + 1, "the node says that too"
    )
    installation.apply(pod("after", "one", *SLEEP, node=NODE))
    installation.wait_for("after", "Running")


def test_a_claim_that_was_given_before_is_not_prepared(installation: Installation):
    """As when a node is taken over between the scheduler's decision and the kubelet's call."""
    device = installation.devices(NODE)[0]["name"]
    spec = template("x", "1Gi")["spec"]["spec"]
    claim = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "early"}, "spec": spec}
    row = {"request": "gpu", "driver": "gpu.cgpu.dev", "pool": NODE, "device": device, "shareID": str(uuid.uuid4()),
           "consumedCapacity": {"memory": "1Gi", "compute": "5", "shares": "1"}}  # fmt: skip
    body = json.dumps({"status": {"allocation": {"devices": {"results": [row]}}}})
    late = pod("late", "x", *SLEEP, nodeName=NODE)
    late["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": "early"}]
    try:
        with resource_of_another(installation, "aliyun.com/gpu-mem"):
            eventually(lambda: ours(installation) == 0, "ours are taken back")
            installation.apply(claim)
            installation.kubectl(
                "patch", "resourceclaim", "early", "--subresource=status", "--type=merge", f"--patch={body}"
            )
            installation.apply(late)
            said = "cgpu gives out no share on this node: the Node has the resource aliyun.com/gpu-mem"
            eventually(lambda: said in installation.kubectl("get", "events"), "the pod is told")
            assert installation.phase("late") == "Pending"
    finally:
        installation.delete("pod", "--all")
        installation.delete("resourceclaim", "early")
    eventually(lambda: ours(installation) == 2, "ours are offered again")


@pytest.mark.parametrize("driver", ["gpu.nvidia.com", "gpu.example.com"])
def test_a_node_whose_cards_another_driver_offers_is_left_to_it(installation: Installation, driver: str):
    card = installation.devices(NODE)[0]["attributes"]["uuid"]["string"]
    attributes = {} if driver == "gpu.nvidia.com" else {"uuid": card}
    with slice_of_another(installation, driver, **attributes):
        eventually(lambda: ours(installation) == 0, "ours are taken back")
        eventually(lambda: any(driver in text for text in refusals(installation.cluster, NODE)), "the node says so")
        assert len(installation.devices("node-a")) == 2  # another node of the cluster is ours
    eventually(lambda: ours(installation) == 2, "ours are offered again")


def test_a_slice_of_other_devices_does_not_matter(installation: Installation):
    with slice_of_another(installation, "nic.example.com", mac="00:11:22"):
        installation.kubectl("label", "node", NODE, "example.com/looked-at=1", "--overwrite")  # so that it looks
        installation.kubectl(
            "delete", "resourceslices", f"--field-selector=spec.nodeName={NODE},spec.driver=gpu.cgpu.dev"
        )
        eventually(lambda: ours(installation) == 2, "ours are written again")


def test_a_node_on_which_alibabas_cgpu_is_active_is_left_to_it(cluster: Cluster):
    plane = cluster.control_plane
    label = {"ack.node.gpu.schedule": "core_mem"}
    plane.kubectl("create", "-f", "-", text_in=json.dumps(
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bare", "labels": label}}
    ))  # fmt: skip
    root = plane.host.folder / "bare"
    module = root / "proc/cgpu_km"
    module.mkdir(parents=True)

    def offered() -> list[str]:
        rows = json.loads(plane.kubectl("get", "resourceslices", "-o=json"))["items"]
        return [row["metadata"]["name"] for row in rows if row["spec"]["nodeName"] == "bare"]

    process = plane.host.start(
        sys.executable, "-m", "tests.e2e.kube.bare_publisher", str(plane.admin), "bare", str(root),
        log=plane.host.folder / "bare.log",
        env={"PATH": SEARCHED, "PYTHONPATH": f"{SOURCE}:{SOURCE.parent}", "HOME": "/root"},
    )  # fmt: skip
    try:
        eventually(lambda: refusals(cluster, "bare"), "the node says so at the start")
        assert "Alibaba's cGPU is active (/proc/cgpu_km)" in refusals(cluster, "bare")[0]
        assert not offered()
        module.rmdir()
        eventually(offered, "ours are offered")
        module.mkdir()
        eventually(lambda: not offered(), "ours are taken back")
        eventually(lambda: len(refusals(cluster, "bare")) == 2, "the node says so again")
    finally:
        plane.host.stop(process)
        plane.kubectl("delete", "node", "bare")
