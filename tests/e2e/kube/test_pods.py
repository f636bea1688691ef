"""Pods with claims: they run inside their quota, they wait while there is no room, and nothing is left of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cgpu.model.units import GIB
from tests.e2e.host import eventually
from tests.e2e.kube.installation import CLIENT, Installation, pod, template

FILL = ("/client/quota", "fill")
SLEEP = ("sleep", "3600")
OUT_OF_MEMORY = 2


def told(installation: Installation, name: str) -> dict[str, Any]:
    """What the client in a pod printed, once it has ended."""
    assert installation.wait_for(name, "Succeeded", "Failed") == "Succeeded", installation.logs(name)
    values: dict[str, Any] = json.loads(installation.logs(name))
    return values


def running(installation: Installation) -> int:
    return sum(item["status"]["phase"] == "Running" for item in installation.get("pods", "default"))


def test_a_pod_runs_inside_its_quota_and_is_refused_beyond_it(installation: Installation):
    installation.apply(template("six", "6Gi", "30"), pod("infer", "six", *FILL))
    seen = told(installation, "infer")
    assert seen["device_total"] == seen["total"] == seen["nvml_total"] == 6 * GIB
    assert 5 * GIB < seen["held"] < 6 * GIB
    assert seen["refusal"] == OUT_OF_MEMORY


@pytest.fixture
def weights_allowed(installation: Installation) -> Iterator[None]:
    """The administrator lets the default namespace have weight and priority."""
    installation.kubectl("label", "namespace", "default", "cgpu.dev/weight-and-priority=allowed")
    yield
    installation.kubectl("label", "namespace", "default", "cgpu.dev/weight-and-priority-")


@pytest.mark.usefixtures("weights_allowed")
def test_the_amounts_of_the_claim_are_the_tenants(installation: Installation):
    plain, tuned = template("plain", "1Gi"), template("tuned", "2Gi", "30", weight=3, computeLimitPercent=60)
    installation.apply_once_allowed(plain, tuned)
    installation.apply(*(pod(name, name, *SLEEP, node="node-b") for name in ("plain", "tuned")))
    for name in ("plain", "tuned"):
        installation.wait_for(name, "Running")
    shares = {row["name"].split("-")[0]: row["shares"][0] for row in installation.tenants("node-b")}
    wanted = {
        "default/plain": (GIB, 5, None, 1),  # a slice of the card is promised to everybody
        "default/tuned": (2 * GIB, 30, 60, 3),
    }
    for name, (memory, compute, limit, weight) in wanted.items():
        share = shares[name]
        assert (share["memory_bytes"], share["compute_percent"]) == (memory, compute)
        assert (share["compute_limit_percent"], share["weight"]) == (limit, weight)


def test_a_claim_of_two_cards_is_one_tenant_on_both(installation: Installation):
    installation.apply(template("pair", "3Gi", count=2), pod("pair", "pair", *SLEEP, node="node-a"))
    installation.wait_for("pair", "Running")
    (tenant,) = installation.tenants("node-a")
    assert sorted(share["gpu_index"] for share in tenant["shares"]) == [0, 1]
    assert {share["memory_bytes"] for share in tenant["shares"]} == {3 * GIB}
    environment = installation.kubectl("exec", "pair", "--", "env")
    assert ",GPU-" in next(line for line in environment.splitlines() if line.startswith("CUDA_VISIBLE_DEVICES"))


def test_containers_of_one_pod_share_a_claim_or_have_one_each(installation: Installation):
    shared = pod("shared", "two", *SLEEP)
    shared["spec"]["containers"].append({**shared["spec"]["containers"][0], "name": "second"})
    apart = pod("apart", "two", *SLEEP)
    apart["spec"]["resourceClaims"].append({"name": "more", "resourceClaimTemplateName": "one"})
    second = {"name": "second", "image": CLIENT, "command": list(SLEEP), "resources": {"claims": [{"name": "more"}]}}
    apart["spec"]["containers"].append(second)
    installation.apply(template("two", "2Gi"), template("one", "1Gi"), shared, apart)
    for name in ("shared", "apart"):
        installation.wait_for(name, "Running")
    totals = {
        (name, container): json.loads(
            installation.kubectl("exec", name, f"--container={container}", "--", "/client/quota")
        )["total"]
        for name in ("shared", "apart")
        for container in ("main", "second")
    }
    assert totals == {
        ("shared", "main"): 2 * GIB,
        ("shared", "second"): 2 * GIB,
        ("apart", "main"): 2 * GIB,
        ("apart", "second"): GIB,
    }


@pytest.mark.timeout(900)
def test_the_pod_that_is_one_too_many_waits_and_starts_when_another_ends(installation: Installation):
    cards, each = 4, 20
    installation.apply(template("tiny", "64Mi"))
    installation.apply(*(pod(f"tiny-{number}", "tiny", *SLEEP) for number in range(cards * each)))
    eventually(lambda: running(installation) == cards * each, "all fit", 200)
    installation.apply(pod("late", "tiny", *SLEEP))
    eventually(lambda: "cannot allocate all claims" in installation.kubectl("get", "events"), "the scheduler says no")
    assert installation.phase("late") == "Pending"
    for worker in installation.cluster.workers:
        shares = [share["gpu_index"] for row in installation.tenants(worker.name) for share in row["shares"]]
        assert sorted(shares) == [0] * each + [1] * each
    installation.delete("pod", "tiny-7")
    installation.wait_for("late", "Running")


def test_memory_that_is_given_back_is_given_again(installation: Installation):
    installation.apply(template("most", "10Gi"))
    installation.apply(*(pod(f"most-{number}", "most", *SLEEP) for number in range(5)))
    eventually(lambda: running(installation) == 4, "one on each card")
    waiting = next(item for item in installation.get("pods", "default") if item["status"]["phase"] == "Pending")
    victim = next(item for item in installation.get("pods", "default") if item["status"]["phase"] == "Running")
    installation.delete("pod", victim["metadata"]["name"])
    installation.wait_for(waiting["metadata"]["name"], "Running")


def test_a_pod_that_takes_the_place_of_one_deleted_by_force_starts_once_that_has_ended(installation: Installation):
    """Its share is free for the scheduler at once, and on the node when its processes have ended."""
    slow = "trap 'sleep 4; exit' TERM; while :; do sleep 1; done"
    first = pod("first", "whole", "sh", "-c", slow, node="node-a")
    first["spec"]["terminationGracePeriodSeconds"] = 20
    installation.apply(template("whole", "14Gi", count=2), first)
    installation.wait_for("first", "Running")
    installation.apply(pod("second", "whole", *SLEEP, node="node-a"))
    installation.kubectl("delete", "pod", "first", "--force", "--grace-period=0")
    installation.wait_for("second", "Running")
    assert "Failed to prepare" not in installation.kubectl("describe", "pod", "second")


@pytest.fixture
def restricted(installation: Installation) -> Iterator[None]:
    """The default namespace takes only pods that keep to the strictest of Kubernetes' standards."""
    installation.kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted")
    yield
    installation.kubectl("label", "namespace", "default", "pod-security.kubernetes.io/enforce-")


@pytest.mark.usefixtures("restricted")
def test_a_pod_without_rights_has_its_quota_too(installation: Installation):
    strict = pod("strict", "one", *FILL)
    strict["spec"]["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    strict["spec"]["containers"][0]["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    installation.apply(template("one", "1Gi"), strict)
    assert told(installation, "strict")["total"] == GIB


def test_parameters_that_cannot_be_used_are_refused_when_they_are_written(installation: Installation):
    text = yaml.safe_dump(template("odd", "1Gi", weight=5000))
    said = installation.cluster.control_plane.refused("apply", "-f", "-", text_in=text)
    assert "weight of request gpu is 5000" in said
