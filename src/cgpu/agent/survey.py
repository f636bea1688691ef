"""One look at the node: NVML, the regions and /proc, read in the order that makes them comparable."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from cgpu.adapters.mounts import HostFile
from cgpu.adapters.nvml import GpuProcess
from cgpu.agent.attribution import Attributed, Card, CardProcess, Memory, SlotKey, TenantFacts, attribute
from cgpu.agent.ports import Cgroups, GpuNode, Processes
from cgpu.errors import DriverError, RegionError
from cgpu.model import container
from cgpu.model.region_files import GRANTS
from cgpu.model.tenant import Gpu
from cgpu.region.reader import GrantsSnapshot, RegionReader, UsageSnapshot

REGION_VARIABLE = "CGPU_REGION"


@dataclass(frozen=True, slots=True)
class Subject:
    """A tenant to be looked at."""

    id: str
    cgroups: tuple[str, ...]
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
    failed: dict[str, DriverError]  # cards that did not answer, by UUID; they are in no other table

    def on(self, tenant_id: str, gpu_uuid: str) -> Attributed:
        """The tenant on that card; all zero when it has nothing there."""
        card = self.cards.get(gpu_uuid)
        return card.tenants.get(tenant_id, Attributed()) if card else Attributed()

    def foreign_bytes(self, gpu_uuid: str) -> int:
        """What no tenant's process holds of the card: the driver's own part included. Raises the card's DriverError."""
        if gpu_uuid in self.failed:
            raise self.failed[gpu_uuid]
        ours = sum(row.truth_bytes for row in self.cards[gpu_uuid].tenants.values())
        return max(0, self.used_bytes[gpu_uuid] - ours)


class Surveyor:
    """Looks at the node. Remembers from look to look whose each process was."""

    def __init__(
        self, node: GpuNode, processes: Processes, cgroups: Cgroups, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._node = node
        self._clock_ns = clock_ns
        self._processes = processes
        self._cgroups = cgroups
        self._memory: dict[str, Memory] = {}  # by GPU UUID
        self._regions: dict[HostFile | None, str] = {}  # by their grants

    def look(self, subjects: Iterable[Subject], cards: Collection[str] | None = None) -> Survey:
        """Regions first, then NVML, then the charges' sequence numbers again. Never raises for a card or a region.

        ``subjects`` are all tenants. Only these ``cards``, by UUID, and who has a share of one of them are looked at;
        None: all.
        """
        subjects = tuple(subjects)
        self._learn_regions(subjects)
        gpus = self._node.gpus()
        if cards is not None:
            gpus = tuple(gpu for gpu in gpus if gpu.uuid in cards)
            subjects = tuple(subject for subject in subjects if any(uuid in cards for uuid in subject.gpu_uuids))
        readings, damaged = _read_all(subjects)
        listed: dict[str, tuple[GpuProcess, ...]] = {}
        used: dict[str, int] = {}
        failed: dict[str, DriverError] = {}
        for gpu in gpus:
            try:
                listed[gpu.uuid], used[gpu.uuid] = self._node.processes(gpu), self._node.used_bytes(gpu)
            except DriverError as error:  # one card that is lost does not hide the others
                failed[gpu.uuid] = error
                listed.pop(gpu.uuid, None)
        looks = {gpu.uuid: self._card(gpu, listed[gpu.uuid], subjects, readings) for gpu in gpus if gpu.uuid in listed}
        return Survey(readings, damaged, looks, used, _releasable(subjects, readings, looks), failed)

    def _card(
        self, gpu: Gpu, listed: tuple[GpuProcess, ...], subjects: tuple[Subject, ...], readings: dict[str, Reading]
    ) -> Card:
        facts = [
            TenantFacts(
                id=subject.id,
                cgroups=subject.cgroups,
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
            self._memory.get(gpu.uuid, Memory()),
            self._clock_ns(),
        )
        self._memory[gpu.uuid] = card.memory
        return card

    def _describe(self, process: GpuProcess) -> CardProcess:
        identity = self._processes.identity(process.host_pid)
        return CardProcess(
            host_pid=process.host_pid,
            memory_bytes=process.memory_bytes,
            identity=identity,
            cgroup=self._cgroups.of(process.host_pid) if identity else "",
            region=self._region(process.host_pid) if identity else "",
            command=self._processes.command(process.host_pid) if identity else "",
        )

    def _learn_regions(self, subjects: tuple[Subject, ...]) -> None:
        wanted = {str(subject.region) for subject in subjects}
        if wanted != set(self._regions.values()):
            known = {region: file for file, region in self._regions.items()}
            self._regions = {
                known.get(region) or self._processes.file_of(Path(region) / GRANTS): region for region in wanted
            }

    def _region(self, host_pid: int) -> str:
        """The region that the process has mounted, or else was started with; a container may say anything."""
        mounted = self._processes.mounted_at(host_pid, container.REGION / GRANTS)
        if mounted is None:
            return self._processes.variable(host_pid, REGION_VARIABLE) or ""
        return self._regions.get(mounted, "")


def _read_all(subjects: tuple[Subject, ...]) -> tuple[dict[str, Reading], dict[str, str]]:
    readings: dict[str, Reading] = {}
    damaged: dict[str, str] = {}
    for subject in subjects:
        try:
            reading = Reading(subject.reader.grants(), subject.reader.usage(len(subject.gpu_uuids)))
        except RegionError as error:
            damaged[subject.id] = error.message
            continue
        if tuple(row.gpu_uuid for row in reading.grants.gpus) == subject.gpu_uuids:
            readings[subject.id] = reading
        else:
            damaged[subject.id] = f"region {subject.region}: damaged (other GPUs than the agent gave)"
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
        if not all(uuid in cards for uuid in subject.gpu_uuids):
            continue  # what a card holds that does not answer, nobody knows
        on = [cards[uuid] for uuid in subject.gpu_uuids]
        for slot in readings[subject.id].usage.slots:
            key = SlotKey(subject.id, slot.index, slot.claim)
            if not slot.alive and not any(card.unknown_ending or key in card.lingering for card in on):
                result.append(key)
    return tuple(result)
