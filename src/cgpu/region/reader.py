"""Reading a tenant's region: snapshots as values.

Files are read with ``pread``, never mapped: a tenant owns its usage file and could truncate it,
which would kill a process that has it mapped with SIGBUS. A word that matters is read until two
readings agree, so a snapshot is a state that the tenant really was in. Whatever the bytes are, the
only exception is RegionError.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar, cast

from cgpu.errors import RegionError
from cgpu.model.region_files import GRANTS, LOCKS, USAGE
from cgpu.region import layout
from cgpu.region.words import Account, Charge, effective_units

_STABLE_READS: Final = 8  # a tenant that charges all the time changes its words at each reading
_F_OFD_GETLK: Final = 36  # linux/fcntl.h; not in the fcntl module
_WORD: Final = struct.Struct("<Q")
_FLOCK: Final = struct.Struct("hhqqi4x")
_KINDS: Final = {
    GRANTS: (layout.CGPU_GRANTS_MAGIC, ctypes.sizeof(layout.Grants)),
    USAGE: (layout.CGPU_USAGE_MAGIC, ctypes.sizeof(layout.Usage)),
}
_HEARTBEAT: Final = layout.GrantsHeader.heartbeat_ns

_Data = TypeVar("_Data", bound="ctypes.Structure | ctypes.Array[Any]")


@dataclass(frozen=True, slots=True)
class GrantedGpu:
    """What the agent and the arbiter have written for one GPU of the tenant."""

    row: int
    gpu_uuid: str
    nvml_index: int
    quota_bytes: int
    overhead_bytes: int
    context_bytes: int
    policy: int
    compute_percent: int  # 0: none given
    weight: int
    priority: int
    grant: int
    grant_deadline_ns: int
    utilisation_percent: int
    memory_layer: int
    busy_ns: int
    total_bytes: int
    share_ppm: int = 0  # of the card, if every tenant had work
    waited_ns: int = 0
    turns: int = 0
    preempted: int = 0
    preempting: int = 0
    compute_limit_percent: int = 0  # 0: none given
    demand: int = 0  # CGPU_DEMAND_*


@dataclass(frozen=True, slots=True)
class GrantsSnapshot:
    """The grants file."""

    tenant_id: str
    tenant_name: str
    generation: int
    heartbeat_ns: int
    refuse_managed: bool
    gpus: tuple[GrantedGpu, ...]


@dataclass(frozen=True, slots=True)
class SlotGpu:
    """One process of the tenant on one GPU row."""

    charge_bytes: int  # with an operation that has happened but is not completed
    charge_seq: int
    gate: int
    contexts: int
    explicit_bytes: int
    managed_bytes: int
    launches: int
    drained_ns: int
    waited_ns: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A process slot in use. ``alive``: its owner still holds the slot's lock."""

    index: int
    alive: bool
    pid: int
    start_ticks: int
    pid_namespace: int
    claim: int
    driver_version: int
    command: str
    gpus: tuple[SlotGpu, ...]


@dataclass(frozen=True, slots=True)
class UsedGpu:
    """The tenant as a whole on one GPU row."""

    used_bytes: int
    oom_count: int
    peak_bytes: int
    denied_count: int


@dataclass(frozen=True, slots=True)
class UsageSnapshot:
    """The usage file, for the first ``gpu_count`` rows."""

    gpus: tuple[UsedGpu, ...]
    slots: tuple[Slot, ...]
    strange_slots: int = 0  # in a state that there is not: somebody scribbles
    settled: bool = True  # nothing was charged while it was read: charges and account belong together


class Descriptors(NamedTuple):
    """Of a region's open files."""

    usage: int
    grants: int
    locks: int


def region_major(folder: Path) -> int | None:
    """The layout's major version of a region, whichever it is; None where there is no region."""
    try:
        descriptor = os.open(folder / GRANTS, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            data = os.pread(descriptor, ctypes.sizeof(layout.GrantsHeader), 0)
        finally:
            os.close(descriptor)
        header = layout.GrantsHeader.from_buffer_copy(data)
    except (OSError, ValueError):
        return None
    return int(header.major) if header.magic == layout.CGPU_GRANTS_MAGIC else None


class RegionReader:
    """Reads one tenant's folder. Holds no lock and no mapping; close it to release its files."""

    def __init__(self, folder: Path) -> None:
        """Open the folder. Raises RegionError when a file is missing, foreign or of another version."""
        self.folder = folder
        self._files: dict[str, int] = {}
        # Most tenants are idle, and the agent looks at all of them twice a second: what has not changed is not
        # decoded again.
        self._granted: tuple[bytes, GrantsSnapshot] | None = None
        self._used: tuple[bytes, int, UsageSnapshot] | None = None
        self._slots_seen = 0  # that were ever in use, at the last reading
        self._granted_rows = layout.CGPU_MAX_GPUS  # of the table, likewise
        try:
            for name in (GRANTS, USAGE, LOCKS):
                self._files[name] = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._check(GRANTS, self._structure(GRANTS, layout.GrantsHeader, 0))
            self._check(USAGE, self._structure(USAGE, layout.UsageHeader, 0))
        except OSError as error:
            self.close()
            raise RegionError(f"region {folder}: {error.strerror}") from error
        except RegionError:
            self.close()
            raise

    def close(self) -> None:
        """Close the files; idempotent."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}

    def descriptors(self) -> Descriptors:
        """The open files, to be read only; their names may be gone."""
        return Descriptors(self._files[USAGE], self._files[GRANTS], self._files[LOCKS])

    def grants(self) -> GrantsSnapshot:
        """What flows down. Raises RegionError when it is no longer a region's file."""
        data = self._bytes(GRANTS, _granted_bytes(self._granted_rows), 0)
        header = layout.GrantsHeader.from_buffer_copy(data)
        self._check(GRANTS, header)
        if header.gpu_count > layout.CGPU_MAX_GPUS:
            raise self._damaged(f"{header.gpu_count} GPUs")
        if header.gpu_count > self._granted_rows:
            data = self._bytes(GRANTS, _granted_bytes(header.gpu_count), 0)
        self._granted_rows = header.gpu_count
        unchanging = data[: _HEARTBEAT.offset] + data[_HEARTBEAT.offset + _HEARTBEAT.size :]
        if self._granted is None or self._granted[0] != unchanging:
            self._granted = unchanging, self._grants(header, data)
        return replace(self._granted[1], heartbeat_ns=header.heartbeat_ns)

    def _grants(self, header: layout.GrantsHeader, data: bytes) -> GrantsSnapshot:
        rows = (layout.GrantsGpu * header.gpu_count).from_buffer_copy(data, layout.Grants.gpu.offset)
        return GrantsSnapshot(
            tenant_id=self._text(header.tenant_id),
            tenant_name=self._text(header.tenant_name),
            generation=header.generation,
            heartbeat_ns=header.heartbeat_ns,
            refuse_managed=bool(header.flags & layout.CGPU_TENANT_REFUSE_MANAGED),
            gpus=tuple(_granted(index, row) for index, row in enumerate(rows) if row.flags & layout.CGPU_GPU_PRESENT),
        )

    def usage(self, gpu_count: int) -> UsageSnapshot:
        """What flows up, for the first ``gpu_count`` rows (0 to 16) of the GPU table.

        Raises RegionError when it is no longer a region's file: its tenant may have written anything.
        """
        data, settled = self._settled(gpu_count)
        if self._used is not None and self._used[:2] == (data, gpu_count) and self._used[2].settled:
            last = self._used[2]
            if all(self.slot_alive(slot.index) == slot.alive for slot in last.slots):
                return last
        snapshot = self._usage(data, gpu_count, settled)
        self._used = data, gpu_count, snapshot
        return snapshot

    def _settled(self, gpu_count: int) -> tuple[bytes, bool]:
        """The file up to the last slot that was ever in use, and whether the accounts stood still at that moment."""
        for _ in range(_STABLE_READS):
            data = self._seen()
            if self._used is not None and self._used[0] == data and self._used[2].settled:
                return data, True
            rows = _rows(data, gpu_count)
            again = self._structure(USAGE, layout.UsageGpu * gpu_count, layout.Usage.gpu.offset)
            if [row.account for row in again] == [row.account for row in rows]:
                return data, True
        return data, False

    def _seen(self) -> bytes:
        data = self._bytes(USAGE, _usage_bytes(self._slots_seen), 0)
        header = layout.UsageHeader.from_buffer_copy(data)
        self._check(USAGE, header)
        seen = min(header.slots_seen, layout.CGPU_MAX_SLOTS)
        if seen > self._slots_seen:
            data = self._bytes(USAGE, _usage_bytes(seen), 0)
        self._slots_seen = seen
        return data[: _usage_bytes(seen)]

    def _usage(self, data: bytes, gpu_count: int, settled: bool) -> UsageSnapshot:
        rows = _rows(data, gpu_count)
        seen = (len(data) - _usage_bytes(0)) // ctypes.sizeof(layout.UsageSlot)
        slots = (layout.UsageSlot * seen).from_buffer_copy(data, layout.Usage.slot.offset)
        accounts = [Account.unpack(row.account) for row in rows]
        return UsageSnapshot(
            gpus=tuple(
                UsedGpu(account.used_bytes, row.oom_count, row.peak_bytes, row.denied_count)
                for account, row in zip(accounts, rows, strict=True)
            ),
            slots=tuple(
                self._slot(index, slot, accounts)
                for index, slot in enumerate(slots)
                if slot.header.state == layout.CGPU_SLOT_LIVE
            ),
            strange_slots=sum(
                slot.header.state not in (layout.CGPU_SLOT_FREE, layout.CGPU_SLOT_LIVE) for slot in slots
            ),
            settled=settled,
        )

    def charge_seqs(self, slots: Collection[int], row: int) -> dict[int, int]:
        """The sequence numbers of these slots' charges now: unchanged means that nothing was charged since."""
        if not slots:
            return {}
        size, first = ctypes.sizeof(layout.UsageSlot), min(slots)
        data = self._bytes(USAGE, (max(slots) - first + 1) * size, layout.Usage.slot.offset + first * size)
        place = (
            layout.UsageSlot.gpu.offset + row * ctypes.sizeof(layout.UsageSlotGpu) + layout.UsageSlotGpu.charge.offset
        )
        return {slot: Charge.unpack(_WORD.unpack_from(data, (slot - first) * size + place)[0]).seq for slot in slots}

    def slot_alive(self, slot: int) -> bool:
        """Whether somebody holds the lock of that slot: the kernel's answer, whatever the pid."""
        query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, slot, 1, 0)
        try:
            answer = fcntl.fcntl(self._files[LOCKS], _F_OFD_GETLK, query)
        except OSError as error:
            raise RegionError(f"region {self.folder}: {error.strerror}") from error
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _slot(self, index: int, slot: layout.UsageSlot, accounts: list[Account]) -> Slot:
        header = slot.header
        return Slot(
            index=index,
            alive=self.slot_alive(index),
            pid=header.pid,
            start_ticks=header.start_ticks,
            pid_namespace=header.pid_namespace,
            claim=header.claim,
            driver_version=header.driver_version,
            command=header.comm.decode("utf-8", "replace"),
            gpus=tuple(_slot_gpu(index, slot.gpu[row], account) for row, account in enumerate(accounts)),
        )

    def _check(self, name: str, header: layout.GrantsHeader | layout.UsageHeader) -> None:
        magic, size = _KINDS[name]
        if header.magic != magic:
            raise RegionError(f"region {self.folder}/{name}: not a region file")
        if header.major != layout.CGPU_REGION_MAJOR:
            raise RegionError(
                f"region {self.folder}/{name}: layout version {header.major}, known is {layout.CGPU_REGION_MAJOR}",
                "use the cgpu that created it",
            )
        actual = os.fstat(self._files[name]).st_size
        if header.size_bytes < size or actual < header.size_bytes:
            raise RegionError(
                f"region {self.folder}/{name}: truncated ({actual} of {max(size, header.size_bytes)} bytes)"
            )

    def _structure(self, name: str, kind: type[_Data], offset: int) -> _Data:
        return cast("_Data", kind.from_buffer_copy(self._bytes(name, ctypes.sizeof(kind), offset)))

    def _bytes(self, name: str, size: int, offset: int) -> bytes:
        try:
            data = os.pread(self._files[name], size, offset)
        except OSError as error:
            raise RegionError(f"region {self.folder}/{name}: {error.strerror}") from error
        except KeyError:
            raise RegionError(f"region {self.folder}/{name}: closed") from None
        if len(data) < size:
            raise RegionError(f"region {self.folder}/{name}: truncated at {offset + len(data)} bytes")
        return data

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._damaged("a name that is not UTF-8") from None

    def _damaged(self, what: str) -> RegionError:
        return RegionError(f"region {self.folder}: damaged ({what})")


def _granted_bytes(rows: int) -> int:
    return int(layout.Grants.gpu.offset) + ctypes.sizeof(layout.GrantsGpu) * rows


def _usage_bytes(slots: int) -> int:
    return int(layout.Usage.slot.offset) + ctypes.sizeof(layout.UsageSlot) * slots


def _rows(data: bytes, gpu_count: int) -> ctypes.Array[layout.UsageGpu]:
    return (layout.UsageGpu * gpu_count).from_buffer_copy(data, layout.Usage.gpu.offset)


def _granted(index: int, row: layout.GrantsGpu) -> GrantedGpu:
    return GrantedGpu(
        row=index,
        gpu_uuid=f"GPU-{uuid.UUID(bytes=bytes(row.uuid))}",
        nvml_index=row.nvml_index,
        quota_bytes=row.quota_bytes,
        overhead_bytes=row.overhead_bytes,
        context_bytes=row.context_bytes,
        policy=row.policy,
        compute_percent=row.compute_percent,
        weight=row.weight,
        priority=row.priority,
        grant=row.grant,
        grant_deadline_ns=row.grant_deadline_ns,
        utilisation_percent=row.utilisation_percent,
        memory_layer=row.memory_layer,
        busy_ns=row.busy_ns,
        total_bytes=row.total_bytes,
        share_ppm=row.share_ppm,
        waited_ns=row.waited_ns,
        turns=row.turns,
        preempted=row.preempted,
        preempting=row.preempting,
        compute_limit_percent=row.compute_limit_percent,
        demand=row.demand,
    )


def _slot_gpu(index: int, row: layout.UsageSlotGpu, account: Account) -> SlotGpu:
    charge, intent = Charge.unpack(row.charge), Charge.unpack_intent(row.intent)
    return SlotGpu(
        charge_bytes=max(effective_units(account, index, charge, intent), 0) * layout.CGPU_UNIT_BYTES,
        charge_seq=charge.seq,
        gate=row.gate,
        contexts=row.contexts,
        explicit_bytes=row.explicit_bytes,
        managed_bytes=row.managed_bytes,
        launches=row.launches,
        drained_ns=row.drained_ns,
        waited_ns=row.waited_ns,
    )
