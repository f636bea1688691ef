"""The ResourceSlices of a node: what its cards offer, as the API server takes it. Pure.

Fields, limits and rounding: resource.k8s.io/v1 (Kubernetes 1.36 and later; DRAConsumableCapacity).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cgpu.k8s import names
from cgpu.k8s.isolation import Isolation, Placement, Sharing
from cgpu.model.tenant import MAX_TENANTS_PER_GPU, Gpu, Policy
from cgpu.model.units import MIB

Object = Mapping[str, Any]
API: Final = "resource.k8s.io/v1"
DEVICES_PER_SLICE: Final = 64
"""With taints or without; the API server takes 128 where no device has a taint."""

_DRIVER: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,2}")
_NO_LAYER: Final = "none"
_NO_POLICY: Final = Policy.NATIVE.name.lower()
_UUID_DIGITS: Final = 8
_UUID_PREFIX: Final = "GPU-"
_NAME_MAX: Final = 253


@dataclass(frozen=True, slots=True)
class Card:
    """What is published of one card."""

    gpu: Gpu
    memory_bytes: int  # that tenants can have: NVML's total less what the driver keeps for itself
    memory_layer: str  # the strongest that the card has
    policy: str
    tenants_max: int = MAX_TENANTS_PER_GPU
    numa_node: int | None = None
    unhealthy: str = ""  # why no new tenant should come here; a taint's value
    evict: bool = False  # the tenants that are there cannot go on either


@dataclass(frozen=True, slots=True)
class Pool:
    """A node's devices and whom they belong to."""

    node: str
    node_uid: str
    generation: int


def device_name(uuid: str, all_uuids: Iterable[str]) -> str:
    """A name for a card that stays when cards are added, removed or numbered anew.

    The first digits of its UUID, as many as tell it from the others.
    """
    digits = _digits(uuid)
    others = [_digits(other) for other in all_uuids if other != uuid]
    length = _UUID_DIGITS
    while length < len(digits) and any(other[:length] == digits[:length] for other in others):
        length += 1
    return f"gpu-{digits[:length]}"


def devices(cards: Sequence[Card], sharing: Sharing, allocated_bytes: Mapping[str, int]) -> list[Object]:
    """The devices in the order in which the scheduler tries them: it takes the first that fits.

    Args:
        cards: of the node, in NVML's order.
        sharing: what the node's labels ask for.
        allocated_bytes: memory that claims have, by UUID; decides the order where it is to be spread.
    """
    uuids = [card.gpu.uuid for card in cards]

    def filling(card: Card) -> tuple[float, int]:
        return allocated_bytes.get(card.gpu.uuid, 0) / max(card.memory_bytes, 1), card.gpu.index

    ordered = sorted(cards, key=filling) if sharing.placement is Placement.SPREAD else list(cards)
    return [_device(card, sharing.isolation, device_name(card.gpu.uuid, uuids)) for card in ordered]


def slices(pool: Pool, offered: Sequence[Object]) -> list[dict[str, Any]]:
    """The slices of a node, in the scheduler's order of names. A node without devices has one empty slice."""
    parts = [offered[at : at + DEVICES_PER_SLICE] for at in range(0, max(len(offered), 1), DEVICES_PER_SLICE)]
    owner = {"apiVersion": "v1", "kind": "Node", "name": pool.node, "uid": pool.node_uid, "controller": True}
    return [
        {
            "apiVersion": API,
            "kind": "ResourceSlice",
            "metadata": {"name": slice_name(pool.node, number), "ownerReferences": [owner]},
            "spec": {
                "driver": names.DRIVER,
                "nodeName": pool.node,
                "pool": {"name": pool.node, "generation": pool.generation, "resourceSliceCount": len(parts)},
                "devices": list(part),
            },
        }
        for number, part in enumerate(parts)
    ]


def slice_name(node: str, number: int) -> str:
    """The name of a node's slice; slices are tried in the order of their names."""
    name = f"{number}-{names.DRIVER}-{node}"
    if len(name) <= _NAME_MAX:
        return name
    return f"{number}-{names.DRIVER}-{hashlib.sha256(node.encode()).hexdigest()[:32]}"


def dropped_fields(written: Object, read: Object) -> list[str]:
    """Paths of what was sent in a slice's devices and is not in the API server's answer.

    A server whose gate DRAConsumableCapacity is off drops ``allowMultipleAllocations`` and every
    ``requestPolicy`` without a word, and each card then goes to one pod.
    """
    return sorted(set(_missing(written["spec"]["devices"], read["spec"].get("devices") or [], "devices")))


def _missing(sent: Any, kept: Any, path: str) -> Iterable[str]:
    if isinstance(sent, Mapping):
        for key, value in sent.items():
            if not isinstance(kept, Mapping) or key not in kept:
                yield f"{path}.{key}"
            else:
                yield from _missing(value, kept[key], f"{path}.{key}")
    elif isinstance(sent, list):
        for number, value in enumerate(sent):
            if not isinstance(kept, list) or number >= len(kept):
                yield path
            else:
                yield from _missing(value, kept[number], path)


def _digits(uuid: str) -> str:
    return uuid.removeprefix(_UUID_PREFIX).replace("-", "").lower()


def _device(card: Card, isolation: Isolation, name: str) -> dict[str, Any]:
    memory = card.memory_bytes // MIB
    capacity: dict[str, Any] = {
        # Who asks for no memory gets the whole card, as without cgpu.
        names.MEMORY: _range(f"{memory}Mi", "1Mi", f"{memory}Mi", minimum="1Mi"),
        names.SHARES: {"value": str(card.tenants_max), "requestPolicy": {"default": "1", "validValues": ["1"]}},
    }
    if isolation is Isolation.MEMORY_AND_COMPUTE:
        # Who asks for none is promised a slice all the same; so the scheduler has to count it.
        least = str(100 // card.tenants_max)
        capacity[names.COMPUTE] = _range("100", "1", least, minimum=least)
    # Without isolation nothing holds a tenant to its memory, and nothing but the driver divides the time.
    layer, policy = (_NO_LAYER, _NO_POLICY) if isolation is Isolation.NONE else (card.memory_layer, card.policy)
    attributes: dict[str, Any] = {
        names.UUID: {"string": card.gpu.uuid},
        names.INDEX: {"int": card.gpu.index},
        names.PRODUCT: {"string": card.gpu.name},
        **_version(card.gpu.driver_version),
        names.ISOLATION: {"string": isolation.value},
        names.MEMORY_LAYER: {"string": layer},
        names.POLICY: {"string": policy},
        names.SIMULATED: {"bool": card.gpu.simulated},
    }
    if card.numa_node is not None:
        attributes[names.NUMA_NODE] = {"int": card.numa_node}
    device = {"name": name, "allowMultipleAllocations": True, "attributes": attributes, "capacity": capacity}
    if card.unhealthy:
        effect = "NoExecute" if card.evict else "NoSchedule"
        device["taints"] = [{"key": names.UNHEALTHY, "value": card.unhealthy, "effect": effect}]
    return device


def _range(value: str, step: str, default: str, *, minimum: str) -> dict[str, Any]:
    return {"value": value, "requestPolicy": {"default": default, "validRange": {"min": minimum, "step": step}}}


def _version(text: str) -> dict[str, Any]:
    """The driver's version as an attribute; none where what the driver says is no version.

    NVIDIA's "535.54.03" as a semantic version, which has no leading zeros and three parts.
    """
    if _DRIVER.fullmatch(text) is None:
        return {}
    parts = [str(int(part)) for part in text.split(".")]
    return {names.DRIVER_VERSION: {"version": ".".join([*parts, "0", "0"][:3])}}
