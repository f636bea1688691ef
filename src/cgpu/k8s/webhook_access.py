"""What the webhook's service account may do, and why; no more than that. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cgpu.k8s import names
from cgpu.k8s.webhook_configuration import MUTATING, VALIDATING, Service

Object = dict[str, Any]
_API = "rbac.authorization.k8s.io/v1"


def access(service: Service, secret: str = names.SECRET) -> list[Object]:
    """Roles and their bindings. An empty ``secret``: it makes no certificate of its own."""
    name = service.account
    subject = {"kind": "ServiceAccount", "name": name, "namespace": service.namespace}
    cluster = _CLUSTER + ([_rule("admissionregistration.k8s.io", kind, ("get", "update"), names) for kind, names in (
        ("mutatingwebhookconfigurations", (MUTATING,)),  # to put the authority of its certificate into them
        ("validatingwebhookconfigurations", (VALIDATING,)),
    )] if secret else [])  # fmt: skip
    own = list(_OWN)
    if secret:
        own += [
            _rule("", "secrets", ("get", "update"), (secret,)),
            _rule("", "secrets", ("create",)),  # a name cannot be asked for when something is created
        ]
    in_own = {"name": name, "namespace": service.namespace}
    return [
        {"apiVersion": _API, "kind": "ClusterRole", "metadata": {"name": name}, "rules": cluster},
        _binding("ClusterRole", {"name": name}, subject),
        {"apiVersion": _API, "kind": "Role", "metadata": in_own, "rules": own},
        _binding("Role", in_own, subject),
    ]


def _rule(group: str, resource: str, verbs: Sequence[str], names: Sequence[str] = ()) -> Object:
    rule: Object = {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
    return rule | ({"resourceNames": list(names)} if names else {})


def _binding(role: str, metadata: Object, subject: Object) -> Object:
    return {
        "apiVersion": _API,
        "kind": f"{role}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": metadata["name"]},
        "subjects": [subject],
    }


_CLUSTER = [
    _rule("", "namespaces", ("get", "list", "watch")),  # labels: quota, weight and priority
    _rule("", "resourcequotas", ("list", "watch")),  # those on ACK's resources go on to hold
    _rule("resource.k8s.io", "resourceslices", ("list", "watch")),  # how large the cards are
    # What a namespace has of its quota, and which requests the claims of a pod have.
    _rule("resource.k8s.io", "resourceclaims", ("get", "list", "watch")),
    # Made when a pod needs one, which takes the mark of an unused one away.
    _rule("resource.k8s.io", "resourceclaimtemplates", ("get", "create", "patch")),
]
_OWN = [_rule("", "configmaps", ("get", "create", "update"))]  # reservations of quotas
