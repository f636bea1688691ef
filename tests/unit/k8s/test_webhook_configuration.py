from __future__ import annotations

import base64
from typing import Any

from cgpu.k8s.webhook_configuration import Service, configurations


def webhooks() -> list[dict[str, Any]]:
    return [webhook for document in configurations(Service("cgpu-system"), b"pem") for webhook in document["webhooks"]]


def test_kube_system_and_our_own_namespace_are_never_asked_about():
    for webhook in webhooks():
        spared = webhook["namespaceSelector"]["matchExpressions"][0]
        assert spared["operator"] == "NotIn"
        assert {"kube-system", "cgpu-system"} <= set(spared["values"])


def test_what_fails_closed_is_only_asked_about_what_is_ours():
    for webhook in webhooks():
        assert webhook["matchConditions"]
        only_tells = webhook["name"] in ("workloads.cgpu.dev", "pod-claims.cgpu.dev")
        assert webhook["failurePolicy"] == ("Ignore" if only_tells else "Fail")
        assert webhook["clientConfig"]["caBundle"] == base64.b64encode(b"pem").decode()


def test_without_a_bundle_there_is_none():
    mutating, _ = configurations(Service("cgpu-system"))
    assert "caBundle" not in mutating["webhooks"][0]["clientConfig"]


def test_claims_of_all_classes_of_ours_are_reviewed():
    _, validating = configurations(Service("cgpu-system", classes=("gpu.cgpu.dev", "t4")))
    condition = validating["webhooks"][0]["matchConditions"][0]["expression"]
    assert 'r.exactly.deviceClassName in ["gpu.cgpu.dev", "t4"]' in condition
