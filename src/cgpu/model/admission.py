"""Whether a share fits on a GPU: a snapshot in, a decision with its reasons out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cgpu.errors import AmountError, CapacityError
from cgpu.model.tenant import Gpu, GpuPolicy, Share
from cgpu.model.units import MIB, format_memory

_WHOLE_PERCENT: Final = 100
_ROUNDING_PERCENT: Final = 1e-9


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
    fits_time(gpu, policy, (*occupancy.shares, request))
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


def fits_time(gpu: Gpu, policy: GpuPolicy, shares: tuple[Share, ...]) -> None:
    """Raise CapacityError when the policy promises these tenants more than the whole time of the card.

    Under policies 3 and 4 a tenant is promised its percentage, and a slice of 1/max_inst where none is
    given. Those of high priority have no part in that: prio_ratio is theirs. Raises AmountError for a
    limit below the tenant's own percentage.
    """
    for share in shares:
        if share.compute_limit_percent is not None and share.compute_limit_percent < (share.compute_percent or 0):
            raise AmountError(
                f"a limit of {share.compute_limit_percent} % of time is below the share of {share.compute_percent} %",
                "raise --compute-limit, or lower --compute",
            )
    in_force = policy.in_force(shares)
    if not in_force.enforces_compute_percent or policy.overcommit:
        return
    slice_percent = _WHOLE_PERCENT / policy.max_inst
    promised = sum(share.compute_percent or slice_percent for share in shares if share.priority == 0)
    if promised > _WHOLE_PERCENT + _ROUNDING_PERCENT:
        raise CapacityError(
            f"the tenants of GPU {gpu.index} ({gpu.uuid}) would be promised {promised:g} % of its time together",
            f"ask for less --compute (without it a tenant has 1/max_inst, {slice_percent:g} %), use another GPU or "
            "policy, or allow over-commit: all then have less in proportion",
        )
