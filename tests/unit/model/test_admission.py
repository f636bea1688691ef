from __future__ import annotations

import pytest

from cgpu.errors import AmountError, CapacityError
from cgpu.model.admission import Occupancy, admit, fits_time
from cgpu.model.tenant import MAX_TENANTS_PER_GPU, Gpu, GpuPolicy, Policy, Share
from cgpu.model.units import GIB, MIB

CARD = Gpu(0, "GPU-1", "Tesla T4", 15079 * MIB, "550.163.01", simulated=True)


def share(memory_bytes: int, weight: int = 1) -> Share:
    return Share(CARD.uuid, memory_bytes, weight=weight)


def test_what_fits_beside_quotas_overhead_and_strangers_is_admitted() -> None:
    rest = 15079 * MIB - 8 * GIB - 300 * MIB - 450 * MIB
    occupancy = Occupancy((share(8 * GIB),), overhead_bytes=300 * MIB, foreign_bytes=450 * MIB)
    admit(CARD, GpuPolicy(), occupancy, share(rest))
    with pytest.raises(CapacityError, match="MiB of memory left"):
        admit(CARD, GpuPolicy(), occupancy, share(rest + 1))


def test_the_21st_tenant_is_refused_in_cgpus_words() -> None:
    full = Occupancy(tuple(share(MIB) for _ in range(MAX_TENANTS_PER_GPU)))
    with pytest.raises(CapacityError) as caught:
        admit(CARD, GpuPolicy(), full, share(MIB))
    assert caught.value.message == (
        "Error occurs when creating cGPU instance: unknown: GPU GPU-1 already has 20 tenants (maximum 20)"
    )


def test_overcommit_is_a_choice_and_never_exceeds_the_card_for_one_tenant() -> None:
    full = Occupancy((share(15079 * MIB),))
    admit(CARD, GpuPolicy(overcommit=True), full, share(GIB))
    with pytest.raises(CapacityError, match="in all"):
        admit(CARD, GpuPolicy(overcommit=True), Occupancy(()), share(15080 * MIB))


def test_a_weight_turns_the_default_policy_into_weighted() -> None:
    assert GpuPolicy().in_force((share(GIB), share(GIB))) is Policy.PREEMPTIVE
    assert GpuPolicy().in_force((share(GIB), share(GIB, weight=2))) is Policy.WEIGHTED
    assert GpuPolicy(Policy.NATIVE).in_force((share(GIB, weight=2),)) is Policy.NATIVE


def timed(percent: int | None, priority: int = 0, limit: int | None = None) -> Share:
    return Share(CARD.uuid, GIB, compute_percent=percent, compute_limit_percent=limit, priority=priority)


@pytest.mark.parametrize("policy", [Policy.FIXED, Policy.SOFT])
def test_promises_of_time_add_up_to_the_card_at_most(policy: Policy) -> None:
    settings = GpuPolicy(policy, max_inst=3)
    fits_time(CARD, settings, (timed(100),))
    fits_time(CARD, settings, (timed(None), timed(None), timed(None)))  # three slices of a third
    fits_time(CARD, settings, (timed(60), timed(40), timed(90, priority=1)))
    with pytest.raises(CapacityError, match=r"101 % of its time") as caught:
        fits_time(CARD, settings, (timed(60), timed(41)))
    assert "over-commit" in caught.value.remedy
    with pytest.raises(CapacityError):
        admit(CARD, settings, Occupancy((timed(67),)), timed(None))
    fits_time(CARD, GpuPolicy(policy, max_inst=3, overcommit=True), (timed(60), timed(60)))


@pytest.mark.parametrize("policy", [Policy.FAIR, Policy.PREEMPTIVE, Policy.WEIGHTED, Policy.NATIVE])
def test_percentages_that_are_only_recorded_promise_nothing(policy: Policy) -> None:
    fits_time(CARD, GpuPolicy(policy), (timed(60), timed(60)))


def test_a_limit_is_not_below_the_share_beside_it() -> None:
    fits_time(CARD, GpuPolicy(), (timed(30, limit=30),))
    with pytest.raises(AmountError, match="limit of 29 %"):
        fits_time(CARD, GpuPolicy(), (timed(30, limit=29),))
