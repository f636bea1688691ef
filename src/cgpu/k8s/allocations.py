"""Who has how much of which card: ResourceSlices and ResourceClaims put together. Pure.

A claim's own words count, as they do for the scheduler: what a claim has consumed is gone from the card,
whether or not a pod runs on it yet.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cgpu.k8s import names
from cgpu.k8s.offers import OfferedCard, OfferedSlice, short
from cgpu.k8s.quantity import quantity_value

Object = Mapping[str, Any]
_NOTHING: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Use:
    """What one request of a claim has of one card."""

    namespace: str
    claim: str
    request: str
    pool: str
    device: str
    amounts: Mapping[str, int]  # by short names of capacities; empty where the API server has dropped them
    pods: tuple[str, ...]  # that use the claim; empty: it is allocated, and nobody uses it

    @property
    def memory_bytes(self) -> int:
        """GPU memory."""
        return self.amounts.get(names.MEMORY, 0)


def parse_uses(claim: Object) -> tuple[Use, ...]:
    """What a ResourceClaim has of our cards; empty where it is not allocated. Raises AmountError."""
    status = claim.get("status") or {}
    results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or ()
    ours = [row for row in results if row["driver"] == names.DRIVER and not row.get("adminAccess")]
    if not ours:
        return ()
    metadata = claim["metadata"]
    pods = tuple(row["name"] for row in status.get("reservedFor") or () if row["resource"] == "pods")
    return tuple(
        Use(
            namespace=sys.intern(metadata["namespace"]),
            claim=metadata["name"],
            request=sys.intern(row["request"]),
            pool=sys.intern(row["pool"]),
            device=row["device"],
            amounts=_amounts(row.get("consumedCapacity")),
            pods=pods,
        )
        for row in ours
    )


def _amounts(consumed: Object | None) -> Mapping[str, int]:
    if not consumed:
        return _NOTHING
    return {short(name): quantity_value(str(value)) for name, value in consumed.items()}


@dataclass(slots=True)
class CardUse:
    """A card and what claims have of it."""

    card: OfferedCard
    uses: list[Use] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)

    def add(self, use: Use) -> None:
        """Count one more. A use without amounts has the whole card."""
        self.uses.append(use)
        amounts = use.amounts or {name: capacity.total for name, capacity in self.card.capacities.items()}
        for name, amount in amounts.items():
            self.used[name] = self.used.get(name, 0) + amount

    def free(self, name: str) -> int:
        """What is left of a capacity; never below 0, although a card may have been given away before it shrank."""
        if not self.card.shared and self.uses:
            return 0
        return max(self.card.total(name) - self.used.get(name, 0), 0)

    @property
    def label(self) -> str:
        """What people call it on its node."""
        return self.card.device if self.card.index is None else f"gpu-{self.card.index}"


@dataclass(slots=True)
class NodeUse:
    """A node's cards, in the order in which the scheduler tries them."""

    name: str
    complete: bool  # the scheduler takes none of a pool whose slices are not all there
    cards: list[CardUse] = field(default_factory=list)
    missing: list[Use] = field(default_factory=list)  # of devices that the node does not offer (any more)

    def by_index(self) -> list[CardUse]:
        """The cards as NVML counts them."""
        return sorted(self.cards, key=lambda one: (one.card.index is None, one.card.index or 0, one.card.device))

    def total(self, name: str) -> int:
        """How much its cards have together."""
        return sum(one.card.total(name) for one in self.cards)

    def used(self, name: str) -> int:
        """How much of its cards claims have."""
        return sum(one.used.get(name, 0) for one in self.cards)

    def missing_bytes(self) -> int:
        """Memory of claims whose devices it does not offer."""
        return sum(use.memory_bytes for use in self.missing)


@dataclass(slots=True)
class Picture:
    """The cluster's shared cards."""

    nodes: dict[str, NodeUse]  # by name, in the order of names

    def total(self, name: str) -> int:
        """Of a capacity, all cards."""
        return sum(node.total(name) for node in self.nodes.values())

    def used(self, name: str) -> int:
        """Of a capacity, all cards."""
        return sum(node.used(name) for node in self.nodes.values())


def picture(slices: Iterable[OfferedSlice], uses: Iterable[Use]) -> Picture:
    """Put together. A device that no slice offers is named at its node (a pool of ours has its node's name)."""
    nodes: dict[str, NodeUse] = {}
    by_device: dict[tuple[str, str], CardUse] = {}
    node_of_pool: dict[str, str] = {}
    for pool, parts in sorted(_newest(slices).items(), key=lambda item: item[1][0].node):
        name = node_of_pool[pool] = parts[0].node
        node = nodes.setdefault(name, NodeUse(name, complete=True))
        node.complete = node.complete and len(parts) == parts[0].slices
        for part in parts:
            for card in part.cards:
                by_device[pool, card.device] = added = CardUse(card)
                node.cards.append(added)
    for use in uses:
        found = by_device.get((use.pool, use.device))
        if found is not None:
            found.add(use)
            continue
        name = node_of_pool.get(use.pool, use.pool)
        nodes.setdefault(name, NodeUse(name, complete=False)).missing.append(use)
    return Picture(dict(sorted(nodes.items())))


def _newest(slices: Iterable[OfferedSlice]) -> dict[str, list[OfferedSlice]]:
    """The slices of each pool's newest generation, in the order of their names; older ones do not count."""
    pools: dict[str, list[OfferedSlice]] = {}
    for one in slices:
        known = pools.get(one.pool)
        if known is None or one.generation > known[0].generation:
            pools[one.pool] = [one]
        elif one.generation == known[0].generation:
            known.append(one)
    return {pool: sorted(parts, key=lambda part: part.name) for pool, parts in pools.items()}


def by_users(uses: Sequence[Use]) -> dict[tuple[str, tuple[str, ...], str], list[Use]]:
    """Grouped by (namespace, pods, claim): claims of the same pods are one group, and its claim is empty.

    A claim that several pods share is one tenant, and so stands in one group with all of them. One
    that nobody uses is a group of its own.
    """
    groups: dict[tuple[str, tuple[str, ...], str], list[Use]] = {}
    for use in uses:
        groups.setdefault((use.namespace, use.pods, "" if use.pods else use.claim), []).append(use)
    return dict(sorted(groups.items()))
