"""Which containers use which requests of a claim, and what that cannot be. Pure.

A container has one share: one region, in one place. So it uses one request of our cards, or one claim as a whole, in
which all its requests are one share. A claim that one container uses as a whole and another by a request would need
two shares for the same amounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cgpu.errors import ClaimError

Object = Mapping[str, Any]
_KINDS: Final = ("initContainers", "containers")
_WHOLE_CLAIM: Final = "name the claim without a request: all its requests are one share then"


@dataclass(frozen=True, slots=True)
class Use:
    """What a container uses of a claim."""

    container: str
    claim: str  # as the pod calls it
    requests: tuple[str, ...]  # that it names; empty: the whole claim


def uses_of(pod: Object) -> Iterator[Use]:
    """One for each container and claim of the pod."""
    for kind in _KINDS:
        for container in (pod.get("spec") or {}).get(kind) or ():
            named: dict[str, list[str]] = {}
            for row in (container.get("resources") or {}).get("claims") or ():
                named.setdefault(row["name"], []).append(row.get("request") or "")
            for claim, requests in named.items():
                yield Use(container["name"], claim, () if "" in requests else tuple(dict.fromkeys(requests)))


def check_pod(pod: Object, ours: Mapping[str, Sequence[str]]) -> None:
    """Raise ClaimError for a container with more than one share, and for a claim that is used both ways.

    ``ours`` are the requests for our cards, by the pod's names for its claims.
    """
    uses = [use for use in uses_of(pod) if _touches(use, ours.get(use.claim, ()))]
    of_container: dict[str, str] = {}
    for use in uses:
        other = of_container.setdefault(use.container, use.claim)
        if other != use.claim:
            raise ClaimError(
                f"container {use.container} uses two claims of our cards, {other} and {use.claim}:"
                " a container has one share",
                "make one claim of their requests, and name it without a request",
            )
    for claim, requests in ours.items():
        is_whole([use for use in uses if use.claim == claim], requests, f"claim {claim}")


def is_whole(uses: Iterable[Use], requests: Sequence[str], where: str) -> bool:
    """Whether a claim is used as a whole: its requests of our cards are one share then. Raises ClaimError.

    ``requests`` are those of our cards, ``uses`` those of that claim. ``where`` names the claim in errors.
    """
    if len(requests) < 2:
        return False
    touching = [use for use in uses if _touches(use, requests)]
    for use in touching:
        named = [name for name in use.requests if name in requests]
        if len(named) > 1:
            raise ClaimError(
                f"container {use.container} names the requests {' and '.join(named)} of {where}:"
                " a container has one share",
                _WHOLE_CLAIM,
            )
    whole = next((use.container for use in touching if not use.requests), None)
    part = next((use for use in touching if use.requests), None)
    if whole is not None and part is not None:
        raise ClaimError(
            f"container {whole} uses {where} as a whole, and container {part.container} its request"
            f" {part.requests[0]}: its requests are one share, or one each",
            "have all containers name a request, or none; or make a claim for each",
        )
    return whole is not None


def _touches(use: Use, requests: Sequence[str]) -> bool:
    return bool(requests) and (not use.requests or any(name in requests for name in use.requests))


def uses_of_claim(pod: Object, claim: str) -> list[Use]:
    """The pod's uses of the ResourceClaim with that name, as far as the pod tells which claims it has."""
    statuses = (pod.get("status") or {}).get("resourceClaimStatuses") or ()
    made = {row["name"]: row.get("resourceClaimName") for row in statuses}
    entries = (pod.get("spec") or {}).get("resourceClaims") or ()
    its_names = {row["name"] for row in entries if claim in (row.get("resourceClaimName"), made.get(row["name"]))}
    return [use for use in uses_of(pod) if use.claim in its_names]
