"""One look at the node: NVML, the regions and /proc, read in the order that makes them comparable."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cgpu.adapters.nvml import GpuProcess
from cgpu.agent.attribution import Attributed, Card, CardProcess, SlotKey, TenantFacts, attribute
from cgpu.agent.ports import Cgroups, GpuNode, Processes
from cgpu.errors import RegionError
from cgpu.model.tenant import Gpu
from cgpu.region.reader import GrantsSnapshot, RegionReader, UsageSnapshot

REGION_VARIABLE = "CGPU_REGION"


@dataclass(frozen=True, slots=True)
class Subject:
    """A tenant to be looked at."""

    id: str
    cgroup: str
    region: Path
    reader: RegionReader
    gpu_uuids: tuple[str, ...]  # by row


@dataclass(frozen=True, slots=True)
class Reading:
    """What a tenant's region said."""

    grants: GrantsSnapshot
    usage: UsageSnapshot


@dataclass(frozen=True, slots=True)
class Survey:
    """The node at one moment."""

    readings: dict[str, Reading]
    damaged: dict[str, str]  # tenant id -> what is wrong with its region
    cards: dict[str, Card]  # by GPU UUID
    used_bytes: dict[str, int]
    releasable: tuple[SlotKey, ...]  # dead processes whose memory the cards have released

    def on(self, tenant_id: str, gpu_uuid: str) -> Attributed:
        """The tenant on that card; all zero when it has nothing there."""
        card = self.cards.get(gpu_uuid)
        return card.tenants.get(tenant_id, Attributed()) if card else Attributed()

    def foreign_bytes(self, gpu_uuid: str) -> int:
        """What no tenant's process holds of the card: the driver's own part included."""
        ours = sum(row.truth_bytes for row in self.cards[gpu_uuid].tenants.values())
        return max(0, self.used_bytes[gpu_uuid] - ours)


class Surveyor:
    """Looks at the node. Remembers from look to look whose each process was."""

    def __init__(self, node: GpuNode, processes: Processes, cgroups: Cgroups) -> None:
        self._node = node
        self._processes = processes
        self._cgroups = cgroups
        self._owners: dict[str, dict[int, SlotKey]] = {}
        self._beyond: dict[str, dict[SlotKey, int]] = {}

    def look(self, subjects: Iterable[Subject]) -> Survey:
        """Regions first, then NVML, then the charges' sequence numbers again."""
        subjects = tuple(subjects)
        readings, damaged = _read_all(subjects)
        listed = {gpu.uuid: self._node.processes(gpu) for gpu in self._node.gpus()}
        used = {gpu.uuid: self._node.used_bytes(gpu) for gpu in self._node.gpus()}
        cards = {gpu.uuid: self._card(gpu, listed[gpu.uuid], subjects, readings) for gpu in self._node.gpus()}
        return Survey(readings, damaged, cards, used, _releasable(subjects, readings, cards))

    def _card(
        self, gpu: Gpu, listed: tuple[GpuProcess, ...], subjects: tuple[Subject, ...], readings: dict[str, Reading]
    ) -> Card:
        facts = [
            TenantFacts(
                id=subject.id,
                cgroup=subject.cgroup,
                region=str(subject.region),
                row=row,
                slots=readings[subject.id].usage.slots,
                unstable=_moved(subject.reader, readings[subject.id].usage, row),
            )
            for subject in subjects
            if subject.id in readings
            for row, uuid in enumerate(subject.gpu_uuids)
            if uuid == gpu.uuid
        ]
        card = attribute(
            [self._describe(process) for process in listed],
            facts,
            self._owners.get(gpu.uuid, {}),
            self._beyond.get(gpu.uuid, {}),
        )
        self._owners[gpu.uuid] = card.owners
        self._beyond[gpu.uuid] = {key: over for row in card.tenants.values() for key, over in row.beyond.items()}
        return card

    def _describe(self, process: GpuProcess) -> CardProcess:
        identity = self._processes.identity(process.host_pid)
        return CardProcess(
            host_pid=process.host_pid,
            memory_bytes=process.memory_bytes,
            identity=identity,
            cgroup=self._cgroups.of(process.host_pid) if identity else "",
            region=(self._processes.variable(process.host_pid, REGION_VARIABLE) or "") if identity else "",
            command=self._processes.command(process.host_pid) if identity else "",
        )


def _read_all(subjects: tuple[Subject, ...]) -> tuple[dict[str, Reading], dict[str, str]]:
    readings: dict[str, Reading] = {}
    damaged: dict[str, str] = {}
    for subject in subjects:
        try:
            readings[subject.id] = Reading(subject.reader.grants(), subject.reader.usage(len(subject.gpu_uuids)))
        except RegionError as error:
            damaged[subject.id] = error.message
    return readings, damaged


def _moved(reader: RegionReader, usage: UsageSnapshot, row: int) -> frozenset[int]:
    moved = set()
    for slot in usage.slots:
        try:
            if reader.charge_seq(slot.index, row) != slot.gpus[row].charge_seq:
                moved.add(slot.index)
        except RegionError:
            moved.add(slot.index)
    return frozenset(moved)


def _releasable(
    subjects: tuple[Subject, ...], readings: dict[str, Reading], cards: dict[str, Card]
) -> tuple[SlotKey, ...]:
    result = []
    for subject in subjects:
        if subject.id not in readings:
            continue
        on = [cards[uuid] for uuid in subject.gpu_uuids if uuid in cards]
        for slot in readings[subject.id].usage.slots:
            key = SlotKey(subject.id, slot.index, slot.claim)
            if not slot.alive and not any(card.unknown_ending or key in card.lingering for card in on):
                result.append(key)
    return tuple(result)
