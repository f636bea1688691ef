"""GPUs, shares, tenants and policies as values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

MAX_TENANTS_PER_GPU: Final = 20  # as cGPU: at most 20 instances on a card
PRIO_RATIO_MIN: Final = 20  # cGPU's range of prio_ratio
PRIO_RATIO_MAX: Final = 99
PRIO_RATIO_DEFAULT: Final = 80
QUANTUM_MS_MAX: Final = 1000
QUANTUM_MS_DEFAULT: Final = 20  # long beside the hand-over (0.2 to 0.4 ms were seen), short beside a reader's patience


class Policy(enum.IntEnum):
    """How a GPU divides its time; the numbers are cGPU's."""

    FAIR = 0  # a fixed slice of 1/max_inst; unused slices are wasted
    PREEMPTIVE = 1  # 1/current tenants; unused time goes to the others
    WEIGHTED = 2  # by weight; unused time goes to the others
    FIXED = 3  # a fixed percentage
    SOFT = 4  # percentages as guarantees; unused time goes to the others
    NATIVE = 5  # the driver's own scheduling: memory isolation only

    @property
    def enforces_compute_percent(self) -> bool:
        """Whether ``--compute`` is enforced rather than only recorded."""
        return self in (Policy.FIXED, Policy.SOFT)


class MemoryLayer(enum.StrEnum):
    """What enforces the memory quota."""

    SHIM = "shim"
    DRIVER = "driver"
    BROKER = "broker"


class ComputeLayer(enum.StrEnum):
    """What enforces the share of time."""

    SLOTS = "slots"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card of the node, as NVML describes it."""

    index: int  # NVML's
    uuid: str  # "GPU-..."
    name: str
    total_bytes: int
    driver_version: str
    simulated: bool
    mig: bool = False
    pci_bus_id: str = ""
    minor: int | None = None  # its device node is /dev/nvidia<minor>; None: NVML does not say


@dataclass(frozen=True, slots=True)
class Share:
    """What a tenant has on one GPU."""

    gpu_uuid: str
    memory_bytes: int
    compute_percent: int | None = None  # 1..100; None: none given
    compute_limit_percent: int | None = None  # 1..100: never more than that; None: no cap of its own
    weight: int = 1  # 1..1000
    priority: int = 0  # 0 normal, 1 high


@dataclass(frozen=True, slots=True)
class Tenant:
    """One container, one process tree started by ``cgpu run``, or the users of one CDI device."""

    id: str
    name: str
    shares: tuple[Share, ...]
    cgroup: str = ""  # path below the cgroup root; empty: known by its processes' slots only
    refuse_managed: bool = False
    memory_layer: MemoryLayer = MemoryLayer.SHIM  # in force
    container: str = ""  # the container's id, or "cdi"; its processes may have any user. Empty: not a container
    require_layer: MemoryLayer | None = None  # nothing weaker will do; None: whatever the node has
    promised: tuple[Share, ...] = ()  # what others count on that it has, in the order of its shares; empty: its shares

    def share_on(self, gpu_uuid: str) -> Share | None:
        """The tenant's share of that GPU, if it has one."""
        return next((share for share in self.shares if share.gpu_uuid == gpu_uuid), None)

    def kept_on(self, gpu_uuid: str) -> Share | None:
        """What of that GPU nobody else may have: what it was promised, whatever part of that it has now."""
        return next((share for share in self.promised or self.shares if share.gpu_uuid == gpu_uuid), None)


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """One process of a tenant on one GPU."""

    pid: int  # in the process's own PID namespace
    host_pid: int | None
    command: str
    memory_bytes: int
    bypasses_shim: bool = False  # on the card, in the tenant's cgroup, without a slot


@dataclass(frozen=True, slots=True)
class GpuPolicy:
    """How one GPU is shared. ``policy`` None: 1, or 2 once a tenant's weight is above 1 (as cGPU)."""

    policy: Policy | None = None
    max_inst: int = MAX_TENANTS_PER_GPU  # most tenants, and the slices into which policy 0 cuts the time
    overcommit: bool = False
    prio_ratio: int = PRIO_RATIO_DEFAULT  # 20..99: percent of the time that high priority may take from the others
    quantum_ms: int = QUANTUM_MS_DEFAULT  # 1..1000: length of a slot
    share_slots: bool = False  # tenants that leave the card idle in their slots have them together

    def in_force(self, shares: tuple[Share, ...]) -> Policy:
        """The policy that holds for these shares of the GPU."""
        if self.policy is not None:
            return self.policy
        return Policy.WEIGHTED if any(share.weight > 1 for share in shares) else Policy.PREEMPTIVE
