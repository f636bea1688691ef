"""What an allocated ResourceClaim gives to whom on this node. Pure.

A container has one region, and so is in one tenant. Where containers name a request of the claim each, a tenant
is made for every request; where they use the claim as a whole, one for all of it. A tenant has a share of each of its
cards, as large as all that was given of the card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cgpu.errors import ClaimError
from cgpu.k8s import names
from cgpu.k8s.quantity import parse_quantity
from cgpu.model.container import CLAIM_TENANT_PREFIX
from cgpu.model.tenant import Share
from cgpu.model.units import COMPUTE_PERCENT_MAX, WEIGHT_MAX

Object = Mapping[str, Any]
_BOUNDS: Final = {"weight": (1, WEIGHT_MAX), "priority": (0, 1), "computeLimitPercent": (1, 100)}
WHOLE: Final = "all"
"""The key of the part that is a whole claim of several requests."""


@dataclass(frozen=True, slots=True)
class CardShare:
    """A part of one card."""

    device: str  # its name in the slice
    share_id: str
    memory_bytes: int
    compute_percent: int | None  # None: the node does not divide it


@dataclass(frozen=True, slots=True)
class RequestShare:
    """What one request of a claim has on this node: one tenant."""

    request: str  # as containers name it; of `firstAvailable`, "request/alternative"
    pool: str
    cards: tuple[CardShare, ...]
    weight: int = 1  # 1..1000
    priority: int = 0  # 0 normal, 1 high
    compute_limit_percent: int | None = None
    asks_compute: bool = False  # else its percentage is the device's default

    @property
    def base(self) -> str:
        """The request's own name, whichever of its alternatives was chosen: what containers name."""
        return self.request.partition("/")[0]

    def limit_percent(self, card: CardShare) -> int | None:
        """Of a card's time. Who asks for compute has that and no more, as on ACK; its parameters may say otherwise."""
        if self.compute_limit_percent is not None:
            return self.compute_limit_percent
        return card.compute_percent if self.asks_compute else None


@dataclass(frozen=True, slots=True)
class Part:
    """What of a claim is one tenant."""

    key: str  # the end of its names
    requests: tuple[RequestShare, ...]

    def on_cards(self) -> Mapping[str, Share]:
        """By the devices' names, in their order; the shares name devices in place of cards.

        What two requests have of one card is one share, as large as both.
        """
        found: dict[str, Share] = {}
        for request in self.requests:
            for card in request.cards:
                share = Share(
                    gpu_uuid=card.device,
                    memory_bytes=card.memory_bytes,
                    compute_percent=card.compute_percent,
                    compute_limit_percent=request.limit_percent(card),
                    weight=request.weight,
                    priority=request.priority,
                )
                known = found.get(card.device)
                found[card.device] = share if known is None else _together(known, share)
        return found


def _together(one: Share, other: Share) -> Share:
    limits = one.compute_limit_percent, other.compute_limit_percent
    return replace(
        one,
        memory_bytes=one.memory_bytes + other.memory_bytes,
        compute_percent=(one.compute_percent or 0) + (other.compute_percent or 0) or None,
        compute_limit_percent=None if None in limits else min(sum(filter(None, limits)), COMPUTE_PERCENT_MAX),
        weight=max(one.weight, other.weight),
        priority=max(one.priority, other.priority),
    )


@dataclass(frozen=True, slots=True)
class ClaimShares:
    """All of a claim that is ours."""

    namespace: str
    name: str
    uid: str
    requests: tuple[RequestShare, ...] = ()

    def parts(self, *, whole: bool) -> tuple[Part, ...]:
        """What becomes a tenant each: the requests, or, where containers use the claim as a whole, all of it."""
        if whole and len(self.requests) > 1:
            return (Part(WHOLE, self.requests),)
        return tuple(Part(str(number), (request,)) for number, request in enumerate(self.requests))

    def tenant_id(self, part: Part) -> str:
        """The part's tenant."""
        return f"{tenant_prefix(self.uid)}{part.key}"

    def tenant_name(self, part: Part) -> str:
        """What people call it: the claim, and where its requests have a tenant each, the request."""
        name = f"{self.namespace}/{self.name}"
        return name if len(part.requests) == len(self.requests) else f"{name}/{part.requests[0].base}"

    def cdi_name(self, part: Part) -> str:
        """The part's CDI device; made of the claim's uid, so that no name comes twice."""
        return f"{self.uid}-{part.key}"


def tenant_prefix(uid: str) -> str:
    """What the ids of all tenants of a claim begin with."""
    return f"{CLAIM_TENANT_PREFIX}{uid}-"


def shares_of(claim: Object, uid: str) -> ClaimShares:
    """What the claim gives. ``uid`` is the one that the kubelet asks for.

    Raises ClaimError: the claim was replaced by another of its name, is not allocated, or its parameters
    cannot be used. Raises AmountError.
    """
    metadata = claim["metadata"]
    where = f"claim {metadata['namespace']}/{metadata['name']}"
    if metadata["uid"] != uid:
        raise ClaimError(
            f"{where} was replaced: its uid is {metadata['uid']}, not {uid}", "the pod has to be made anew"
        )
    allocation = claim.get("status", {}).get("allocation")
    if not allocation:
        raise ClaimError(f"{where} is not allocated", "the scheduler allocates it when it places a pod that uses it")
    ours = [row for row in allocation["devices"].get("results", ()) if row["driver"] == names.DRIVER]
    configured = allocation["devices"].get("config", ())
    requests = []
    for request in dict.fromkeys(row["request"] for row in ours):
        rows = [row for row in ours if row["request"] == request]
        cards = tuple(_card(row, where) for row in rows)
        parameters = parameters_of(configured, request, where)
        asks = _asks_compute(claim, request)
        requests.append(RequestShare(request, rows[0]["pool"], cards, asks_compute=asks, **parameters))
    return ClaimShares(metadata["namespace"], metadata["name"], uid, tuple(requests))


def _card(row: Object, where: str) -> CardShare:
    amounts = _plain(row.get("consumedCapacity") or {})
    if names.MEMORY not in amounts:
        raise ClaimError(
            f"{where}: device {row['device']} was allocated without an amount of memory",
            "switch on the gate DRAConsumableCapacity (Kubernetes 1.36 has it on), then make the pod anew",
        )
    return CardShare(
        device=row["device"],
        share_id=row.get("shareID", ""),
        memory_bytes=parse_quantity(amounts[names.MEMORY]),
        compute_percent=parse_quantity(amounts.get(names.COMPUTE, "0")) or None,
    )


def _asks_compute(claim: Object, request: str) -> bool:
    """Whether the request, or the alternative of it that was chosen, names an amount of compute."""
    name, _, alternative = request.partition("/")
    for row in claim["spec"]["devices"]["requests"]:
        if row["name"] != name:
            continue
        options = row.get("firstAvailable") or ()
        exactly = next((one for one in options if one["name"] == alternative), row.get("exactly") or {})
        return names.COMPUTE in _plain((exactly.get("capacity") or {}).get("requests") or {})
    return False


def _plain(consumed: Object) -> dict[str, str]:
    """Capacities by their short names: the API server may say them with the driver's domain."""
    return {name.removeprefix(f"{names.DRIVER}/"): str(value) for name, value in consumed.items()}


def parameters_of(configured: Sequence[Object], request: str, where: str) -> dict[str, Any]:
    """What the class's and the claim's opaque parameters say about a request; later entries win.

    The keys are those of RequestShare. ``where`` names the claim in the ClaimError that is raised for what
    cannot be used.
    """
    found: dict[str, Any] = {}
    for entry in _entries(configured, request):
        head = entry.get("apiVersion"), entry.get("kind")
        unknown = sorted(set(entry) - {"apiVersion", "kind", *_BOUNDS})
        if head != (names.PARAMETERS_VERSION, names.PARAMETERS_KIND) or unknown:
            what = f"unknown {', '.join(unknown)}" if unknown else f"apiVersion and kind are {head}"
            raise ClaimError(
                f"{where}: parameters of request {request}: {what}",
                f"they are apiVersion: {names.PARAMETERS_VERSION}, kind: {names.PARAMETERS_KIND},"
                f" and any of {', '.join(_BOUNDS)}",
            )
        found |= {key: entry[key] for key in _BOUNDS if key in entry}
    for key, value in found.items():
        low, high = _BOUNDS[key]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ClaimError(
                f"{where}: {key} of request {request} is {value!r}", f"it is a whole number from {low} to {high}"
            )
    renamed = {"computeLimitPercent": "compute_limit_percent"}
    return {renamed.get(key, key): value for key, value in found.items()}


def _entries(configured: Sequence[Object], request: str) -> Iterator[Object]:
    names_of_it = (request, request.partition("/")[0])
    for source in ("FromClass", "FromClaim"):
        for entry in configured:
            opaque = entry.get("opaque")
            if not opaque or opaque["driver"] != names.DRIVER or entry.get("source", "FromClaim") != source:
                continue
            if not entry.get("requests") or any(name in entry["requests"] for name in names_of_it):
                yield opaque["parameters"]
