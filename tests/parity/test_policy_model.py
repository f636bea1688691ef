"""policy.c and its model in Python agree to the last bit, whatever happens in whatever order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.parity.policy_model import NOBODY, PLACES, Kind, Policy, Settings, Share
from tests.parity.policy_native import NativePolicy, known

TENANTS = 20
Step = tuple[Any, ...]

times = st.one_of(
    st.integers(1, 2000), st.integers(1, 100_000_000), st.integers(1, 10**12), st.sampled_from([1, 10**12, 2 * 10**12])
)
shares = st.builds(
    Share,
    weight=st.sampled_from([0, 1, 1, 1, 2, 3, 7, 1000, 1024, 5000]),
    compute_percent=st.sampled_from([0, 0, 1, 5, 10, 30, 50, 100, 200]),
    compute_limit_percent=st.sampled_from([0, 0, 0, 1, 20, 33, 60, 99, 100, 101]),
    priority=st.sampled_from([0, 0, 0, 1, 7]),
)
policies = st.builds(
    Settings,
    kind=st.sampled_from(Kind),
    max_inst=st.sampled_from([0, 1, 2, 3, 7, 20, 32, 33]),
    prio_ratio=st.sampled_from([0, 20, 50, 80, 99, 100]),
    quantum_ns=st.sampled_from([1_000_000, 3_333_333, 10_000_000, 1_000_000_000]),
)
places = st.integers(0, TENANTS - 1)
steps = st.one_of(
    st.tuples(st.just("join"), shares),
    st.tuples(st.just("leave"), places),
    st.tuples(st.just("share"), places, shares),
    st.tuples(st.just("set"), policies),
    st.tuples(st.sampled_from(["wake", "wake", "wake", "sleep", "begin"]), places),
    st.tuples(st.just("pass_time"), times),
    st.tuples(st.just("charge"), places, times),
    st.tuples(st.just("run"), times),  # whoever is next, with the time that passes
    st.tuples(st.just("run"), st.integers(1, 50_000_000)),
)


def play(policy: Any, step: Step, present: list[int]) -> object:
    """One step on either side; places are counted among the present tenants."""
    action, *arguments = step
    if action in ("leave", "share", "wake", "sleep", "begin", "charge"):
        if not present:
            return None
        arguments[0] = present[arguments[0] % len(present)]
    if action == "join" and len(present) == TENANTS:
        return None
    if action == "run":
        place = policy.next()
        if place != NOBODY:
            policy.begin(place)
            policy.charge(place, arguments[0])
        policy.pass_time(arguments[0])
        return place
    result: object = getattr(policy, action)(*arguments)
    return result


def compare(model: Policy, native: NativePolicy, look_ns: int) -> None:
    state = native.state
    assert [place for place in range(PLACES) if state.tenant[place].present] == sorted(model.tenants)
    assert [time % 2**64 for time in model.clock] == list(state.clock)
    assert (model.priority_budget, model.priority_throttled) == (state.priority_budget, state.priority_throttled)
    assert model.turns == state.turns
    assert (model.next(), model.pause()) == (native.next(), native.pause())
    assert model.next_after(NOBODY, look_ns) == native.next_after(NOBODY, look_ns)
    for place, tenant in model.tenants.items():
        there = state.tenant[place]
        assert tenant.virtual_time % 2**64 == there.virtual_time
        assert (tenant.budget, tenant.throttled, tenant.backlogged) == (there.budget, there.throttled, there.backlogged)
        assert (tenant.charged_ns, tenant.turn) == (there.charged_ns, there.turn)
        for question in ("eligible", "allowance", "share_ppm"):
            assert getattr(model, question)(place) == getattr(native, question)(place), question
        assert model.next_after(place, look_ns) == native.next_after(place, look_ns)
        rival = look_ns % len(model.tenants)
        other = sorted(model.tenants)[rival]
        assert model.preempts(other, place) == native.preempts(other, place)


@given(
    policies,
    st.lists(shares, min_size=1, max_size=TENANTS),
    st.lists(steps, min_size=20, max_size=60),
    st.integers(0, 10**10),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_model_and_the_arbiter_agree_after_every_step(
    first: Settings, tenants: list[Share], trace: list[Step], look_ns: int
) -> None:
    model, native = Policy(first), NativePolicy(first)
    for number, share in enumerate(tenants):
        assert model.join(share) == native.join(share) == number
        if number % 3:
            model.wake(number)
            native.wake(number)
    compare(model, native, look_ns)
    for step in trace:
        present = sorted(model.tenants)
        assert play(model, step, present) == play(native, step, present)
        compare(model, native, look_ns)


def test_places_run_out_and_come_back() -> None:
    model, native = Policy(Settings(Kind.PREEMPTIVE)), NativePolicy(Settings(Kind.PREEMPTIVE))
    for policy in (model, native):
        assert [policy.join(Share()) for _ in range(PLACES + 1)] == [*range(PLACES), NOBODY]
        policy.leave(7)
        assert policy.join(Share()) == 7


@pytest.mark.parametrize("kind", [*Kind, 6])
def test_kinds_of_a_later_version_are_not_known(kind: int) -> None:
    assert known(kind) == (kind <= Kind.NATIVE)
