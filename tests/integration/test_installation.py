"""What `cgpu doctor --cluster` reads of cgpu itself, against a served API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cgpu.adapters import kube
from cgpu.cli.main import main
from cgpu.k8s.installation import Seen
from cgpu.k8s.installation_reader import read_installation
from tests.integration.cluster_objects import gpu_node
from tests.integration.fake_api import FakeApi
from tests.integration.test_node_probe import grants, used, within
from tests.unit.k8s.cluster_objects import node, slices_of

OURS = {"app.kubernetes.io/name": "cgpu", "app.kubernetes.io/version": "0.1.0"}
MANAGER = {"component": "kube-controller-manager"}


@pytest.fixture
def installed(api: FakeApi) -> FakeApi:
    service = {"namespace": "cgpu-system", "name": "cgpu-webhook"}
    webhooks = [{"name": "pods.cgpu.dev", "clientConfig": {"service": service}}]
    ready = [{"conditions": {"ready": True}}, {"conditions": {"ready": False}}, {}]
    command = ["kube-controller-manager", "--kube-api-qps=200"]
    api.nodes = [node("node-a"), gpu_node("other")]
    api.resourceslices = slices_of("node-a")
    api.deviceclasses = [{"metadata": {"name": "gpu.cgpu.dev"}}]
    api.mutatingwebhookconfigurations = [{"metadata": {"name": "cgpu-pods", "labels": OURS}, "webhooks": webhooks}]
    api.endpointslices = [
        {
            "metadata": {
                "name": "e",
                "namespace": "cgpu-system",
                "labels": {"kubernetes.io/service-name": "cgpu-webhook"},
            },
            "endpoints": ready,
        }
    ]
    api.deployments = [{"metadata": {"name": "cgpu-webhook", "namespace": "cgpu-system", "labels": OURS}}]
    api.daemonsets = [{"metadata": {"name": "cgpu-agent", "namespace": "cgpu-system", "labels": OURS}, "spec": {}}]
    api.pods = [
        {
            "metadata": {"name": "kcm", "namespace": "kube-system", "labels": MANAGER},
            "spec": {"containers": [{"name": "kcm", "command": command}]},
            "status": {"phase": "Running"},
        }
    ]
    return api


def read(config: Path) -> Seen:
    with kube.connect(config, None) as cluster:
        return read_installation(cluster)


def report(config: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    main(["doctor", "--cluster", f"--kubeconfig={config}", "--json", *more])
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    return {row["node"]: {check["name"]: check["verdict"] for check in row["checks"]} for row in nodes}


def test_what_is_there_is_read_with_the_permissions_that_are_shipped(installed: FakeApi, config: Path):
    granted = grants({"cgpu-doctor-installation"})
    installed.allowed = within(granted)
    seen = read(config)
    assert (seen.api, seen.device_class, seen.labelled, seen.claim_qps) == (True, True, ("node-a",), 200)
    assert [(one.service, one.endpoints) for one in seen.webhooks] == [("cgpu-system/cgpu-webhook", 2)]
    assert seen.versions == {"cgpu-system/cgpu-agent": "0.1.0", "cgpu-system/cgpu-webhook": "0.1.0"}
    assert len(seen.picture.nodes["node-a"].cards) == 2
    assert seen.missing == {}
    assert used(installed, "nowhere") == granted


def test_what_may_not_be_read_is_told(installed: FakeApi, config: Path):
    installed.allowed = lambda asked: asked.resource != "deviceclasses"
    seen = read(config)
    assert "403" in seen.missing["device_class"]
    assert seen.labelled == ("node-a",)


def test_the_report_stands_beside_the_nodes_and_is_not_counted_as_one(
    installed: FakeApi, config: Path, capsys: pytest.CaptureFixture[str]
):
    found = report(config, capsys)
    assert set(found["cgpu in this cluster"].values()) == {"supported"}
    assert main(["doctor", "--cluster", f"--kubeconfig={config}"]) == 3  # the nodes themselves were not probed
    assert capsys.readouterr().out.startswith("2 nodes: ")
    installed.deviceclasses = []
    assert main(["doctor", "--cluster", f"--kubeconfig={config}"]) == 2


def test_a_cluster_without_cgpu_has_no_such_report(api: FakeApi, config: Path, capsys: pytest.CaptureFixture[str]):
    api.nodes = [gpu_node("other"), gpu_node("another")]
    assert "cgpu in this cluster" not in report(config, capsys)
    assert report(config, capsys, "--ours")["cgpu in this cluster"]["cluster:device-class"] == "unsupported"
