"""ResourceClaimTemplates named by what they say, so that all pods with the same amounts use the same one. Pure."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cgpu.errors import ClaimError
from cgpu.k8s import names

Object = Mapping[str, Any]
API: Final = "resource.k8s.io/v1"
REQUEST: Final = "gpu"
"""The name of the one request of a template."""

ALTERNATIVES_MAX: Final = 8
"""Of one request (``firstAvailable``), by the API server."""

_GIB_MIB: Final = 1024
_DIGEST: Final = 10
_AMOUNTS: Final = re.compile(r"cgpu-[mp][0-9]+(?:-c[0-9]+)?-n[0-9]+(?=-)")
_NAME: Final = re.compile(
    r"cgpu-([mp])([0-9]{1,9})(?:-c([0-9]{1,3}))?-n([0-9]{1,2})(?:-w([0-9]{1,4}))?(-high)?-[0-9a-f]{10}"
)
# Fields that change what a template means, by the API of Kubernetes 1.37. One of them beside ours is another
# content; a field that a later server fills in by itself is not.
_MEANING: Final = frozenset(
    {
        "selectors",
        "tolerations",
        "adminAccess",
        "capacity",
        "constraints",
        "config",
        "firstAvailable",
        "exactly",
        "spec",
    }
)


@dataclass(frozen=True, slots=True)
class Share:
    """What the containers that use a claim have of each card."""

    memory_mib: int
    compute_percent: int | None = None
    cards: int = 1
    weight: int = 1
    high_priority: bool = False
    card_sizes_mib: tuple[int, ...] = ()
    """Not empty: the memory is a part of these cards as ACK counts it, of n where a card has n whole GiB."""

    @property
    def amounts(self) -> str:
        """What the template's name begins with."""
        unit = "p" if self.card_sizes_mib else "m"
        parts = [f"cgpu-{unit}{self.memory_mib}", f"n{self.cards}"]
        if self.compute_percent is not None:
            parts.insert(1, f"c{self.compute_percent}")
        return "-".join(parts)


def proportional_mib(card_mib: int, memory_mib: int) -> int:
    """The memory that ACK gives for so many MiB of a card.

    A card of 15079 MiB is offered as 14 GiB, and each of them is a 14th of it. All GiB that a card is
    offered as together are never more than the card.
    """
    whole = card_mib // _GIB_MIB * _GIB_MIB
    return card_mib * memory_mib // whole


def fitting_sizes(sizes_mib: Sequence[int], memory_mib: int) -> tuple[int, ...]:
    """Of all cards' sizes, those of cards that are offered as so much or more; the smallest first."""
    fitting = sorted({size for size in sizes_mib if size // _GIB_MIB * _GIB_MIB >= memory_mib})
    return tuple(fitting[:ALTERNATIVES_MAX])


def name_of(share: Share) -> str:
    """The name of the share's template: its amounts, and a digest of all that it says."""
    canonical = json.dumps(_spec(share), sort_keys=True, separators=(",", ":")).encode()
    weight = f"-w{share.weight}" if share.weight != 1 else ""
    priority = "-high" if share.high_priority else ""
    return f"{share.amounts}{weight}{priority}-{hashlib.sha256(canonical).hexdigest()[:_DIGEST]}"


def has_amounts_of(name: str, share: Share) -> bool:
    """Whether the template of that name gives as much as the share asks for.

    How many MiB that is may differ: it is another part of a card when other cards have come, or the
    administrator has chosen the other way of counting. Weight and priority are no amounts.
    """
    match = _AMOUNTS.match(name)
    return match is not None and _counted(match[0]) == _counted(share.amounts)


def _counted(amounts: str) -> str:
    return amounts.replace("cgpu-p", "cgpu-m", 1)


def template(share: Share, namespace: str) -> dict[str, Any]:
    """The share's template."""
    return {
        "apiVersion": API,
        "kind": "ResourceClaimTemplate",
        "metadata": {
            "name": name_of(share),
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "cgpu", names.TEMPLATE: names.TEMPLATE_OF_ACK},
        },
        "spec": {"spec": _spec(share)},
    }


def share_named(name: str, sizes_mib: Sequence[int] = ()) -> Share | None:
    """The share whose template has that name; None: it is not one of ours, or tells too little.

    What a proportional share's template says depends on the cluster's cards. The name's digest tells which they were,
    where they are among those that there are now, ``sizes_mib``.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    unit, memory, compute, cards, weight, high = match.groups()
    share = Share(int(memory), int(compute) if compute else None, int(cards), int(weight or 1), bool(high))
    if unit == "p":
        return next((one for one in _proportional(share, sizes_mib) if name_of(one) == name), None)
    return share if name_of(share) == name else None


def _proportional(share: Share, sizes_mib: Sequence[int]) -> Iterator[Share]:
    """The share on all cards that could give it, then on some of them: others may have come since it was named."""
    fitting = fitting_sizes(sizes_mib, share.memory_mib)
    for count in range(len(fitting), 0, -1):
        for sizes in itertools.combinations(fitting, count):
            yield replace(share, card_sizes_mib=sizes)


def may_be_ours(name: str) -> bool:
    """Whether a template's name has the form of those that we make; ours have no other."""
    return _NAME.fullmatch(name) is not None


def has_form_of_ours(name: str) -> bool:
    """Whether a template's name says that it is one of ours with exact amounts."""
    match = _NAME.fullmatch(name)
    return match is not None and match[1] == "m"


def check_content(wanted: Object, found: Object) -> None:
    """Whether what is there under a template's name is that template.

    Raises ClaimError: somebody has made another of that name, or the API server has dropped what it does
    not know.
    """
    if _same(wanted["spec"], found.get("spec") or {}):
        return
    where = f"ResourceClaimTemplate {wanted['metadata']['namespace']}/{wanted['metadata']['name']}"
    if "capacity" not in json.dumps(found.get("spec")):
        raise ClaimError(
            f"{where} has no amounts: the API server's gate DRAConsumableCapacity is off",
            "switch it on (API server, scheduler, kubelet), or run Kubernetes 1.36 or later; then delete the template",
        )
    raise ClaimError(f"{where} is not what its name says", "delete it; it is made anew when a pod needs it")


def _same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, Mapping):
        if not isinstance(found, Mapping) or any(found[key] for key in (found.keys() - wanted.keys()) & _MEANING):
            return False
        return all(key in found and _same(value, found[key]) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(_same, wanted, found))
    return bool(wanted == found)


def _spec(share: Share) -> dict[str, Any]:
    if share.card_sizes_mib:
        request: dict[str, Any] = {"firstAvailable": [_alternative(share, size) for size in share.card_sizes_mib]}
    else:
        request = {"exactly": _exactly(share, share.memory_mib)}
    devices: dict[str, Any] = {"requests": [{"name": REQUEST, **request}]}
    parameters: dict[str, Any] = {}
    if share.weight != 1:
        parameters["weight"] = share.weight
    if share.high_priority:
        parameters["priority"] = 1
    if parameters:
        head = {"apiVersion": names.PARAMETERS_VERSION, "kind": names.PARAMETERS_KIND}
        opaque = {"driver": names.DRIVER, "parameters": head | parameters}
        devices["config"] = [{"requests": [REQUEST], "opaque": opaque}]
    return {"devices": devices}


def _exactly(share: Share, memory_mib: int) -> dict[str, Any]:
    amounts = {names.MEMORY: _quantity(memory_mib)}
    if share.compute_percent is not None:
        amounts[names.COMPUTE] = str(share.compute_percent)
    return {
        "deviceClassName": names.DEVICE_CLASS,
        "allocationMode": "ExactCount",
        "count": share.cards,
        "capacity": {"requests": amounts},
    }


def _alternative(share: Share, size_mib: int) -> dict[str, Any]:
    memory = f'device.capacity["{names.DRIVER}"].{names.MEMORY}'
    expression = f'{memory}.compareTo(quantity("{size_mib}Mi")) == 0'
    return {
        "name": f"card-{size_mib}mib",
        **_exactly(share, proportional_mib(size_mib, share.memory_mib)),
        "selectors": [{"cel": {"expression": expression}}],
    }


def _quantity(mib: int) -> str:
    """In the API server's own form, which it would otherwise make of it."""
    return f"{mib // _GIB_MIB}Gi" if mib % _GIB_MIB == 0 else f"{mib}Mi"
