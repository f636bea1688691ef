"""A node that exists in memory only. Each fake does what its real adapter does, as far as the agent can tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cgpu.adapters.mounts import HostFile
from cgpu.adapters.nvml import CardQuestions, GpuProcess
from cgpu.adapters.process import Identity
from cgpu.errors import DriverError
from cgpu.model.card_health import CardLook
from cgpu.model.region_files import GRANTS
from cgpu.model.tenant import Gpu, GpuPolicy, Policy, Share
from cgpu.model.units import GIB, MIB

GPU_UUIDS = ("GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa")


def gpu(index: int = 0, total_bytes: int = 16 * GIB, *, mig: bool = False) -> Gpu:
    """A card of 16 GiB, or of another size."""
    return Gpu(index, GPU_UUIDS[index], "Tesla T4", total_bytes, "550.163.01", simulated=True, mig=mig)


@dataclass
class FakeNode:
    """NVML: what is in ``listed`` is on the cards."""

    cards: tuple[Gpu, ...] = field(default_factory=lambda: (gpu(),))
    reserved_bytes: int = 300 * MIB
    listed: dict[str, list[GpuProcess]] = field(default_factory=dict)
    utilisation: dict[int, int] = field(default_factory=dict)
    has_limits: bool = False  # as drivers before 615
    refuses: set[str] = field(default_factory=set)  # cards whose driver fails to set a limit
    limits: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)  # (GPU, cgroup) -> soft, hard
    limit_calls: list[tuple[str, int, int | None]] = field(default_factory=list)  # cgroup, soft, hard

    def driver_reserved_bytes(self, gpu: Gpu) -> int:
        """Memory that the driver keeps for itself."""
        del gpu
        return self.reserved_bytes

    def questions(self, gpu: Gpu) -> CardQuestions:
        """There is no library that could be asked."""
        raise DriverError(f"GPU {gpu.index}: not a real one")

    def limits_memory(self, gpu: Gpu, cgroup: Path) -> bool:
        """Whether limits can be set."""
        del gpu, cgroup
        return self.has_limits

    def set_memory_limit(self, gpu: Gpu, cgroup: Path, soft_bytes: int, hard_bytes: int | None) -> None:
        """Set or clear a limit."""
        path = str(cgroup).removeprefix("/sys/fs/cgroup")
        if gpu.uuid in self.refuses:
            raise DriverError(f"GPU {gpu.index}: cgroup {path}: refused")
        self.limit_calls.append((path, soft_bytes, hard_bytes))
        if hard_bytes is None and soft_bytes == 0:
            self.limits.pop((gpu.uuid, path), None)
        else:
            self.limits[gpu.uuid, path] = (soft_bytes, gpu.total_bytes if hard_bytes is None else hard_bytes)

    def look(self, gpu: Gpu) -> CardLook:
        """Every card answers."""
        del gpu
        return CardLook()

    def wait_xid(self, seconds: float) -> tuple[str, int] | None:
        """There are none."""
        del seconds
        return None

    def gpus(self) -> tuple[Gpu, ...]:
        """All cards."""
        return self.cards

    def driver_version(self) -> str:
        """The driver's version."""
        return "550.163.01"

    def used_bytes(self, gpu: Gpu) -> int:
        """The driver's own part and all processes'."""
        return self.reserved_bytes + sum(process.memory_bytes or 0 for process in self.listed.get(gpu.uuid, []))

    def processes(self, gpu: Gpu) -> tuple[GpuProcess, ...]:
        """Processes on the card."""
        return tuple(self.listed.get(gpu.uuid, []))

    def utilisation_percent(self, gpu: Gpu) -> int:
        """Busy when anybody is on the card."""
        return 100 if self.listed.get(gpu.uuid) else 0

    def process_utilisation(self, gpu: Gpu, since_us: int) -> dict[int, int]:
        """Percent by host pid."""
        del gpu, since_us
        return dict(self.utilisation)


@dataclass
class FakeProcess:
    """A process of the fake host."""

    identity: Identity
    command: str = "python"
    variables: dict[str, str] = field(default_factory=dict)
    cgroup: str = "/"
    mounted: dict[PurePosixPath, Path] = field(default_factory=dict)  # by place: a file of the host


@dataclass
class FakeHost:
    """/proc and the cgroup tree in one: a process has both."""

    table: dict[int, FakeProcess] = field(default_factory=dict)
    leaves: set[str] = field(default_factory=set)
    can_make_leaves: bool = False
    has_v2: bool = False
    deleted: set[str] = field(default_factory=set)
    ending: set[str] = field(default_factory=set)  # leaves with a process that is in no list any more

    def spawn(
        self, host_pid: int, *, pid: int | None = None, region: Path | None = None, cgroup: str = "/"
    ) -> FakeProcess:
        """A new process; its start time is its pid times ten."""
        variables = {} if region is None else {"CGPU_REGION": str(region)}
        process = FakeProcess(Identity(pid or host_pid, host_pid * 10, 4026531836), "python", variables, cgroup)
        self.table[host_pid] = process
        return process

    def identities(self, host_pids: Collection[int]) -> dict[int, Identity | None]:
        """Who they are."""
        return {pid: self.table[pid].identity if pid in self.table else None for pid in host_pids}

    def start_ticks(self, host_pid: int) -> int | None:
        """When it started."""
        process = self.table.get(host_pid)
        return process.identity.start_ticks if process else None

    def command(self, host_pid: int) -> str:
        """Its short name."""
        process = self.table.get(host_pid)
        return process.command if process else ""

    def variable(self, host_pid: int, name: str) -> str | None:
        """An environment variable of its start."""
        process = self.table.get(host_pid)
        return process.variables.get(name) if process else None

    def values_of(self, name: str, besides: Collection[int] = ()) -> set[str]:
        """What it is of all processes but these."""
        others = (process for pid, process in self.table.items() if pid not in besides)
        return {process.variables[name] for process in others if name in process.variables}

    def with_mounted(self, path: Path, place: PurePosixPath) -> list[int]:
        """All processes that have the file mounted there."""
        return [pid for pid in self.table if self.mounted_at(pid, place) == self.file_of(path)]

    def find(self, identity: Identity) -> int | None:
        """Host pid of the process that is this one."""
        return next((pid for pid, process in self.table.items() if process.identity.is_same(identity)), None)

    def file_of(self, path: Path) -> HostFile | None:
        """All files are on one file system."""
        return HostFile("0:1", str(path))

    def mounted_at(self, host_pid: int, place: PurePosixPath) -> HostFile | None:
        """What the process has mounted there."""
        process = self.table.get(host_pid)
        path = process.mounted.get(place) if process else None
        return None if path is None else self.file_of(path)

    def uid_gid(self, host_pid: int) -> tuple[int, int] | None:
        """The agent's own."""
        del host_pid
        return None

    def of(self, host_pid: int) -> str:
        """The process's cgroup."""
        process = self.table.get(host_pid)
        return process.cgroup if process else ""

    def plan_leaf(self, tenant_id: str, host_pid: int) -> str:
        """A leaf below the root."""
        del host_pid
        return f"/cgpu-{tenant_id}" if self.can_make_leaves else ""

    def enter_leaf(self, path: str, host_pid: int) -> bool:
        """Move the process."""
        self.leaves.add(path)
        self.table[host_pid].cgroup = path
        return True

    def folder(self, path: str) -> Path | None:
        """Where the host has cgroup v2, every cgroup that was not deleted has one."""
        return Path(f"/sys/fs/cgroup{path}") if self.has_v2 and path and path not in self.deleted else None

    def populated(self, path: str) -> bool:
        """Whether a process lives there."""
        return path != "" and any(process.cgroup == path for process in self.table.values())

    def wait_until_empty(self, path: str, seconds: float) -> None:
        """What was ending has ended."""
        if seconds > 0:
            self.ending.discard(path)

    def remove_leaf(self, path: str) -> bool:
        """Remove it unless it is in use."""
        if self.populated(path) or path in self.ending:
            return False
        self.leaves.discard(path)
        return True


@dataclass
class FakeArbiter:
    """Remembers who takes part."""

    tenants: dict[tuple[str, Path], Share] = field(default_factory=dict)
    policies: dict[str, Policy] = field(default_factory=dict)
    reclaimed: list[tuple[Path, int]] = field(default_factory=list)
    running: bool = False

    def start(self) -> None:
        """Start."""
        self.running = True

    def stop(self) -> None:
        """End."""
        self.running = False

    def add_tenant(self, gpu: Gpu, region: Path, row: int, share: Share) -> None:
        """Take part; the grants must be there."""
        assert (region / GRANTS).exists(), row
        self.tenants[gpu.uuid, region] = share

    def update_tenant(self, gpu: Gpu, region: Path, share: Share) -> None:
        """Another share."""
        assert (gpu.uuid, region) in self.tenants
        self.tenants[gpu.uuid, region] = share

    def remove_tenant(self, gpu: Gpu, region: Path) -> None:
        """Leave."""
        self.tenants.pop((gpu.uuid, region), None)

    def set_policy(self, gpu: Gpu, policy: Policy, settings: GpuPolicy) -> None:
        """Another policy."""
        del settings
        self.policies[gpu.uuid] = policy

    def counters(self, gpu: Gpu) -> Mapping[str, int]:
        """How many take part."""
        return {"tenants": sum(1 for uuid, _ in self.tenants if uuid == gpu.uuid)}

    def reclaim(self, region: Path, slots: Sequence[int], opened: tuple[int, int]) -> None:
        """Remember it."""
        del opened
        self.reclaimed += [(region, slot) for slot in slots]
