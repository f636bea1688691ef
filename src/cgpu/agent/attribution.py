"""Whose memory is it? Pure: what NVML and the regions say goes in, what the agent writes comes out.

A process on the card belongs to the tenant in whose region it owns a slot; failing that, to the
tenant in whose cgroup it is or with whose region it was started, and then it went round the shim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cgpu.adapters.cgroup import is_within
from cgpu.adapters.process import Identity
from cgpu.model.tenant import ProcessUsage
from cgpu.region.reader import Slot

STEADY_NS: Final = 100_000_000
"""A surplus is on offer once charge and truth have stood still for this long: what is charged and not
on the card may otherwise be a call of the driver that is still under way."""

NAMELESS_NS: Final = 5_000_000_000
"""For this long a process on the card of which /proc knows nothing is taken for one that is ending.
Beyond it, it is one that this PID namespace does not show."""


class SlotKey(NamedTuple):
    """One life of a slot: the claim grows when the slot is taken again."""

    tenant: str
    slot: int
    claim: int


@dataclass(frozen=True, slots=True)
class CardProcess:
    """A process that NVML lists on a card, with what the host knows of it."""

    host_pid: int
    memory_bytes: int | None  # None: the driver does not say
    identity: Identity | None  # None: it has ended, its memory is not yet released
    cgroup: str = ""
    region: str = ""  # the one that it has mounted, or CGPU_REGION at its start
    command: str = ""


@dataclass(frozen=True, slots=True)
class TenantFacts:
    """A tenant on one card."""

    id: str
    cgroups: tuple[str, ...]
    region: str
    row: int
    slots: tuple[Slot, ...]
    unstable: frozenset[int] = frozenset()  # slots whose charge moved while NVML was asked


@dataclass(slots=True)
class Attributed:
    """One tenant on one card, by NVML."""

    truth_bytes: int = 0
    overhead_bytes: int = 0
    processes: list[ProcessUsage] = field(default_factory=list)
    host_pids: list[int] = field(default_factory=list)
    surplus: dict[int, tuple[int, int]] = field(default_factory=dict)  # slot -> bytes, charge_seq
    context_bytes: int | None = None  # the least that a process with one context holds beyond what it asked for
    registered: int = 0  # processes on the card that own a slot
    charged_bytes: int = 0  # by these
    beyond_bytes: int = 0  # what the card holds for these beyond that, those whose charge moved left out


class Observed(NamedTuple):
    """A process as it was seen, and since when unchanged."""

    charge_seq: int
    truth_bytes: int
    since_ns: int


@dataclass(slots=True)
class Memory:
    """What one look at a card leaves to the next."""

    owners: dict[int, SlotKey] = field(default_factory=dict)  # host pid -> slot: whose an ended process was
    beyond: dict[SlotKey, int] = field(default_factory=dict)  # stands in where a charge moved meanwhile
    observed: dict[SlotKey, Observed] = field(default_factory=dict)
    nameless: dict[int, int] = field(default_factory=dict)  # host pid -> when first seen without a name


@dataclass(frozen=True, slots=True)
class Card:
    """All of one card."""

    tenants: dict[str, Attributed]
    lingering: frozenset[SlotKey]  # dead or dying, and still on the card
    unknown_ending: bool  # an ended process of which nobody knows whose it was is on the card
    memory: Memory


class Owned(NamedTuple):
    """A slot, and whose it is."""

    tenant: TenantFacts
    slot: Slot
    key: SlotKey


class Owners:
    """The tenants on one card, and their slots by who has registered them."""

    def __init__(self, tenants: Iterable[TenantFacts]) -> None:
        self.tenants = tuple(tenants)
        self._by_key: dict[SlotKey, Owned] = {}
        self._by_process: defaultdict[tuple[int, int], list[Owned]] = defaultdict(list)  # pid, start
        for tenant in self.tenants:
            for slot in tenant.slots:
                owned = Owned(tenant, slot, SlotKey(tenant.id, slot.index, slot.claim))
                self._by_key[owned.key] = owned
                self._by_process[slot.pid, slot.start_ticks].append(owned)

    def slots_of(self, identity: Identity) -> tuple[Owned, ...]:
        """The slots of a process that lives: several where a tenant has written another's process into its own."""
        found = self._by_process.get((identity.pid, identity.start_ticks), ())
        return tuple(row for row in found if identity.is_in(row.slot.pid_namespace))

    def slot(self, key: SlotKey | None) -> Owned | None:
        """One life of a slot; None when it is over."""
        return None if key is None else self._by_key.get(key)


def attribute(processes: Iterable[CardProcess], owners: Owners, before: Memory, now_ns: int) -> Card:
    """Give each process of the card to its tenant."""
    result = {tenant.id: Attributed() for tenant in owners.tenants}
    after = Memory()
    lingering: set[SlotKey] = set()
    unknown_ending = False
    for process in processes:
        match = _owned(process, owners, before)
        if match is not None:
            tenant, slot, key = match
            after.owners[process.host_pid] = key
            if not slot.alive:
                lingering.add(key)
            _add(result[tenant.id], process, tenant, slot, _History(key, before, after, now_ns))
            continue
        outsider = next((tenant for tenant in owners.tenants if _belongs(process, tenant)), None)
        if outsider is not None:
            _add_bypassing(result[outsider.id], process)
        elif process.identity is None:
            since_ns = after.nameless[process.host_pid] = before.nameless.get(process.host_pid, now_ns)
            unknown_ending |= now_ns - since_ns < NAMELESS_NS
    return Card(result, frozenset(lingering), unknown_ending, after)


@dataclass(frozen=True, slots=True)
class _History:
    """One process in the look before this one and in this one."""

    key: SlotKey
    before: Memory
    after: Memory
    now_ns: int

    def overhead(self, truth_bytes: int, charge_bytes: int, *, unstable: bool) -> int:
        """What the card holds beyond the charge; the last known where the charge is moving."""
        over = self.before.beyond.get(self.key, 0) if unstable else max(0, truth_bytes - charge_bytes)
        self.after.beyond[self.key] = over
        return over

    def steady(self, charge_seq: int, truth_bytes: int) -> bool:
        """Whether charge and truth have stood still for a while."""
        last = self.before.observed.get(self.key)
        if last is None or (last.charge_seq, last.truth_bytes) != (charge_seq, truth_bytes):
            last = Observed(charge_seq, truth_bytes, self.now_ns)
        self.after.observed[self.key] = last
        return self.now_ns - last.since_ns >= STEADY_NS


def _owned(process: CardProcess, owners: Owners, before: Memory) -> Owned | None:
    if process.identity is None:
        return owners.slot(before.owners.get(process.host_pid))
    found = owners.slots_of(process.identity)
    if len(found) > 1:
        return next((row for row in found if _belongs(process, row.tenant)), found[0])
    return found[0] if found else None


def _belongs(process: CardProcess, tenant: TenantFacts) -> bool:
    return any(is_within(process.cgroup, path) for path in tenant.cgroups) or (
        process.region != "" and process.region == tenant.region
    )


def _add(result: Attributed, process: CardProcess, tenant: TenantFacts, slot: Slot, history: _History) -> None:
    on_gpu = slot.gpus[tenant.row]
    truth = on_gpu.charge_bytes if process.memory_bytes is None else process.memory_bytes
    result.truth_bytes += truth
    result.host_pids.append(process.host_pid)
    result.processes.append(ProcessUsage(slot.pid, process.host_pid, slot.command, truth))
    unstable = slot.index in tenant.unstable
    result.registered += 1
    result.charged_bytes += on_gpu.charge_bytes
    result.beyond_bytes += 0 if unstable else max(0, truth - on_gpu.charge_bytes)
    result.overhead_bytes += history.overhead(truth, on_gpu.charge_bytes, unstable=unstable)
    if unstable or process.memory_bytes is None or not slot.alive or on_gpu.contexts == 0:
        return
    if history.steady(on_gpu.charge_seq, truth):
        result.surplus[slot.index] = (max(0, on_gpu.charge_bytes - truth), on_gpu.charge_seq)
    beyond = truth - on_gpu.explicit_bytes  # the context, and what has no size that is asked for: arrays, modules
    if on_gpu.contexts == 1 and beyond > 0:
        result.context_bytes = min(beyond, result.context_bytes or beyond)


def _add_bypassing(result: Attributed, process: CardProcess) -> None:
    truth = process.memory_bytes or 0
    pid = process.identity.pid if process.identity else 0
    result.truth_bytes += truth
    result.overhead_bytes += truth
    result.host_pids.append(process.host_pid)
    result.processes.append(ProcessUsage(pid, process.host_pid, process.command, truth, bypasses_shim=True))
