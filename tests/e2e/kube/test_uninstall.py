"""Uninstalling refuses while pods have shares, brings them to an end where it is told to, and leaves nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.e2e.host import eventually
from tests.e2e.kube.installation import AGENT_NAMESPACE, NAMESPACE, VALUES, Installation, pod, template
from tests.e2e.kube.test_ack import ack_pod
from tests.e2e.kube.test_failures import COMPUTE, busy_ns

NODE = "node-b"
SLEEP = ("sleep", "3600")


@pytest.fixture
def installed_again(installation: Installation) -> Iterator[None]:
    """Other tests need it."""
    yield
    installation.install()
    installation.wait_until_offered()


def draining(seconds: int) -> dict[str, Any]:
    """The chart's values."""
    return copy.deepcopy(dict(VALUES)) | {"uninstall": {"drain": True, "drainSeconds": seconds}}


def two_web_pods() -> list[dict[str, Any]]:
    """A Deployment, and a budget by which one of its pods has to be there."""
    made = ack_pod("x", *SLEEP, mem="2")
    labels = {"matchLabels": {"app": "web"}}
    podded = {"metadata": {"labels": {"app": "web"}}, "spec": {**made["spec"], "restartPolicy": "Always"}}
    spec = {"replicas": 2, "selector": labels, "template": podded}
    budget = {"minAvailable": 1, "selector": labels}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec},
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"}, "spec": budget},
    ]


def names_of(installation: Installation, kind: str, namespace: str = "") -> list[str]:
    return [item["metadata"]["name"] for item in installation.get(kind, namespace)]


def phases(installation: Installation) -> dict[str, str]:
    """Of the pods, by their names."""
    return {item["metadata"]["name"]: item["status"]["phase"] for item in installation.get("pods", "default")}


def offers(installation: Installation) -> bool:
    """Whether the DeviceClass gives cards."""
    (made,) = [row for row in installation.get("deviceclasses") if row["metadata"]["name"] == "gpu.cgpu.dev"]
    return {"cel": {"expression": "false"}} not in made["spec"]["selectors"]


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("installed_again")
def test_it_refuses_while_pods_have_shares_and_leaves_nothing_in_the_end(installation: Installation):
    try:
        installation.apply(template("leaving", "2Gi", "20"), pod("computes", "leaving", *COMPUTE, node=NODE))
        installation.apply(*two_web_pods())
        installation.wait_for("computes", "Running")
        installation.roll_out("deployment/web", "default")
        refused(installation)
        installation.roll_back()
        refused_by_a_budget(installation)
        installation.roll_back()
        installation.delete("poddisruptionbudget", "web")
        installation.install(draining(200))
        said = installation.uninstall()
        assert "uninstalled" in said
        # The Deployment's new ones. Of those that were evicted the claims are free when they have ended, a moment
        # before they are gone.
        eventually(lambda: set(phases(installation).values()) == {"Pending"}, "what was evicted is gone")
        assert "computes" not in phases(installation)
        nothing_in_the_cluster(installation)
        for worker in installation.cluster.workers:
            nothing_on(installation, worker.name)
    finally:
        installation.delete("deployment", "web")
        installation.delete("poddisruptionbudget", "web")


def busy_of_computes(installation: Installation) -> int:
    """The time that the pod has had."""
    return next(time for name, time in busy_ns(installation).items() if name.startswith("default/computes-"))


def refused(installation: Installation) -> None:
    """The pods are named, and go on; others get in."""
    said = installation.refused_uninstall()
    log = installation.kubectl("logs", "job/cgpu-uninstall-check", f"--namespace={NAMESPACE}")
    assert "claims of GPU shares are allocated on" in log
    rows = [line.split() for line in log.splitlines()]
    assert any(row[:2] == ["default/computes", NODE] and row[2].startswith("computes-gpu-") for row in rows[1:])
    assert "claims of GPU shares are allocated on" in said
    assert not [name for name in names_of(installation, "clusterroles") if name == "cgpu-uninstall"]
    before = busy_of_computes(installation)
    eventually(lambda: busy_of_computes(installation) > before, "it computes on")
    installation.apply(pod("another", "leaving", *SLEEP, node=NODE))
    installation.wait_for("another", "Running")
    installation.delete("pod", "another")


def refused_by_a_budget(installation: Installation) -> None:
    installation.install(draining(15))
    said = installation.refused_uninstall()
    assert "a disruption budget does not let it go" in said
    assert "evicted default/computes from node-b" in said
    assert offers(installation)
    installation.apply(pod("computes", "leaving", *COMPUTE, node=NODE))
    installation.wait_for("computes", "Running")


def none_of_ours(installation: Installation, kind: str) -> bool:
    found = names_of(installation, kind, NAMESPACE)
    return not [name for name in found if "cgpu" in name and not name.startswith("sh.helm.release")]


def nothing_in_the_cluster(installation: Installation) -> None:
    eventually(lambda: not installation.get("resourceslices"), "the kubelet has taken the slices away", 120)
    assert not [name for name in names_of(installation, "resourceclaimtemplates") if name.startswith("cgpu-m")]
    for kind in ("clusterroles", "clusterrolebindings", "deviceclasses", "validatingadmissionpolicies",
                 "mutatingwebhookconfigurations", "validatingwebhookconfigurations"):  # fmt: skip
        assert not [name for name in names_of(installation, kind) if "cgpu" in name]
    for kind in ("configmaps", "secrets", "leases", "jobs", "pods", "roles", "rolebindings", "serviceaccounts"):
        eventually(partial(none_of_ours, installation, kind), f"no {kind} are left")
    eventually(lambda: AGENT_NAMESPACE not in names_of(installation, "namespaces"), "the agents' namespace has gone")


def nothing_on(installation: Installation, node: str) -> None:
    """No CDI file, no view, no tenant, no socket."""
    assert installation.left_on(node) == []
    host = next(worker.host for worker in installation.cluster.workers if worker.name == node)
    folders = ("/run/cgpu", "/var/lib/kubelet/plugins", "/var/lib/kubelet/plugins_registry")
    assert host.run("find", *folders, "-type", "s").stdout == ""
    assert host.run("find", "/run/cgpu/tenants", "-mindepth", "1").stdout == ""


def test_the_check_alone_says_the_same_to_a_person(installation: Installation):
    """From where a kubeconfig is."""
    assert "it may be uninstalled" in installation.admin_cgpu("k8s", "uninstall-check").stdout
    installation.apply(template("leaving", "2Gi", "20"), pod("one", "leaving", *SLEEP, node=NODE))
    installation.wait_for("one", "Running")
    result = installation.admin_cgpu("k8s", "uninstall-check")
    assert (result.returncode, result.stdout.splitlines()[0].split()) == (3, ["POD", "NODE", "CLAIM"])
    assert "(1): default/one [CGPU-REFUSED]\n" in result.stderr
    drained = installation.admin_cgpu("k8s", "uninstall-check", "--drain")
    assert drained.stdout.splitlines()[-1] == "no claim is allocated: it may be uninstalled"
    eventually(lambda: not phases(installation), "what was evicted is gone")
    # Nobody uninstalled it then: the chart gives the class its meaning back.
    assert not offers(installation)
    installation.install(None, "--force-conflicts")
    assert offers(installation)
    installation.apply(pod("two", "leaving", *SLEEP, node=NODE))
    installation.wait_for("two", "Running")
