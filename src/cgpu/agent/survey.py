"""One look at the node: NVML, the regions and /proc, read in the order that makes them comparable."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cgpu.adapters.mounts import HostFile
from cgpu.adapters.nvml import GpuProcess
from cgpu.adapters.process import Identity
from cgpu.adapters.region_words import RegionList, RegionWords
from cgpu.agent.attribution import Attributed, Card, CardProcess, Memory, Owners, SlotKey, TenantFacts, attribute
from cgpu.agent.doubts import Claim, Doubts, doubts_of
from cgpu.agent.ports import Cgroups, GpuNode, Processes
from cgpu.agent.rounds import Group
from cgpu.agent.stillness import Glance
from cgpu.agent.subjects import Subject, regions_of
from cgpu.errors import DriverError, RegionError
from cgpu.model import container
from cgpu.model.region_files import GRANTS
from cgpu.model.tenant import Gpu
from cgpu.region.reader import GrantsSnapshot, RegionReader, UsageSnapshot, UsedGpu

REGION_VARIABLE = "CGPU_REGION"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a tenant's region said."""

    grants: GrantsSnapshot
    usage: UsageSnapshot


@dataclass(frozen=True, slots=True)
class Survey:
    """The node at one moment."""

    readings: dict[str, Reading]
    damaged: dict[str, str]  # tenant id -> what is wrong with its region, or contradicts the card
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


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What is needed for a glance at a group of cards, as long as nobody comes or goes."""

    tenants: tuple[tuple[str, tuple[str, ...]], ...]
    regions: RegionList

    @classmethod
    def of(cls, subjects: tuple[Subject, ...], cards: Group) -> _Prepared:
        chosen = [subject for subject in subjects if not cards.isdisjoint(subject.gpu_uuids)]
        return cls(tuple((subject.id, subject.cgroups) for subject in chosen), regions_of(chosen))


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
        self._learnt: tuple[Subject, ...] | None = None
        self._doubts = Doubts()
        self._words = RegionWords()
        self._prepared_of: tuple[Subject, ...] = ()
        self._prepared: dict[Group, _Prepared] = {}

    def processes_of_others(self, tenant_ids: Collection[str]) -> set[int]:
        """Host pids of processes that had a slot of another tenant at the last look at their card. Any thread asks."""
        owners = [memory.owners for memory in tuple(self._memory.values())]
        return {pid for rows in owners for pid, slot in rows.items() if slot.tenant not in tenant_ids}

    def glance(self, subjects: tuple[Subject, ...], cards: Group) -> Glance | None:
        """What a look at these cards would begin with, undecoded; None where a card does not answer.

        The same tuple of subjects stands for the same open files.
        """
        if self._prepared_of is not subjects:
            self._prepared_of, self._prepared = subjects, {}
        known = self._prepared.get(cards)
        if known is None:
            known = self._prepared[cards] = _Prepared.of(subjects, cards)
        try:
            return Glance(
                tenants=known.tenants,
                words=self._words.read(known.regions),
                cards=tuple(
                    [
                        (self._node.processes(gpu), self._node.used_bytes(gpu))
                        for gpu in self._node.gpus()
                        if gpu.uuid in cards
                    ]
                ),
            )
        except DriverError:
            return None  # a look says what is wrong

    def look(self, subjects: tuple[Subject, ...], cards: Collection[str] | None = None) -> Survey:
        """Regions first, then NVML, then the charges' sequence numbers again. Never raises for a card or a region.

        ``subjects`` are all tenants. Only these ``cards``, by UUID, and who has a share of one of them are looked at;
        None: all.
        """
        self._learn_regions(subjects)
        self._doubts.keep_only(subject.id for subject in subjects)
        gpus = self._node.gpus()
        if cards is not None:
            gpus = tuple(gpu for gpu in gpus if gpu.uuid in cards)
            subjects = tuple(subject for subject in subjects if any(uuid in cards for uuid in subject.gpu_uuids))
        readings, damaged = read_all(subjects)
        listed: dict[str, tuple[GpuProcess, ...]] = {}
        used: dict[str, int] = {}
        failed: dict[str, DriverError] = {}
        for gpu in gpus:
            try:
                listed[gpu.uuid], used[gpu.uuid] = self._node.processes(gpu), self._node.used_bytes(gpu)
            except DriverError as error:  # one card that is lost does not hide the others
                failed[gpu.uuid] = error
                listed.pop(gpu.uuid, None)
        identities = self._processes.identities({row.host_pid for rows in listed.values() for row in rows})
        looks = {
            gpu.uuid: self._card(gpu, [(row, identities[row.host_pid]) for row in listed[gpu.uuid]], subjects, readings)
            for gpu in gpus
            if gpu.uuid in listed
        }
        for tenant_id, what in self._contradictions(subjects, readings, looks):
            damaged.setdefault(tenant_id, what)
        return Survey(readings, damaged, looks, used, _releasable(subjects, readings, looks), failed)

    def _contradictions(
        self, subjects: tuple[Subject, ...], readings: dict[str, Reading], looks: dict[str, Card]
    ) -> Iterator[tuple[str, str]]:
        now_ns = self._clock_ns()
        for subject in subjects:
            reading = readings.get(subject.id)
            for row, uuid in enumerate(subject.gpu_uuids if reading else ()):
                if reading is None or uuid not in looks:
                    continue
                claim = Claim(reading.usage, row, reading.grants.gpus[row], looks[uuid].tenants[subject.id])
                what = self._doubts.weigh(subject.id, uuid, doubts_of(claim), now_ns)
                if what:
                    yield subject.id, f"region {subject.region}: {what}"

    def _card(
        self,
        gpu: Gpu,
        listed: Sequence[tuple[GpuProcess, Identity | None]],
        subjects: tuple[Subject, ...],
        readings: dict[str, Reading],
    ) -> Card:
        facts = [
            TenantFacts(
                id=subject.id,
                cgroups=subject.cgroups,
                region=str(subject.region),
                row=row,
                slots=reading.usage.slots if reading else (),
                unstable=_moved(subject.reader, reading.usage, row) if subject.reader and reading else frozenset(),
            )
            for subject in subjects
            for reading in (readings.get(subject.id),)
            for row, uuid in enumerate(subject.gpu_uuids)
            if uuid == gpu.uuid
        ]
        owners = Owners(facts)
        card = attribute(
            [self._describe(process, identity, owners) for process, identity in listed],
            owners,
            self._memory.get(gpu.uuid, Memory()),
            self._clock_ns(),
        )
        self._memory[gpu.uuid] = card.memory
        return card

    def _describe(self, process: GpuProcess, identity: Identity | None, owners: Owners) -> CardProcess:
        """What is known of it; where it comes from is asked only where no slot, or more than one, is its."""
        pid = process.host_pid
        if identity is None or len(owners.slots_of(identity)) == 1:
            return CardProcess(pid, process.memory_bytes, identity)
        return CardProcess(
            host_pid=pid,
            memory_bytes=process.memory_bytes,
            identity=identity,
            cgroup=self._cgroups.of(pid),
            region=self._region(pid),
            command=self._processes.command(pid),
        )

    def _learn_regions(self, subjects: tuple[Subject, ...]) -> None:
        if self._learnt is subjects:
            return
        known = {region: file for file, region in self._regions.items()}
        self._regions = {
            known.get(region) or self._processes.file_of(Path(region) / GRANTS): region
            for region in {str(subject.region) for subject in subjects}
        }
        self._learnt = subjects

    def _region(self, host_pid: int) -> str:
        """The region that the process has mounted, or else was started with; a container may say anything."""
        mounted = self._processes.mounted_at(host_pid, container.REGION / GRANTS)
        if mounted is None:
            return self._processes.variable(host_pid, REGION_VARIABLE) or ""
        return self._regions.get(mounted, "")


def read_all(subjects: Iterable[Subject]) -> tuple[dict[str, Reading], dict[str, str]]:
    """What the regions say, and what is wrong with them, by tenant."""
    readings: dict[str, Reading] = {}
    damaged: dict[str, str] = {}
    for subject in subjects:
        if subject.reader is None:
            continue
        try:
            grants = subject.reader.grants()
        except RegionError as error:
            damaged[subject.id] = error.message
            continue
        if tuple(row.gpu_uuid for row in grants.gpus) != subject.gpu_uuids:
            damaged[subject.id] = f"region {subject.region}: damaged (other GPUs than the agent gave)"
            continue
        try:
            usage = subject.reader.usage(len(subject.gpu_uuids))
        except RegionError as error:
            # Who spoils its account has charged nothing: what the card holds for its processes is still its own.
            damaged[subject.id] = error.message
            usage = UsageSnapshot(tuple(UsedGpu(0, 0, 0, 0) for _ in subject.gpu_uuids), ())
        readings[subject.id] = Reading(grants, usage)
    return readings, damaged


def _moved(reader: RegionReader, usage: UsageSnapshot, row: int) -> frozenset[int]:
    indices = [slot.index for slot in usage.slots]
    try:
        now = reader.charge_seqs(indices, row)
    except RegionError:
        return frozenset(indices)
    return frozenset(slot.index for slot in usage.slots if slot.gpus[row].charge_seq != now[slot.index])


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
