"""What the agent needs of the outside, as types: real adapters and the fakes of the tests both fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from cgpu.adapters.mounts import HostFile
from cgpu.adapters.nvml import CardQuestions, GpuProcess
from cgpu.adapters.process import Identity
from cgpu.model.card_health import CardLook
from cgpu.model.tenant import Gpu, GpuPolicy, Policy, Share


class GpuNode(Protocol):
    """NVML of this machine; ``cgpu.adapters.nvml.NvmlNode``."""

    def gpus(self) -> tuple[Gpu, ...]:
        """All cards."""

    def driver_version(self) -> str:
        """The driver's version."""

    def used_bytes(self, gpu: Gpu) -> int:
        """Memory in use by anybody."""

    def driver_reserved_bytes(self, gpu: Gpu) -> int:
        """Memory that the driver keeps for itself."""

    def questions(self, gpu: Gpu) -> CardQuestions:
        """What ``processes`` and ``used_bytes`` ask, for a library to ask."""

    def processes(self, gpu: Gpu) -> tuple[GpuProcess, ...]:
        """Processes on the card."""

    def limits_memory(self, gpu: Gpu, cgroup: Path) -> bool:
        """Whether the driver can limit a cgroup's memory on the card."""

    def set_memory_limit(self, gpu: Gpu, cgroup: Path, soft_bytes: int, hard_bytes: int | None) -> None:
        """Limit a cgroup on the card; hard None: none."""

    def utilisation_percent(self, gpu: Gpu) -> int:
        """Share of time in which the card was busy."""

    def process_utilisation(self, gpu: Gpu, since_us: int) -> dict[int, int]:
        """Percent by host pid."""

    def look(self, gpu: Gpu) -> CardLook:
        """Whether the card answers."""

    def wait_xid(self, seconds: float) -> tuple[str, int] | None:
        """The next Xid of any card."""


class Processes(Protocol):
    """Processes of the host; ``cgpu.adapters.process.ProcessTable``."""

    def identities(self, host_pids: Collection[int]) -> dict[int, Identity | None]:
        """Who they are; None for one that is gone."""

    def start_ticks(self, host_pid: int) -> int | None:
        """When it started; None when there is none."""

    def command(self, host_pid: int) -> str:
        """Its short name."""

    def variable(self, host_pid: int, name: str) -> str | None:
        """An environment variable of its start."""

    def values_of(self, name: str, besides: Collection[int] = ()) -> set[str]:
        """What it is of all processes but these."""

    def with_mounted(self, path: Path, place: PurePosixPath) -> list[int]:
        """All processes that have this file of the host mounted there."""

    def find(self, identity: Identity) -> int | None:
        """Host pid of the process that is this one; None when there is none."""

    def file_of(self, path: Path) -> HostFile | None:
        """A file of this host, whatever it is called elsewhere."""

    def mounted_at(self, host_pid: int, place: PurePosixPath) -> HostFile | None:
        """The file that the process has mounted there."""

    def uid_gid(self, host_pid: int) -> tuple[int, int] | None:
        """Its user and group."""


class Cgroups(Protocol):
    """Control groups; ``cgpu.adapters.cgroup.CgroupTree``."""

    def of(self, host_pid: int) -> str:
        """The process's cgroup."""

    def plan_leaf(self, tenant_id: str, host_pid: int) -> str:
        """Where a leaf for the tenant would be; "" where none can be made."""

    def enter_leaf(self, path: str, host_pid: int) -> bool:
        """Make it and move the process there."""

    def folder(self, path: str) -> Path | None:
        """The cgroup's folder, which the driver takes for its name; None without cgroup v2 or such a cgroup."""

    def populated(self, path: str) -> bool:
        """Whether a process lives there."""

    def wait_until_empty(self, path: str, seconds: float) -> None:
        """Wait for its last process to be gone, at most so long."""

    def remove_leaf(self, path: str) -> bool:
        """Remove it; False while it is in use."""


class ArbiterControl(Protocol):
    """The native thread that divides the time of the cards; ``cgpu.adapters.arbiter.NativeArbiter``."""

    def start(self) -> None:
        """Start the thread."""

    def stop(self) -> None:
        """End the thread; the tenants then keep to their shares by themselves."""

    def add_tenant(self, gpu: Gpu, region: Path, row: int, share: Share) -> None:
        """Let a tenant take part on one GPU. Idempotent."""

    def update_tenant(self, gpu: Gpu, region: Path, share: Share) -> None:
        """Another weight, percentage or priority, from the next slot on."""

    def remove_tenant(self, gpu: Gpu, region: Path) -> None:
        """The tenant leaves the GPU. Idempotent."""

    def set_policy(self, gpu: Gpu, policy: Policy, settings: GpuPolicy) -> None:
        """How this GPU's time is divided from the next slot on."""

    def counters(self, gpu: Gpu) -> Mapping[str, int]:
        """Slots given, time held and the like since the start."""

    def reclaim(self, region: Path, slots: Sequence[int], opened: tuple[int, int]) -> None:
        """Return what dead processes had charged; one that is not dead after all is left alone. Raises RegionError.

        ``opened``: descriptors of the region's usage and locks files, whose names may be gone.
        """
