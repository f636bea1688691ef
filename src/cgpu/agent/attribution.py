"""Whose memory is it? Pure: what NVML and the regions say goes in, what the agent writes comes out.

A process on the card belongs to the tenant in whose region it owns a slot; failing that, to the
tenant in whose cgroup it is or with whose region it was started, and then it went round the shim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cgpu.adapters.cgroup import is_within
from cgpu.adapters.process import Identity
from cgpu.model.tenant import ProcessUsage
from cgpu.region.reader import Slot


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
    region: str = ""  # CGPU_REGION at its start
    command: str = ""


@dataclass(frozen=True, slots=True)
class TenantFacts:
    """A tenant on one card."""

    id: str
    cgroup: str
    region: str
    row: int
    slots: tuple[Slot, ...]
    unstable: frozenset[int] = frozenset()  # slots whose charge moved while NVML was asked


@dataclass(frozen=True, slots=True)
class Sample:
    """The memory of one new context, context and modules included."""

    bytes: int
    launched: bool  # work ran before the sample: it may hold more than the context


@dataclass(slots=True)
class Attributed:
    """One tenant on one card, by NVML."""

    truth_bytes: int = 0
    overhead_bytes: int = 0
    processes: list[ProcessUsage] = field(default_factory=list)
    host_pids: list[int] = field(default_factory=list)
    surplus: dict[int, tuple[int, int]] = field(default_factory=dict)  # slot -> bytes, charge_seq
    beyond: dict[SlotKey, int] = field(default_factory=dict)  # truth beyond the charge, per process
    sample: Sample | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """All of one card."""

    tenants: dict[str, Attributed]
    owners: dict[int, SlotKey]  # host pid -> slot, to be given again at the next look
    lingering: frozenset[SlotKey]  # dead or dying, and still on the card
    unknown_ending: bool  # an ended process of which nobody knows whose it was is on the card


def attribute(
    processes: Iterable[CardProcess],
    tenants: Iterable[TenantFacts],
    owners: Mapping[int, SlotKey],
    beyond: Mapping[SlotKey, int],
) -> Card:
    """Give each process of the card to its tenant.

    ``owners`` and ``beyond`` come from the previous look: the first tells whose an ended process
    was, the second stands in where a charge moved in the meantime.
    """
    tenants = tuple(tenants)
    result = {tenant.id: Attributed() for tenant in tenants}
    slots = [(tenant, slot, SlotKey(tenant.id, slot.index, slot.claim)) for tenant in tenants for slot in tenant.slots]
    found: dict[int, SlotKey] = {}
    lingering: set[SlotKey] = set()
    unknown_ending = False
    for process in processes:
        match = _slot_of(process, slots, owners)
        if match is not None:
            tenant, slot, key = match
            found[process.host_pid] = key
            if not slot.alive:
                lingering.add(key)
            _add(result[tenant.id], process, tenant, slot, key, beyond)
            continue
        outsider = next((tenant for tenant in tenants if _belongs(process, tenant)), None)
        if outsider is not None:
            _add_bypassing(result[outsider.id], process)
        elif process.identity is None:
            unknown_ending = True
    return Card(result, found, frozenset(lingering), unknown_ending)


def _slot_of(
    process: CardProcess, slots: list[tuple[TenantFacts, Slot, SlotKey]], owners: Mapping[int, SlotKey]
) -> tuple[TenantFacts, Slot, SlotKey] | None:
    for entry in slots:
        slot = entry[1]
        if process.identity is None:
            if owners.get(process.host_pid) == entry[2]:
                return entry
        elif process.identity.is_same(Identity(slot.pid, slot.start_ticks, slot.pid_namespace)):
            return entry
    return None


def _belongs(process: CardProcess, tenant: TenantFacts) -> bool:
    return is_within(process.cgroup, tenant.cgroup) or (process.region != "" and process.region == tenant.region)


def _add(
    result: Attributed,
    process: CardProcess,
    tenant: TenantFacts,
    slot: Slot,
    key: SlotKey,
    beyond: Mapping[SlotKey, int],
) -> None:
    on_gpu = slot.gpus[tenant.row]
    truth = on_gpu.charge_bytes if process.memory_bytes is None else process.memory_bytes
    result.truth_bytes += truth
    result.host_pids.append(process.host_pid)
    result.processes.append(ProcessUsage(slot.pid, process.host_pid, slot.command, max(truth, on_gpu.charge_bytes)))
    if slot.index in tenant.unstable:
        result.beyond[key] = beyond.get(key, 0)
    else:
        result.beyond[key] = max(0, truth - on_gpu.charge_bytes)
        if slot.alive:
            result.surplus[slot.index] = (max(0, on_gpu.charge_bytes - truth), on_gpu.charge_seq)
        if on_gpu.contexts == 1 and process.memory_bytes is not None:
            sample = Sample(max(0, truth - on_gpu.explicit_bytes), on_gpu.launches > 0)
            if result.sample is None or sample.bytes > result.sample.bytes:
                result.sample = sample
    result.overhead_bytes += result.beyond[key]


def _add_bypassing(result: Attributed, process: CardProcess) -> None:
    truth = process.memory_bytes or 0
    pid = process.identity.pid if process.identity else 0
    result.truth_bytes += truth
    result.overhead_bytes += truth
    result.host_pids.append(process.host_pid)
    result.processes.append(ProcessUsage(pid, process.host_pid, process.command, truth, bypasses_shim=True))


@dataclass(frozen=True, slots=True)
class ContextEstimate:
    """What is charged for a context of a GPU before NVML has shown what it really takes."""

    bytes: int
    measured: bool = False
    launched: bool = True  # measured on a process that had already run work

    def learn(self, sample: Sample) -> ContextEstimate:
        """The largest seen; what was measured on a fresh context replaces what was not."""
        if sample.bytes == 0:
            return self
        if not self.measured or (self.launched and not sample.launched):
            return ContextEstimate(sample.bytes, measured=True, launched=sample.launched)
        if sample.bytes > self.bytes and sample.launched <= self.launched:
            return ContextEstimate(sample.bytes, measured=True, launched=sample.launched)
        return self
