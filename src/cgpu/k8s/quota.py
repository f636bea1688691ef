"""How much GPU memory a namespace may claim, and whether one more claim is within it. Pure.

Two limits hold together. The namespace's label is the one of cgpu. A ResourceQuota on ACK's resources
goes on to mean what it meant, although pods no longer carry them: its GiB and percentages are those of the claims.

A claim that was admitted is not there yet. Until it is, a *reservation* stands for it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from cgpu.errors import AmountError, CgpuError, QuotaError
from cgpu.k8s import names
from cgpu.k8s.claim_check import CLASSES, Asked, asked_of
from cgpu.k8s.quantity import parse_quantity
from cgpu.model.units import GIB, format_memory

Object = Mapping[str, Any]
RESERVED_S: Final = 180.0
"""How long a claim that was admitted may take to be stored: an API server's request ends after 60 s."""

_HARD_MEMORY: Final = f"requests.{names.ACK_MEMORY}"
_HARD_COMPUTE: Final = f"requests.{names.ACK_COMPUTE}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one namespace; None: no limit."""

    memory_bytes: int | None = None
    memory_gib: int | None = None
    compute_percent: int | None = None

    @property
    def are_none(self) -> bool:
        """Whether anything may be claimed."""
        return self == Limits()


@dataclass(frozen=True, slots=True)
class Held:
    """What a claim that is stored has."""

    uid: str
    asked: Asked
    version: int = 0
    """Its resource version."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """For a claim that was admitted and may not be stored yet."""

    uid: str
    until: float  # seconds since the epoch
    memory_bytes: int
    memory_gib: int
    compute_percent: int
    version: str = ""
    """Of the claims when it was made: what was stored later is told by a watch from there."""


def limits_of(labels: Mapping[str, str], quotas: Iterable[Object]) -> Limits:
    """The limits of a namespace by its labels and its ResourceQuotas.

    A ResourceQuota with scopes counts only some pods, which claims do not tell: it is left out.
    Raises AmountError for a label that is no amount.
    """
    memory_bytes = None
    if names.MEMORY_QUOTA in labels:
        try:
            memory_bytes = parse_quantity(labels[names.MEMORY_QUOTA])
        except AmountError as error:
            raise AmountError(f"the namespace's label {names.MEMORY_QUOTA}: {error.message}", error.remedy) from error
    specs = [quota.get("spec") or {} for quota in quotas]
    hard = [spec.get("hard") or {} for spec in specs if not spec.get("scopes") and not spec.get("scopeSelector")]
    return Limits(memory_bytes, _least(hard, _HARD_MEMORY), _least(hard, _HARD_COMPUTE))


def reserve(
    limits: Limits, held: Iterable[Held], waiting: Sequence[Reservation], asked: Asked, new: Reservation
) -> list[Reservation]:
    """The reservations with a new one. Raises QuotaError: it is beyond a limit."""
    others = [row for row in waiting if row.uid != new.uid]
    check(limits, held, others, asked)
    return [*others, new]


def reservation(uid: str, asked: Asked, version: str, now: float) -> Reservation:
    """For a claim; ``version`` is that of the claims that were read."""
    return Reservation(uid, now + RESERVED_S, asked.memory_bytes, asked.memory_gib, asked.compute_percent, version)


def waiting_of(reservations: Iterable[Reservation], held: Iterable[Held], now: float) -> list[Reservation]:
    """The reservations that still stand for a claim that is not there.

    The claims have to be read after the reservations, or one that was stored in between is missed.
    """
    stored = {claim.uid for claim in held}
    return [row for row in reservations if row.uid not in stored and row.until > now]


def seen_of(reservations: Iterable[Reservation], held: Iterable[Held], seen: int) -> int:
    """The version that a copy of the claims must have reached to be counted with.

    It is for the time when these reservations have been written again without those of claims that are stored;
    ``seen`` is what it was before.
    """
    reserved = {row.uid for row in reservations}
    return max([seen, *(claim.version for claim in held if claim.uid in reserved)])


def may_count_with_copy(reservations: Iterable[Reservation], held: Iterable[Held], now: float) -> bool:
    """Whether a copy of the claims that has reached the version is enough.

    Where a reservation has ended and the copy has no claim for it, the claim may be one that the copy does not
    have yet.
    """
    stored = {claim.uid for claim in held}
    return all(row.uid in stored or row.until > now for row in reservations)


def check(limits: Limits, held: Iterable[Held], waiting: Sequence[Reservation], asked: Asked) -> None:
    """Raise QuotaError where what is asked for is beyond a limit."""
    if asked.unbounded:
        raise QuotaError(
            f"{asked.unbounded}, which cannot be counted against the namespace's quota", "name an amount of memory"
        )
    used = [claim.asked for claim in held]
    rows = (
        ("GPU memory", limits.memory_bytes, "memory_bytes", format_memory),
        (names.ACK_MEMORY, limits.memory_gib, "memory_gib", lambda amount: f"{amount} GiB"),
        (names.ACK_COMPUTE, limits.compute_percent, "compute_percent", lambda amount: f"{amount} %"),
    )
    for what, limit, field, form in rows:
        have = sum(getattr(row, field) for row in (*used, *waiting))
        wanted = getattr(asked, field)
        if limit is not None and wanted and have + wanted > limit:
            raise QuotaError(
                f"exceeded quota of {what} in this namespace:"
                f" asked {form(wanted)}, used {form(have)}, limit {form(limit)}",
                "delete claims (kubectl get resourceclaims), ask for less, or have an administrator raise it",
            )


def parse_reservations(text: str) -> list[Reservation]:
    """What ``format_reservations`` has written. Nothing readable is an empty list: the claims themselves count."""
    try:
        return [Reservation(**row) for row in json.loads(text)]
    except (ValueError, TypeError, RecursionError):
        return []


def format_reservations(reservations: Sequence[Reservation]) -> str:
    """As JSON."""
    return json.dumps([asdict(row) for row in reservations], separators=(",", ":"))


def _least(hard: Sequence[Mapping[str, Any]], name: str) -> int | None:
    return min((parse_quantity(str(row[name])) for row in hard if name in row), default=None)


def held_of(claim: Object, classes: Collection[str] = CLASSES) -> Held:
    """What a stored claim has of our cards; ``classes`` are the DeviceClasses of ours."""
    metadata = claim["metadata"]
    return Held(metadata["uid"], _asked(claim, classes), int(metadata["resourceVersion"]))


def _asked(claim: Object, classes: Collection[str]) -> Asked:
    try:
        asked = asked_of(claim.get("spec") or {}, "claim", classes)
    except CgpuError:  # made before there was a check; no card of ours can ever give it
        return Asked()
    return _allocated(claim) if asked.unbounded else asked


def _allocated(claim: Object) -> Asked:
    """What a claim has that names no amount: the one that it was given, if it was."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    total = Asked()
    for row in (allocation.get("devices") or {}).get("results") or ():
        consumed = {name.rpartition("/")[2]: str(value) for name, value in (row.get("consumedCapacity") or {}).items()}
        if row["driver"] == names.DRIVER:
            memory = parse_quantity(consumed.get(names.MEMORY, "0"))
            total += Asked(memory, -(-memory // GIB), parse_quantity(consumed.get(names.COMPUTE, "0")))
    return total
