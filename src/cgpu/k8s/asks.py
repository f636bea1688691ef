"""What ResourceClaims ask of our cards, and which claims a pod uses. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cgpu.k8s import names
from cgpu.k8s.offers import Toleration, parse_tolerations, short
from cgpu.k8s.quantity import quantity_value

Object = Mapping[str, Any]
_ALL: Final = "All"


@dataclass(frozen=True, slots=True)
class Ask:
    """What one request, or one alternative of it, asks for: so much of each of so many cards of one node."""

    count: int
    amounts: tuple[tuple[str, int], ...]  # by short names, in their order; what is not named takes the card's default
    tolerations: tuple[Toleration, ...] = ()

    def amount(self, name: str) -> int | None:
        """What it says of a capacity; None: nothing."""
        return dict(self.amounts).get(name)


Request = tuple[Ask, ...]
"""The alternatives of a request, the preferred first."""


@dataclass(frozen=True, slots=True)
class ClaimAsk:
    """A claim that asks for cards of ours."""

    namespace: str
    name: str
    requests: tuple[Request, ...]
    pools: tuple[str, ...] = ()  # where it has been allocated; empty: nowhere yet

    @property
    def allocated(self) -> bool:
        """Whether it has its cards."""
        return bool(self.pools)

    def memory_bytes(self) -> int | None:
        """What it asks for in all, by its preferred alternatives; None: one of them asks for whole cards."""
        total = 0
        for alternatives in self.requests:
            memory = alternatives[0].amount(names.MEMORY)
            if memory is None:
                return None
            total += memory * alternatives[0].count
        return total


def parse_asks(claim: Object) -> ClaimAsk | None:
    """What a ResourceClaim asks of our device class; None where it asks nothing. Raises AmountError.

    A request that another class could serve too, and one that only looks (``adminAccess``), is left out:
    nothing can be said of it here.
    """
    requests = tuple(request for row in claim["spec"]["devices"].get("requests") or () if (request := _request(row)))
    if not requests:
        return None
    devices = ((claim.get("status") or {}).get("allocation") or {}).get("devices") or {}
    pools = (row["pool"] for row in devices.get("results") or () if row["driver"] == names.DRIVER)
    metadata = claim["metadata"]
    return ClaimAsk(metadata["namespace"], metadata["name"], requests, tuple(dict.fromkeys(pools)))


def claims_of(pod: Object) -> list[str] | None:
    """The names of the ResourceClaims that a pod uses; None while one of them is not made yet."""
    statuses = (pod.get("status") or {}).get("resourceClaimStatuses") or ()
    made = {row["name"]: row.get("resourceClaimName") for row in statuses}
    found = []
    for row in pod["spec"].get("resourceClaims") or ():
        if row.get("resourceClaimName"):
            found.append(row["resourceClaimName"])
        elif row["name"] not in made:
            return None
        elif made[row["name"]]:  # else the pod needs none
            found.append(made[row["name"]])
    return found


def _request(row: Object) -> Request:
    options = row.get("firstAvailable") or [row.get("exactly") or {}]
    if any(option.get("deviceClassName") != names.DEVICE_CLASS or option.get("adminAccess") for option in options):
        return ()
    return tuple(_ask(option) for option in options)


def _ask(option: Object) -> Ask:
    # Of "all" it is certain only that there has to be one.
    count = 1 if option.get("allocationMode") == _ALL else option.get("count") or 1
    return Ask(count, tuple(sorted(_amounts(option))), parse_tolerations(option.get("tolerations")))


def _amounts(option: Object) -> Iterator[tuple[str, int]]:
    for name, value in ((option.get("capacity") or {}).get("requests") or {}).items():
        yield short(name), quantity_value(str(value))
