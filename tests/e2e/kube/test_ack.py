"""Pods that were written for ACK's shared GPU scheduling run unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from cgpu.model.units import GIB
from tests.e2e.host import eventually
from tests.e2e.kube.installation import CLIENT, NAMESPACE, Installation

OUT_OF_MEMORY = 2
TEMPLATES, HERE = "resourceclaimtemplates.resource.k8s.io", f"--namespace={NAMESPACE}"
RIGHTS = (
    ("cgpu-controller", [f"{verb} {TEMPLATES} --all-namespaces" for verb in ("list", "create", "patch", "delete")]),
    ("cgpu-controller", ["list pods --all-namespaces", "watch pods --all-namespaces", "list namespaces"]),
    ("cgpu-controller", [f"{verb} configmaps {HERE}" for verb in ("list", "delete")]),
    ("cgpu-webhook", [f"{verb} {TEMPLATES} --all-namespaces" for verb in ("get", "create", "patch")]),
    ("cgpu-webhook", [f"{verb} configmaps {HERE}" for verb in ("get", "create", "update")]),
)


def ack_pod(name: str, *command: str, **resources: str) -> dict[str, Any]:
    """With ``mem`` and ``core`` of ACK's resources."""
    names = {"mem": "aliyun.com/gpu-mem", "core": "aliyun.com/gpu-core.percentage"}
    limits = {names[key]: value for key, value in resources.items()}
    container = {"name": "main", "image": CLIENT, "command": list(command), "resources": {"limits": limits}}
    spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def test_a_pod_runs_inside_its_quota_and_is_refused_beyond_it(installation: Installation):
    manifest = ack_pod("infer", "/client/quota", "fill", mem="3", core="30")
    installation.apply(manifest)
    assert installation.wait_for("infer", "Succeeded", "Failed") == "Succeeded", installation.logs("infer")
    seen = json.loads(installation.logs("infer"))
    assert seen["device_total"] == seen["total"] == seen["nvml_total"] == 3 * GIB
    assert 2 * GIB < seen["held"] < 3 * GIB
    assert seen["refusal"] == OUT_OF_MEMORY
    installation.apply(manifest)  # the same manifest again changes nothing


def test_a_deployments_pods_share_a_template_and_a_card(installation: Installation):
    pod = ack_pod("x", "sleep", "3600", mem="2", core="10")
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {**pod["spec"], "restartPolicy": "Always"}}
    spec = {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}
    installation.apply(deployment)
    try:
        installation.roll_out("deployment/web", "default")
        shares = [
            share
            for worker in installation.cluster.workers
            for row in installation.tenants(worker.name)
            for share in row["shares"]
        ]
        assert [(share["memory_bytes"], share["compute_percent"]) for share in shares] == [(2 * GIB, 10)] * 3
        assert {share["compute_limit_percent"] for share in shares} == {10}
    finally:
        installation.delete("deployment", "web")


def test_a_malformed_amount_is_refused_with_the_reason(installation: Installation):
    text = yaml.safe_dump(ack_pod("odd", "sleep", "1", mem="3", core="33"))
    said = installation.cluster.control_plane.refused("apply", "-f", "-", text_in=text)
    assert "aliyun.com/gpu-core.percentage is 33; it is a multiple of 5" in said


def test_a_pod_that_waits_is_told_which_limit_binds(installation: Installation):
    installation.apply(*(ack_pod(f"big-{number}", "sleep", "3600", mem="10") for number in range(5)))

    def reasons() -> str:
        return installation.kubectl("get", "events", "-o=jsonpath={.items[*].message}")

    eventually(lambda: "asked 10 GiB, largest free share" in reasons(), "the pod is told")


def test_admission_lets_everything_else_through_while_no_webhook_answers(installation: Installation):
    installation.kubectl("scale", "deployment/cgpu-webhook", f"--namespace={NAMESPACE}", "--replicas=0")
    try:
        eventually(
            lambda: (
                not any(
                    item["metadata"]["labels"].get("app.kubernetes.io/component") == "webhook"
                    for item in installation.get("pods", NAMESPACE)
                )
            ),
            "no webhook answers",
        )
        plain = ack_pod("plain", "true")
        installation.apply(plain)
        installation.wait_for("plain", "Succeeded")
        text = yaml.safe_dump(ack_pod("infer", "true", mem="1"))
        assert "cgpu" in installation.cluster.control_plane.refused("apply", "-f", "-", text_in=text)
    finally:
        installation.kubectl("scale", "deployment/cgpu-webhook", f"--namespace={NAMESPACE}", "--replicas=2")
        installation.wait_for_webhook()


@pytest.mark.parametrize(("account", "rights"), RIGHTS)
def test_who_makes_and_collects_templates_may_do_so(installation: Installation, account: str, rights: list[str]):
    user = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
    for right in rights:
        assert installation.kubectl("auth", "can-i", *right.split(), user).strip() == "yes"


def test_who_answers_reviews_deletes_no_template(installation: Installation):
    user = f"--as=system:serviceaccount:{NAMESPACE}:cgpu-webhook"
    installation.cluster.control_plane.refused("auth", "can-i", "delete", TEMPLATES, "--all-namespaces", user)
