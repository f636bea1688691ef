"""Shares that somebody else has promised, such as those of Kubernetes' claims: changed at or below that, and kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.agent.documents import NodeDocument, Record, decode, encode
from cgpu.agent.room import check_change
from cgpu.agent.state import NodeState
from cgpu.agent.wishes import ShareChange
from cgpu.errors import CapacityError, CgpuError, RefusedError
from cgpu.model.tenant import GpuPolicy, Policy, Share, Tenant
from cgpu.model.units import GIB
from cgpu.testing.fakes import GPU_UUIDS, gpu
from tests.unit.agent.conftest import World, tenant

FIRST = GPU_UUIDS[0]


def claimed(name: str = "k8s-a-0", **amounts: Any) -> Tenant:
    """A tenant that has what it was promised: 6 GiB and 30 %, limited to them, unless others are given."""
    given_amounts = {"memory_bytes": 6 * GIB, "compute_percent": 30, "compute_limit_percent": 30, **amounts}
    shares = (Share(FIRST, **given_amounts),)
    return Tenant(name, f"team/{name}", shares, container="cdi", promised=shares)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ShareChange(memory_bytes=8 * GIB),
            "8GiB of memory on GPU 0 is more than the claim team/k8s-a-0 has",
        ),
        (ShareChange(compute_percent=40, compute_limit_percent=40), "40 % of compute on GPU 0 is more than .*, 30 %"),
        (ShareChange(compute_limit_percent=60), "a limit of 60 % of compute"),
        (ShareChange(compute_limit_percent=None), "no limit of compute"),
        (ShareChange(weight=2), "weight 2 on GPU 0 .*, 1"),
        (ShareChange(priority=1), "priority 1 on GPU 0 .*, 0"),
    ],
)
def test_more_than_was_promised_is_refused(state: NodeState, change: ShareChange, words: str):
    state.create(claimed())
    with pytest.raises(RefusedError, match=words):
        state.set_share("k8s-a-0", change)
    assert state.record("k8s-a-0").tenant.shares == claimed().shares


def test_a_share_goes_down_and_up_again_to_what_was_promised(world: World, state: NodeState):
    state.create(claimed(weight=4))
    state.set_share("k8s-a-0", ShareChange(memory_bytes=GIB, compute_percent=None, weight=1))
    state.close()
    again = world.recovered()
    (share,) = again.record("k8s-a-0").tenant.shares
    assert (share.memory_bytes, share.compute_percent, share.weight) == (GIB, None, 1)
    again.set_share("k8s-a-0", ShareChange(memory_bytes=6 * GIB, compute_percent=30, weight=4))
    assert again.record("k8s-a-0").tenant.shares == claimed(weight=4).shares


def test_a_neighbour_does_not_get_what_was_promised(state: NodeState):
    state.set_policy(gpu(0), GpuPolicy(Policy.SOFT))
    state.create(claimed(memory_bytes=10 * GIB, compute_percent=90, compute_limit_percent=None))
    state.set_share("k8s-a-0", ShareChange(memory_bytes=GIB, compute_percent=10))
    with pytest.raises(CapacityError, match="memory left"):
        state.create(tenant("neighbour", 6 * GIB))
    with pytest.raises(CapacityError, match="of its time together"):
        state.create(replace(tenant("neighbour"), shares=(Share(FIRST, GIB, 20),)))
    state.create(tenant("neighbour", 5 * GIB))
    state.set_share("k8s-a-0", ShareChange(memory_bytes=10 * GIB, compute_percent=90))


def test_a_percentage_below_a_slice_is_not_raised_by_leaving_it_out(state: NodeState):
    state.create(claimed(compute_percent=2, compute_limit_percent=None))
    with pytest.raises(RefusedError, match="5 % of compute"):
        state.set_share("k8s-a-0", ShareChange(compute_percent=None))
    state.set_share("k8s-a-0", ShareChange(memory_bytes=GIB))


def test_who_was_promised_no_compute_gets_none(state: NodeState):
    state.create(claimed(compute_percent=None, compute_limit_percent=None))
    with pytest.raises(RefusedError, match=r"5 % of compute on GPU 0 is more than .*, 0 %"):
        state.set_share("k8s-a-0", ShareChange(compute_percent=5))
    state.set_share("k8s-a-0", ShareChange(compute_limit_percent=50))


def test_a_checkpoint_of_a_release_before_has_nothing_promised():
    document = NodeDocument({"a": Record(tenant("a")), "k8s-a-0": Record(claimed())}, {}, {})
    data = encode(document)
    assert "promised" not in data["tenants"][0]["tenant"]
    assert decode(data) == document


_SHARES = st.builds(
    Share,
    st.just(FIRST),
    st.integers(1, 16 * GIB),
    st.none() | st.integers(1, 100),
    st.none() | st.integers(1, 100),
    st.integers(1, 1000),
    st.integers(0, 1),
)


@given(promised=_SHARES, new=_SHARES)
def test_what_is_accepted_is_nowhere_above_the_promise(promised: Share, new: Share):
    made = Tenant("k8s-a-0", "team/a", (promised,), container="cdi", promised=(promised,))
    document = NodeDocument({made.id: Record(made)}, {}, {})

    def survey() -> Any:
        raise AssertionError("what was promised needs no room")

    try:
        check_change(gpu(0), document, made, new, survey)
    except CgpuError:
        return
    assert new.memory_bytes <= promised.memory_bytes
    assert (new.compute_percent or 0) <= (promised.compute_percent or 0)
    assert (new.compute_limit_percent or 101) <= (promised.compute_limit_percent or 101)
    assert new.weight <= promised.weight
    assert new.priority <= promised.priority


def test_a_claim_is_taken_over_without_a_checkpoint_and_goes_no_higher_than_it_was(world: World, state: NodeState):
    state.create(claimed())
    state.set_share("k8s-a-0", ShareChange(memory_bytes=2 * GIB))
    state.close()
    (world.folder / "checkpoint.json").unlink()
    again = world.recovered()
    record = again.record("k8s-a-0")
    assert (record.tenant.container, record.root) == ("cdi", None)
    with pytest.raises(RefusedError):
        again.set_share("k8s-a-0", ShareChange(memory_bytes=3 * GIB))
