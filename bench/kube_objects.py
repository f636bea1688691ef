"""What the benchmark of a cluster puts into it: nodes with cards, and pods of three kinds. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

from cgpu.k8s import names
from cgpu.k8s.isolation import Isolation, Placement, Sharing
from cgpu.k8s.slices import Card, Pool, devices, slices
from cgpu.model.tenant import Gpu
from cgpu.model.units import GIB

Object = dict[str, Any]
MEMORY_GIB: Final = 8
"""Of a pod."""

_CARD_BYTES: Final = 79 * GIB
_WHOLE: Final = "whole.bench.cgpu.dev"
"""Driver and class of cards that nobody shares."""

_TEMPLATE: Final = "bench"
_API: Final = "resource.k8s.io/v1"


class Kind(StrEnum):
    """How pods ask for a card."""

    ACK = "ack"
    """Resources of ACK, through our webhook."""
    CLAIMS = "claims"
    """The same amounts, as a claim's template written by hand; no webhook."""
    WHOLE = "whole"
    """A card for each pod, as a driver offers it that does not share; no webhook."""

    @property
    def has_webhook(self) -> bool:
        """Whether ours is there."""
        return self is Kind.ACK

    @property
    def namespace(self) -> str:
        """Of its pods; the webhook acts in that of its kind alone."""
        return f"bench-{self}"


def node(number: int) -> Object:
    """A node, which kwok makes ready."""
    room = {"cpu": "64", "memory": "512Gi", "pods": "250"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{number:04}", "labels": {"ack.node.gpu.schedule": "core_mem"}},
        "status": {"capacity": room, "allocatable": room},
    }


def cards_of(made: Object, cards: int, kind: Kind) -> Iterator[Object]:
    """The slices of a node that was made."""
    name, uid = made["metadata"]["name"], made["metadata"]["uid"]
    offered = [_card(name, index) for index in range(cards)]
    sharing = Sharing(Isolation.MEMORY_AND_COMPUTE, Placement.BINPACK)
    for item in slices(Pool(name, uid, 1), devices(offered, sharing, {})):
        if kind is Kind.WHOLE:
            item["metadata"]["name"] = f"whole-{item['metadata']['name']}"
            item["spec"] |= {"driver": _WHOLE, "devices": [_unshared(device) for device in item["spec"]["devices"]]}
        yield item


def surroundings(kind: Kind) -> list[tuple[str, Object]]:
    """What has to be there before pods: pairs of the path of its list, and the object."""
    selector = f'device.driver == "{_WHOLE}"' if kind is Kind.WHOLE else f'device.driver == "{names.DRIVER}"'
    spec = {"selectors": [{"cel": {"expression": selector}}]}
    made: Object = {"apiVersion": _API, "kind": "DeviceClass", "metadata": {"name": _class(kind)}, "spec": spec}
    found = [(f"/apis/{_API}/deviceclasses", made)]
    if kind is not Kind.ACK:
        found.append((f"/apis/{_API}/namespaces/{kind.namespace}/resourceclaimtemplates", _template(kind)))
    return found


def pod(number: int, kind: Kind) -> Object:
    """A pod of one container."""
    container: Object = {"name": "main", "image": "docker.io/local/x:1"}
    spec: Object = {"containers": [container], "terminationGracePeriodSeconds": 1}
    if kind is Kind.ACK:
        container["resources"] = {"limits": {"cpu": "100m", names.ACK_MEMORY: str(MEMORY_GIB)}}
    else:
        container["resources"] = {"limits": {"cpu": "100m"}, "claims": [{"name": "gpu"}]}
        spec["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": _TEMPLATE}]
    metadata = {"name": f"{kind}-{number:05}", "namespace": kind.namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _class(kind: Kind) -> str:
    return _WHOLE if kind is Kind.WHOLE else names.DEVICE_CLASS


def _template(kind: Kind) -> Object:
    exactly: Object = {"deviceClassName": _class(kind), "allocationMode": "ExactCount", "count": 1}
    if kind is Kind.CLAIMS:
        exactly["capacity"] = {"requests": {names.MEMORY: f"{MEMORY_GIB}Gi"}}
    spec = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
    metadata = {"name": _TEMPLATE, "namespace": kind.namespace}
    return {"apiVersion": _API, "kind": "ResourceClaimTemplate", "metadata": metadata, "spec": {"spec": spec}}


def _card(name: str, index: int) -> Card:
    identity = uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}/{index}")
    return Card(
        Gpu(
            uuid=f"GPU-{identity}",
            index=index,
            name="NVIDIA H100 80GB HBM3",
            total_bytes=_CARD_BYTES,
            driver_version="580.65.06",
            simulated=True,
        ),
        memory_bytes=_CARD_BYTES,
        memory_layer="shim",
        policy="soft",
    )


def _unshared(device: Object) -> Object:
    capacity = {name: {"value": row["value"]} for name, row in device["capacity"].items()}
    return {"name": device["name"], "attributes": device["attributes"], "capacity": capacity}
