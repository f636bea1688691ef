"""Objects of a cluster that shares cards, as the API has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cgpu.k8s.isolation import Isolation, Placement, Sharing
from cgpu.k8s.slices import Card, Pool, device_name, devices, slices
from cgpu.model.tenant import Gpu
from cgpu.model.units import GIB

Json = dict[str, Any]
BOTH = Sharing(Isolation.MEMORY_AND_COMPUTE, Placement.BINPACK)
MEMORY = Sharing(Isolation.MEMORY, Placement.BINPACK)


def uuid(node: str, index: int) -> str:
    return f"GPU-{index:08x}-1111-2222-3333-{sum(node.encode()):012x}"


def device(node: str, index: int) -> str:
    return device_name(uuid(node, index), [])


def slices_of(
    node: str, cards: int = 2, *, gib: int = 15, sharing: Sharing = BOTH, generation: int = 1, **changes: Any
) -> list[Json]:
    """The slices of a node with so many cards; ``changes`` are those of the last card."""
    made = []
    for index in range(cards):
        gpu = Gpu(index, uuid(node, index), "Tesla T4", (gib + 1) * GIB, "535.54.03", simulated=True)
        values = {"memory_bytes": gib * GIB, "memory_layer": "shim", "policy": "soft"}
        made.append(Card(gpu, **{**values, **(changes if index == cards - 1 else {})}))
    return slices(Pool(node, f"uid-{node}", generation), devices(made, sharing, {}))


def claim(
    name: str, *results: Json, requests: Sequence[Json] | None = None, pods: Sequence[str] = (), namespace: str = "team"
) -> Json:
    status: Json = {}
    if results:
        status["allocation"] = {"devices": {"results": list(results)}}
        status["reservedFor"] = [{"resource": "pods", "name": pod, "uid": f"uid-{pod}"} for pod in pods]
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": f"uid-{name}"},
        "spec": {"devices": {"requests": list(requests or [request()])}},
        "status": status,
    }


def request(name: str = "gpu", *, count: int | None = None, memory: str | None = "8Gi", **more: Any) -> Json:
    """A request; ``more`` are further amounts, or fields of it."""
    amounts = {} if memory is None else {"memory": memory}
    amounts |= {key: more.pop(key) for key in ("compute", "shares", "bandwidth") if key in more}
    exactly: Json = {"deviceClassName": "gpu.cgpu.dev", "capacity": {"requests": amounts}, **more}
    if count is not None:
        exactly["count"] = count
    return {"name": name, "exactly": exactly}


def result(node: str, index: int, memory: str = "8Gi", compute: str = "5", name: str = "gpu", **more: Any) -> Json:
    return {
        "driver": "gpu.cgpu.dev",
        "pool": node,
        "request": name,
        "device": device(node, index),
        "consumedCapacity": {"memory": memory, "shares": "1", "compute": compute},
        **more,
    }


def pod(name: str, claims: Mapping[str, str], *, unschedulable: bool = True, **spec: Any) -> Json:
    """A pod without a node; ``claims`` are the names of its claims by those in its spec."""
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}]
    return {
        "metadata": {"namespace": "team", "name": name, "uid": f"uid-{name}"},
        "spec": {
            "resourceClaims": [{"name": key, "resourceClaimTemplateName": "template"} for key in claims],
            "containers": [{"name": "main"}],
            **spec,
        },
        "status": {
            "phase": "Pending",
            "conditions": conditions if unschedulable else [],
            "resourceClaimStatuses": [{"name": key, "resourceClaimName": value} for key, value in claims.items()],
        },
    }


def node(name: str, labels: Mapping[str, str] | None = None, taints: Sequence[Json] = (), **spec: Any) -> Json:
    return {
        "metadata": {"name": name, "labels": {"ack.node.gpu.schedule": "core_mem", **(labels or {})}},
        "spec": {"taints": list(taints), **spec},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": name}]},
    }
