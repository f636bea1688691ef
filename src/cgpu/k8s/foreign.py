"""Whether somebody else manages a node's cards. Pure.

Two that hand out one card would each promise all of it. So ours keeps off a node on which another does, and
comes back when that has gone. What other systems publish: a device plugin's resources stand in the Node's
capacity and allocatable (NVIDIA's device plugin, Alibaba's gpushare), a DRA driver's devices in slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cgpu.doctor.labels import SCHEDULE
from cgpu.k8s import names
from cgpu.k8s.quantity import quantity_value

Object = Mapping[str, Any]
NVIDIA_DRIVER: Final = "gpu.nvidia.com"
"""NVIDIA's DRA driver: its devices on a node are the node's NVIDIA cards, whatever they are called there."""

REMEDY: Final = f"take that away from this node, or leave its GPUs to it by the label {SCHEDULE}=default"

# `nvidia.com/gpu.shared`: what NVIDIA's plugin calls a card that it shares by time (`renameByDefault`).
_RESOURCES: Final = frozenset(
    {
        names.ACK_MEMORY,
        "aliyun.com/gpu",
        "aliyun.com/gpu-count",
        names.ACK_COMPUTE,
        "nvidia.com/gpu",
        "nvidia.com/gpu.shared",
    }
)
_MIG: Final = "nvidia.com/mig-"


@dataclass(frozen=True, slots=True)
class ForeignSlice:
    """Devices of another driver on the node: all that is needed to tell whether they are our cards."""

    driver: str
    words: frozenset[str]  # the text attributes of its devices; UUIDs are among them


def resources_of(node: Object) -> tuple[str, ...]:
    """The resources of a Node by which somebody else hands out its GPUs. Raises AmountError.

    A plugin that has stopped leaves its capacity there until the kubelet takes it away, some minutes later;
    pods of it may run that long and longer, so it counts.
    """
    status = node.get("status") or {}
    amounts = [*(status.get("capacity") or {}).items(), *(status.get("allocatable") or {}).items()]
    found = {name for name, amount in amounts if _hands_out_gpus(name) and quantity_value(str(amount)) > 0}
    return tuple(sorted(found))


def parse_foreign(item: Object) -> ForeignSlice | None:
    """A ResourceSlice of another driver; None where it is ours, or offers nothing."""
    spec = item["spec"]
    devices = spec.get("devices") or ()
    if spec["driver"] == names.DRIVER or not devices:
        return None
    attributes = [value for device in devices for value in (device.get("attributes") or {}).values()]
    return ForeignSlice(spec["driver"], frozenset(str(value["string"]) for value in attributes if "string" in value))


def managed_by(module: str, resources: Iterable[str], slices: Iterable[ForeignSlice], uuids: Iterable[str]) -> str:
    """Who manages the cards, in words that change only when that does; empty: nobody else does.

    Args:
        module: the sign of Alibaba's cGPU on the host, such as ``/proc/cgpu_km``; empty where there is none.
        resources: what ``resources_of`` says of the Node.
        slices: other drivers' of this node.
        uuids: of our cards.
    """
    ours = frozenset(uuids)
    drivers = {one.driver for one in slices if one.driver == NVIDIA_DRIVER or one.words & ours}
    found = [f"Alibaba's cGPU is active ({module})"] if module else []
    found += [f"the Node has the resource {name}" for name in sorted(resources)]
    found += [f"the driver {name} offers them in its ResourceSlices" for name in sorted(drivers)]
    return "; ".join(found)


def _hands_out_gpus(name: str) -> bool:
    return name in _RESOURCES or name.startswith(_MIG)
