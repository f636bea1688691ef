"""Whether what a tenant's region says can be true, held against the card. Pure.

A tenant can write what it likes into its own usage file. It changes nothing for others, and what the card holds
beyond the charges counts against the tenant's share all the same; but somebody should know. No honest account is
doubted: the shim charges before the driver allocates, so that only what has no size to ask for is ever missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from cgpu.agent.attribution import Attributed
from cgpu.model.units import MIB
from cgpu.region.reader import GrantedGpu, UsageSnapshot

STEADY_NS: Final = 100_000_000
"""A contradiction that a reading between two words of one operation may also show has to last so long."""

_BEYOND_CARD: Final = 2  # so many times the card's memory: no quota of the past explains it


class Doubt(NamedTuple):
    """What contradicts what. Not ``certain``: one look is not enough."""

    what: str
    certain: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """What a tenant's region and the card say of one GPU row."""

    usage: UsageSnapshot
    row: int
    granted: GrantedGpu
    card: Attributed


def doubts_of(claim: Claim) -> Iterator[Doubt]:
    """All contradictions, the certain ones first."""
    used = claim.usage.gpus[claim.row].used_bytes
    if claim.usage.strange_slots:
        yield Doubt(f"{claim.usage.strange_slots} slots are in a state that there is not", certain=True)
    if used > _BEYOND_CARD * claim.granted.total_bytes > 0:
        yield Doubt(f"it claims {used // MIB} MiB of a card of {claim.granted.total_bytes // MIB} MiB", certain=True)
    charged = sum(slot.gpus[claim.row].charge_bytes for slot in claim.usage.slots)
    if claim.usage.settled and charged != used:
        yield Doubt(
            f"its processes have charged {charged // MIB} MiB, its account says {used // MIB} MiB", certain=False
        )
    card = claim.card
    if card.beyond_bytes > card.registered * claim.granted.context_bytes:
        held = card.charged_bytes + card.beyond_bytes
        yield Doubt(
            f"the card holds {held // MIB} MiB for its processes, which have charged {card.charged_bytes // MIB} MiB",
            certain=False,
        )


class Doubts:
    """Remembers from look to look what has been contradictory, and since when. Times are of one clock."""

    def __init__(self) -> None:
        self._since_ns: dict[tuple[str, str], int] = {}  # by tenant and GPU UUID

    def weigh(self, tenant_id: str, gpu_uuid: str, found: Iterable[Doubt], now_ns: int) -> str:
        """What is wrong with the tenant's account for sure; "" when nothing is."""
        doubts = tuple(found)
        key = (tenant_id, gpu_uuid)
        if not doubts:
            self._since_ns.pop(key, None)
            return ""
        lasting = now_ns - self._since_ns.setdefault(key, now_ns) >= STEADY_NS
        return next((doubt.what for doubt in doubts if doubt.certain or lasting), "")

    def keep_only(self, tenant_ids: Iterable[str]) -> None:
        """Forget all other tenants."""
        kept = set(tenant_ids)
        self._since_ns = {key: since_ns for key, since_ns in self._since_ns.items() if key[0] in kept}
