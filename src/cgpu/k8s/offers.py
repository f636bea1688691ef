"""What ResourceSlices of ours offer, read back from the API: cards, and how requests for them are rounded. Pure.

Rounding and defaults: resource.k8s.io/v1 (CapacityRequestPolicy) as the scheduler's allocator applies them.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cgpu.errors import AmountError
from cgpu.k8s import names
from cgpu.k8s.quantity import parse_quantity, quantity_value
from cgpu.model.units import MIB

Object = Mapping[str, Any]
_DOMAIN: Final = f"{names.DRIVER}/"


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much a card has of something, and what a request for it takes."""

    total: int
    default: int  # of a request that does not name it
    minimum: int = 0
    maximum: int | None = None
    step: int = 1
    values: tuple[int, ...] = ()  # ascending; where there are any, a request takes one of them

    def taken(self, asked: int | None) -> int | None:
        """What a request takes that asks for so much, or does not say; None: no card of this kind may serve it."""
        if asked is None:
            return self.default
        if self.values:
            place = bisect.bisect_left(self.values, asked)
            return self.values[place] if place < len(self.values) else None
        if asked <= self.minimum:
            return self.minimum
        rounded = self.minimum + -(-(asked - self.minimum) // self.step) * self.step
        most = self.total if self.maximum is None else min(self.maximum, self.total)
        return rounded if rounded <= most else None


@dataclass(frozen=True, slots=True)
class Taint:
    """Why a card, or a node, takes nobody who does not tolerate it."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Toleration:
    """What a request, or a pod, puts up with (Kubernetes API: Toleration, DeviceToleration)."""

    key: str
    operator: str
    value: str
    effect: str

    def tolerates(self, taint: Taint) -> bool:
        """Whether this taint is put up with."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        # An operator of a later release may tolerate it: then nobody is told that it does not.
        return self.operator != "Equal" or self.value == taint.value


@dataclass(frozen=True, slots=True)
class OfferedCard:
    """A device of a slice."""

    device: str
    index: int | None  # NVML's
    uuid: str
    product: str
    isolation: str
    memory_layer: str
    policy: str
    simulated: bool
    capacities: Mapping[str, Capacity]  # by short names
    taints: tuple[Taint, ...] = ()
    shared: bool = True  # False: the API server dropped what makes it so, and it goes to one claim alone

    def total(self, name: str) -> int:
        """How much it has; 0 of what it does not have."""
        capacity = self.capacities.get(name)
        return capacity.total if capacity else 0


@dataclass(frozen=True, slots=True)
class OfferedSlice:
    """A slice of ours."""

    node: str
    pool: str
    generation: int
    slices: int  # that the pool has in this generation
    name: str
    cards: tuple[OfferedCard, ...]


def parse_slice(item: Object) -> OfferedSlice | None:
    """A ResourceSlice; None where it is another driver's. Raises AmountError."""
    spec = item["spec"]
    if spec["driver"] != names.DRIVER:
        return None
    pool = spec["pool"]
    return OfferedSlice(
        node=sys.intern(spec.get("nodeName") or pool["name"]),
        pool=sys.intern(pool["name"]),
        generation=pool["generation"],
        slices=pool["resourceSliceCount"],
        name=item["metadata"]["name"],
        cards=tuple(_card(device) for device in spec.get("devices") or ()),
    )


def card_sizes_mib(item: Object) -> tuple[int, ...]:
    """How large the cards of a ResourceSlice of ours are, each size once."""
    found = set()
    for device in item["spec"].get("devices") or ():
        amount = (device.get("capacity") or {}).get(names.MEMORY, {}).get("value", "0")
        with contextlib.suppress(AmountError):  # not from an agent of ours: no card to be named
            found.add(parse_quantity(str(amount)) // MIB)
    return tuple(found - {0})


def parse_taints(rows: Iterable[Object] | None) -> tuple[Taint, ...]:
    """Taints of a device or a Node that keep pods away."""
    found = (Taint(row["key"], row.get("value") or "", row["effect"]) for row in rows or ())
    return tuple(taint for taint in found if taint.effect in ("NoSchedule", "NoExecute"))


def parse_tolerations(rows: Iterable[Object] | None) -> tuple[Toleration, ...]:
    """Tolerations of a request or a pod."""
    return tuple(_toleration(row) for row in rows or ())


def kept_away(taints: Sequence[Taint], tolerations: Sequence[Toleration]) -> Taint | None:
    """The first taint that none of these tolerates."""
    return next((taint for taint in taints if not any(one.tolerates(taint) for one in tolerations)), None)


def short(name: str) -> str:
    """An attribute's or capacity's name without our domain: the API server may say it with and without."""
    return sys.intern(name.removeprefix(_DOMAIN))


def _card(device: Object) -> OfferedCard:
    attributes = {short(name): next(iter(value.values())) for name, value in (device.get("attributes") or {}).items()}

    def text(name: str) -> str:
        return sys.intern(str(attributes.get(name, "")))

    return OfferedCard(
        device=device["name"],
        index=attributes.get(names.INDEX),
        uuid=str(attributes.get(names.UUID, "")),
        product=text(names.PRODUCT),
        isolation=text(names.ISOLATION),
        memory_layer=text(names.MEMORY_LAYER),
        policy=text(names.POLICY),
        simulated=bool(attributes.get(names.SIMULATED, False)),
        capacities=_capacities(tuple(_terms(device.get("capacity") or {}))),
        taints=parse_taints(device.get("taints")),
        shared=bool(device.get("allowMultipleAllocations")),
    )


def _toleration(row: Object) -> Toleration:
    operator = row.get("operator") or "Equal"
    return Toleration(row.get("key") or "", operator, row.get("value") or "", row.get("effect") or "")


def _terms(capacities: Object) -> Iterable[tuple[Any, ...]]:
    for name, row in capacities.items():
        policy = row.get("requestPolicy") or {}
        range_ = policy.get("validRange") or {}
        yield (
            short(name), row["value"], policy.get("default"), range_.get("min"), range_.get("max"), range_.get("step"),
            tuple(policy.get("validValues") or ()),
        )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _capacities(terms: tuple[tuple[Any, ...], ...]) -> Mapping[str, Capacity]:
    """Cards of a kind have the same: one object stands for all of them."""
    return {name: _capacity(*rest) for name, *rest in terms}


def _capacity(
    value: str, default: str | None, low: str | None, high: str | None, step: str | None, values: Sequence[str]
) -> Capacity:
    total = quantity_value(value)
    return Capacity(
        total=total,
        default=total if default is None else quantity_value(default),
        minimum=0 if low is None else quantity_value(low),
        maximum=None if high is None else quantity_value(high),
        step=1 if step is None else max(quantity_value(step), 1),
        values=tuple(quantity_value(one) for one in values),
    )
