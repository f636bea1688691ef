"""Reads what there is of cgpu in a cluster, for the checks of ``installation.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

from cgpu.adapters.kube import Cluster
from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_objects import NODES, PODS, SLICES, Kind
from cgpu.doctor.cluster import GPU_MEMORY
from cgpu.k8s import names
from cgpu.k8s.allocations import picture
from cgpu.k8s.installation import DEFAULT_QPS, Seen, Webhook
from cgpu.k8s.isolation import sharing_of
from cgpu.k8s.offers import parse_slice

Object = Mapping[str, Any]
T = TypeVar("T")
_CLASSES: Final = Kind("/apis/resource.k8s.io/v1", "deviceclasses")
_WEBHOOKS: Final = tuple(
    Kind("/apis/admissionregistration.k8s.io/v1", f"{kind}webhookconfigurations") for kind in ("mutating", "validating")
)
_ENDPOINTS: Final = Kind("/apis/discovery.k8s.io/v1", "endpointslices", namespaced=True)
_PARTS: Final = (
    Kind("/apis/apps/v1", "daemonsets", namespaced=True),
    Kind("/apis/apps/v1", "deployments", namespaced=True),
)
_OURS: Final = "app.kubernetes.io/name=cgpu"
_VERSION: Final = "app.kubernetes.io/version"
_MANAGER: Final = "component=kube-controller-manager"
_QPS: Final = "--kube-api-qps="


def read_installation(cluster: Cluster) -> Seen:
    """What is there. What may not be read is told in ``Seen.missing``. Raises ClusterError."""
    missing: dict[str, str] = {}

    def part(name: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except ApiRefusedError as error:
            if error.status == HTTPStatus.FORBIDDEN:
                missing[name] = error.message
            elif error.status != HTTPStatus.NOT_FOUND:  # of a kind that this server does not have
                raise
            return otherwise

    slices = part("slices", lambda: list(cluster.objects(SLICES, fields=f"spec.driver={names.DRIVER}")), None)
    parsed = (found for item in slices or () if (found := parse_slice(item)) is not None)
    return Seen(
        kubernetes=part("version", cluster.version, ""),
        api=slices is not None,
        device_class=part("device_class", lambda: _has_class(cluster), otherwise=False),
        labelled=part("nodes", lambda: tuple(_labelled(cluster)), ()),
        picture=picture(parsed, ()),
        webhooks=part("webhooks", lambda: tuple(_webhooks(cluster)), ()),
        versions=part("versions", lambda: dict(_versions(cluster)), {}),
        claim_qps=part("claim_qps", lambda: _claim_qps(cluster), None),
        missing=missing,
    )


def _has_class(cluster: Cluster) -> bool:
    return any(item["metadata"]["name"] == names.DEVICE_CLASS for item in cluster.objects(_CLASSES))


def _labelled(cluster: Cluster) -> Iterator[str]:
    """Nodes that ours is to share; where Alibaba's device plugin does it already, the same labels are for that."""
    for node in cluster.objects(NODES):
        theirs = ((node.get("status") or {}).get("capacity") or {}).get(GPU_MEMORY, "0") != "0"
        if not theirs and sharing_of(node["metadata"].get("labels") or {}) is not None:
            yield node["metadata"]["name"]


def _webhooks(cluster: Cluster) -> Iterator[Webhook]:
    ready: dict[str, int] = {}
    for kind in _WEBHOOKS:
        for item in cluster.objects(kind, labels=_OURS):
            for webhook in item.get("webhooks") or ():
                service = webhook["clientConfig"].get("service")
                if service is None:
                    yield Webhook(webhook["name"], "", None)
                    continue
                name = f"{service['namespace']}/{service['name']}"
                if name not in ready:
                    ready[name] = _ready(cluster, service["namespace"], service["name"])
                yield Webhook(webhook["name"], name, ready[name])


def _ready(cluster: Cluster, namespace: str, service: str) -> int:
    slices = cluster.objects(_ENDPOINTS, namespace=namespace, labels=f"kubernetes.io/service-name={service}")
    rows = (row for item in slices for row in item.get("endpoints") or ())
    return sum((row.get("conditions") or {}).get("ready", True) is not False for row in rows)


def _versions(cluster: Cluster) -> Iterator[tuple[str, str]]:
    for kind in _PARTS:
        for item in cluster.objects(kind, labels=_OURS):
            metadata = item["metadata"]
            version = (metadata.get("labels") or {}).get(_VERSION)
            if version:
                yield f"{metadata['namespace']}/{metadata['name']}", version


def _claim_qps(cluster: Cluster) -> int | None:
    """Where the controller manager is a pod, its flags can be read; a provider's cannot."""
    for pod in cluster.objects(PODS, namespace="kube-system", labels=_MANAGER):
        for container in pod["spec"].get("containers") or ():
            words = [*(container.get("command") or ()), *(container.get("args") or ())]
            given = [word.removeprefix(_QPS) for word in words if word.startswith(_QPS)]
            return int(float(given[-1])) if given and given[-1].replace(".", "", 1).isdigit() else DEFAULT_QPS
    return None
