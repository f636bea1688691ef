"""The two webhook configurations, as documents. Pure.

The conditions (CEL) and selectors keep the API server from asking us about anything that is not ours: without a
webhook that answers, pods without ACK's resources, kube-system and our own namespace go on as if we were not there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cgpu.k8s import names
from cgpu.k8s.admission import CLAIMS_PATH, POD_CLAIMS_PATH, PODS_PATH, TEMPLATES_PATH, WORKLOADS_PATH
from cgpu.k8s.claim_check import CLASSES
from cgpu.k8s.ignored_variables import VARIABLE

Object = dict[str, Any]
MUTATING: Final = "cgpu-pods"
VALIDATING: Final = "cgpu-claims"
TIMEOUT_S: Final = 10
_API: Final = "admissionregistration.k8s.io/v1"
_SPARED: Final = ("kube-system", "kube-node-lease", "kube-public")
_WORKLOADS: Final = (
    ("apps", ("deployments", "statefulsets", "daemonsets", "replicasets")),
    ("batch", ("jobs", "cronjobs")),
)


@dataclass(frozen=True, slots=True)
class Service:
    """Where the webhook answers: a Service of its namespace, or (for tests and outside a cluster) an URL."""

    namespace: str
    name: str = "cgpu-webhook"
    port: int = 443
    account: str = "cgpu-webhook"
    """The service account that it has in its namespace: its own templates need no review."""
    url: str = ""
    classes: tuple[str, ...] = CLASSES
    """The DeviceClasses of our cards: claims that name one are reviewed."""


def configurations(service: Service, ca_bundle: bytes = b"") -> tuple[Object, Object]:
    """The mutating and the validating one. Without a bundle: somebody else (cert-manager, ourselves) puts it in."""
    mutating = {
        "apiVersion": _API,
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": MUTATING, "labels": {"app.kubernetes.io/name": "cgpu"}},
        "webhooks": [_pods(service, ca_bundle)],
    }
    validating = {
        "apiVersion": _API,
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": VALIDATING, "labels": {"app.kubernetes.io/name": "cgpu"}},
        "webhooks": [
            _claims(service, ca_bundle),
            _claim_templates(service, ca_bundle),
            _workloads(service, ca_bundle),
            _pod_claims(service, ca_bundle),
        ],
    }
    return mutating, validating


def _pods(service: Service, ca_bundle: bytes) -> Object:
    return {
        **_webhook("pods.cgpu.dev", service, PODS_PATH, ca_bundle),
        "reinvocationPolicy": "IfNeeded",  # another webhook may add a container
        "rules": [_rule("", ("pods",), ("CREATE", "UPDATE"))],
        "objectSelector": {"matchExpressions": [_not_disabled()]},
        "matchConditions": [
            {"name": "asks-for-gpu-memory-or-compute-of-ack", "expression": _asks("object.spec")},
            # A pod that was there before us has the resources still, and keeps them.
            {
                "name": "is-ours-to-translate",
                "expression": f"request.operation == 'CREATE' || !({_asks('oldObject.spec')})",
            },
        ],
    }


def _claims(service: Service, ca_bundle: bytes) -> Object:
    return {
        **_webhook("claims.cgpu.dev", service, CLAIMS_PATH, ca_bundle),
        "rules": [_rule("resource.k8s.io", ("resourceclaims",), ("CREATE",))],
        "matchConditions": [
            {"name": "asks-for-our-cards", "expression": _ours("object.spec.devices", service.classes)}
        ],
    }


def _claim_templates(service: Service, ca_bundle: bytes) -> Object:
    own = f"system:serviceaccount:{service.namespace}:{service.account}"
    return {
        **_webhook("templates.cgpu.dev", service, TEMPLATES_PATH, ca_bundle),
        "rules": [_rule("resource.k8s.io", ("resourceclaimtemplates",), ("CREATE",))],
        "matchConditions": [
            {"name": "is-not-made-by-us", "expression": f"request.userInfo.username != '{own}'"},
            {"name": "asks-for-our-cards", "expression": _ours("object.spec.spec.devices", service.classes)},
        ],
    }


def _workloads(service: Service, ca_bundle: bytes) -> Object:
    template = "object.spec.template.spec"
    job = "object.spec.jobTemplate.spec.template.spec"
    return {
        **_webhook("workloads.cgpu.dev", service, WORKLOADS_PATH, ca_bundle),
        "failurePolicy": "Ignore",  # it only warns
        "sideEffects": "None",
        "timeoutSeconds": 3,
        "rules": [_rule(group, kinds, ("CREATE", "UPDATE")) for group, kinds in _WORKLOADS],
        "matchConditions": [
            {
                "name": "its-pods-ask-for-gpu-memory-or-compute-of-ack",
                "expression": f"has(object.spec.template) ? ({_asks(template)})"
                f" : has(object.spec.jobTemplate) && ({_asks(job)})",
            }
        ],
    }


def _pod_claims(service: Service, ca_bundle: bytes) -> Object:
    many = "size(c.resources.claims) > 1 || c.resources.claims.exists(k, has(k.request))"
    disabling = f"(has(c.env) && c.env.exists(e, e.name == '{VARIABLE}'))"
    has = f"has(c.resources) && has(c.resources.claims) && ({many} || {disabling})"
    return {
        **_webhook("pod-claims.cgpu.dev", service, POD_CLAIMS_PATH, ca_bundle),
        # The node refuses what this would; pods with other drivers' claims must not wait for us.
        "failurePolicy": "Ignore",
        "sideEffects": "None",
        "timeoutSeconds": 3,
        "rules": [_rule("", ("pods",), ("CREATE",))],
        "matchConditions": [
            {
                "name": "a-container-may-have-two-shares-or-disables-its-own",
                "expression": f"object.spec.containers.exists(c, {has})"
                f" || (has(object.spec.initContainers) && object.spec.initContainers.exists(c, {has}))",
            }
        ],
    }


def _webhook(name: str, service: Service, path: str, ca_bundle: bytes) -> Object:
    client: Object = {
        "service": {"namespace": service.namespace, "name": service.name, "port": service.port, "path": path}
    }
    if service.url:
        client = {"url": service.url + path}
    if ca_bundle:
        client["caBundle"] = base64.b64encode(ca_bundle).decode()
    spared = {
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": [*_SPARED, service.namespace],
    }
    return {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "clientConfig": client,
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        "sideEffects": "NoneOnDryRun",
        "timeoutSeconds": TIMEOUT_S,
        "namespaceSelector": {"matchExpressions": [spared, *([_not_disabled()] if path == PODS_PATH else [])]},
    }


def _not_disabled() -> Mapping[str, Any]:
    return {"key": names.ADMISSION, "operator": "NotIn", "values": ["disabled"]}


def _rule(group: str, kinds: Sequence[str], operations: Sequence[str]) -> Object:
    return {
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "resources": list(kinds),
        "operations": list(operations),
        "scope": "Namespaced",
    }


def _asks(spec: str) -> str:
    """CEL: a container of the pod has one of ACK's resources."""
    memory, compute = names.ACK_MEMORY, names.ACK_COMPUTE
    parts = [
        f"(has(c.resources.{part}) && ('{memory}' in c.resources.{part} || '{compute}' in c.resources.{part}))"
        for part in ("limits", "requests")
    ]
    has = f"has(c.resources) && ({' || '.join(parts)})"
    return (
        f"{spec}.containers.exists(c, {has}) || (has({spec}.initContainers) && {spec}.initContainers.exists(c, {has}))"
    )


def _ours(devices: str, names_of_classes: Sequence[str]) -> str:
    """CEL: a request names a class of ours."""
    classes = json.dumps(list(names_of_classes))
    return (
        f"has({devices}.requests) && {devices}.requests.exists(r,"
        f" (has(r.exactly) && r.exactly.deviceClassName in {classes})"
        f" || (has(r.firstAvailable) && r.firstAvailable.exists(o, o.deviceClassName in {classes})))"
    )
