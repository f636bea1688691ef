"""What the spec of a ResourceClaim asks of our cards, whoever has written it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cgpu.errors import AmountError, ClaimError
from cgpu.k8s import names
from cgpu.k8s.claims import parameters_of
from cgpu.k8s.quantity import parse_quantity
from cgpu.model.units import COMPUTE_PERCENT_MAX, GIB, MIB

Object = Mapping[str, Any]
CLASSES: Final = (names.DEVICE_CLASS,)
_CAPACITIES: Final = (names.MEMORY, names.COMPUTE, names.SHARES)


@dataclass(frozen=True, slots=True)
class Asked:
    """All that a claim asks of our cards together; of alternatives the largest counts."""

    memory_bytes: int = 0
    memory_gib: int = 0
    """As ACK counts it."""
    compute_percent: int = 0
    unbounded: str = ""
    """Not empty: why its memory is not known before it is allocated."""
    favoured: str = ""
    """Not empty: what it asks for that needs the administrator's word."""
    largest_bytes: int = 0
    """Memory of one card."""

    def __add__(self, other: Asked) -> Asked:
        return Asked(
            self.memory_bytes + other.memory_bytes,
            self.memory_gib + other.memory_gib,
            self.compute_percent + other.compute_percent,
            self.unbounded or other.unbounded,
            self.favoured or other.favoured,
            max(self.largest_bytes, other.largest_bytes),
        )


def our_requests(spec: Object, classes: Collection[str] = CLASSES) -> list[str]:
    """The names of a claim's requests that our cards can serve."""
    return [
        request["name"]
        for request in (spec.get("devices") or {}).get("requests") or ()
        if any(option.get("deviceClassName") in classes for option in _options(request))
    ]


def _options(request: Object) -> Sequence[Object]:
    exactly = request.get("exactly")
    return [exactly] if exactly else request.get("firstAvailable") or ()


def asked_of(spec: Object, where: str, classes: Collection[str] = CLASSES) -> Asked:
    """What the spec asks for. ``where`` names the claim in errors.

    Raises AmountError and ClaimError: an amount or a parameter that no card of ours can give.
    """
    devices = spec.get("devices") or {}
    total = Asked()
    for request in devices.get("requests") or ():
        ours = [option for option in _options(request) if option.get("deviceClassName") in classes]
        if not ours:
            continue
        total += _request(ours, f"{where}: request {request['name']}", is_choice=not request.get("exactly"))
        total += _favours(devices.get("config") or (), request, where)
    return total


def _request(options: Sequence[Object], where: str, *, is_choice: bool) -> Asked:
    rows = [_option(option, where) for option in options]
    # Alternatives are how a proportional amount is written: a GiB there is somewhat more than a GiB.
    # What is written by hand as one of several is at least one.
    gib = min(max(row.memory_bytes // GIB, 1) for row in rows) if is_choice else rows[0].memory_gib
    return Asked(
        max(row.memory_bytes for row in rows),
        gib,
        max(row.compute_percent for row in rows),
        next((row.unbounded for row in rows if row.unbounded), ""),
        largest_bytes=min(row.largest_bytes for row in rows),
    )


def _option(option: Object, where: str) -> Asked:
    given = (option.get("capacity") or {}).get("requests") or {}
    amounts = {name.removeprefix(f"{names.DRIVER}/"): str(value) for name, value in given.items()}
    unknown = sorted(amounts.keys() - set(_CAPACITIES))
    if unknown:
        raise ClaimError(f"{where}: no card has {', '.join(unknown)}", f"there are {', '.join(_CAPACITIES)}")
    if amounts.get(names.SHARES, "1") not in ("0", "1"):
        raise AmountError(
            f"{where}: {names.SHARES} is {amounts[names.SHARES]}", "a request is one tenant: leave it out"
        )
    compute = _whole(amounts, names.COMPUTE, where)
    if not 0 <= compute <= COMPUTE_PERCENT_MAX:
        raise AmountError(
            f"{where}: {names.COMPUTE} is {compute}", f"it is a percentage of a card, up to {COMPUTE_PERCENT_MAX}"
        )
    memory = _whole(amounts, names.MEMORY, where)
    if names.MEMORY in amounts and not memory:
        raise AmountError(f"{where}: {names.MEMORY} is 0", "write for example 8Gi")
    memory = -(-memory // MIB) * MIB  # as the scheduler rounds it
    cards = option.get("count") or 1
    unbounded = ""
    if names.MEMORY not in amounts:
        unbounded = f"{where} names no amount of memory and so takes a whole card"
    elif option.get("allocationMode") == "All":
        unbounded = f"{where} takes all cards of a node"
    return Asked(memory * cards, -(-memory // GIB) * cards, compute * cards, unbounded, largest_bytes=memory)


def _whole(amounts: Mapping[str, str], name: str, where: str) -> int:
    try:
        return parse_quantity(amounts.get(name, "0"))
    except AmountError as error:
        raise AmountError(f"{where}: {name}: {error.message}", error.remedy) from error


def _favours(configured: Sequence[Object], request: Object, where: str) -> Asked:
    options = request.get("firstAvailable") or ()
    found = []
    for name in (request["name"], *(f"{request['name']}/{option['name']}" for option in options)):
        parameters = parameters_of(configured, name, where)
        if parameters.get("weight", 1) > 1:
            found.append(f"weight {parameters['weight']}")
        if parameters.get("priority", 0):
            found.append("high priority")
    return Asked(favoured=" and ".join(dict.fromkeys(found)))
