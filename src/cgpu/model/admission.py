"""Whether a share fits on a GPU: a snapshot in, a decision with its reasons out."""

from __future__ import annotations

from dataclasses import dataclass

from cgpu.errors import CapacityError
from cgpu.model.tenant import Gpu, GpuPolicy, Share
from cgpu.model.units import MIB, format_memory


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What stands on a GPU before the request."""

    shares: tuple[Share, ...]
    overhead_bytes: int = 0  # what tenants hold beyond their quotas, by NVML
    foreign_bytes: int = 0  # what processes of no tenant, and the driver itself, hold

    @property
    def committed_bytes(self) -> int:
        """Quotas, overheads and foreign use together."""
        return sum(share.memory_bytes for share in self.shares) + self.overhead_bytes + self.foreign_bytes


def admit(gpu: Gpu, policy: GpuPolicy, occupancy: Occupancy, request: Share) -> None:
    """Raise CapacityError unless the request fits beside what stands there.

    Over-commit of memory is allowed only where the GPU's policy says so; a single share above the
    card is refused in any case, and so is the 21st tenant.
    """
    if len(occupancy.shares) >= policy.max_inst:
        raise CapacityError(
            "Error occurs when creating cGPU instance: unknown: "
            f"GPU {gpu.uuid} already has {len(occupancy.shares)} tenants (maximum {policy.max_inst})",
            "end a tenant, or use another GPU",
        )
    fits_card(gpu, request)
    left = gpu.total_bytes - occupancy.committed_bytes
    if request.memory_bytes > left and not policy.overcommit:
        raise CapacityError(
            f"GPU {gpu.index} ({gpu.uuid}) has {max(left, 0) // MIB}MiB of memory left, "
            f"asked for {format_memory(request.memory_bytes)}",
            "ask for less, end a tenant, use another GPU, or allow over-commit on this one",
        )


def fits_card(gpu: Gpu, request: Share) -> None:
    """Raise CapacityError when the request is more than the whole card."""
    if request.memory_bytes > gpu.total_bytes:
        raise CapacityError(
            f"GPU {gpu.index} ({gpu.name}) has {gpu.total_bytes // MIB}MiB in all, "
            f"asked for {format_memory(request.memory_bytes)}",
            "ask for less",
        )
