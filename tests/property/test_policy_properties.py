"""What the arbiter promises about shares of time, played on a card of discrete events."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.policy_model import Kind, Settings, Share
from tests.parity.policy_native import NativePolicy
from tests.property.turns_card import IDLE, MS, SECOND, Card, Load

QUANTUM_NS = 10 * MS
WINDOW_NS = 10 * SECOND
CONSERVING = [Kind.PREEMPTIVE, Kind.WEIGHTED, Kind.SOFT]

kernels = st.sampled_from([MS, 3 * MS, 7 * MS, 12 * MS])
backlogged = st.builds(Load, kernel_ns=kernels, synchronous=st.booleans())
cyclic = st.builds(
    Load,
    kernel_ns=kernels,
    on_ns=st.integers(MS, 200 * MS),
    off_ns=st.integers(MS, 200 * MS),
    synchronous=st.booleans(),
)
loads = st.one_of(backlogged, cyclic)


def card_with(policy: Settings, tenants: list[tuple[Share, Load]]) -> Card:
    """All of them on a card, measured from the end of the first second on."""
    card = Card(policy)
    for share, load in tenants:
        card.join(share, load)
    card.run(SECOND)
    card.measure()
    return card


def assert_parts(card: Card, asked: list[float], points: float = 1.0) -> None:
    got = card.parts()
    assert all(abs(left - right) <= points for left, right in zip(got, asked, strict=True)), (got, asked)


# ---- shares ----

any_share = st.builds(
    Share,
    weight=st.integers(1, 20),
    compute_percent=st.sampled_from([0, 5, 10, 20, 40]),
    compute_limit_percent=st.sampled_from([0, 0, 0, 5, 15, 30, 60]),
    priority=st.sampled_from([0, 0, 0, 0, 1]),
)
any_policy = st.builds(
    Settings,
    kind=st.sampled_from([Kind.FAIR, Kind.PREEMPTIVE, Kind.WEIGHTED, Kind.FIXED, Kind.SOFT]),
    max_inst=st.integers(1, 20),
    prio_ratio=st.integers(20, 99),
)


@given(any_policy, st.lists(st.tuples(any_share, backlogged), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_all_with_work_get_what_their_share_says(policy: Settings, tenants: list[tuple[Share, Load]]) -> None:
    card = card_with(policy, tenants)
    card.run(WINDOW_NS)
    assert_parts(card, card.entitled())


@pytest.mark.parametrize(
    ("kind", "asked"),
    [(Kind.PREEMPTIVE, [25, 25, 25, 25]), (Kind.WEIGHTED, [10, 20, 30, 40]), (Kind.SOFT, [40, 20, 20, 20])],
)
def test_shares_of_the_backlogged_follow_weights_whatever_their_kernels(kind: Kind, asked: list[float]) -> None:
    card = Card(Settings(kind))
    lengths = [20_000, 100 * MS, 5 * MS, 30 * MS]
    percents = [30, 15, 15, 15]
    for weight, (percent, kernel_ns) in enumerate(zip(percents, lengths, strict=True), start=1):
        card.join(Share(weight, percent), Load(kernel_ns))
    card.run(SECOND)
    card.measure()
    card.run(WINDOW_NS)
    assert_parts(card, asked, points=1.5)  # of a window of 10 s, a kernel of 100 ms is one


def test_twenty_tenants_share_by_weight() -> None:
    card = card_with(Settings(Kind.WEIGHTED), [(Share(weight), Load(2 * MS)) for weight in range(1, 21)])
    card.run(WINDOW_NS)
    assert_parts(card, [100 * weight / 210 for weight in range(1, 21)])


@given(st.lists(loads, max_size=5), backlogged, st.sampled_from([10, 30, 50]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_fixed_share_holds_whatever_the_others_do(
    others: list[Load], load: Load, percent: int, promoted: bool
) -> None:
    """Neither less nor more, alone or together, with a tenant of high priority beside it or without."""
    high = [(Share(priority=1), Load(2 * MS))] if promoted else []
    card = card_with(
        Settings(Kind.FIXED, prio_ratio=50),
        [(Share(compute_percent=percent), load), *((Share(compute_percent=10), other) for other in others), *high],
    )
    total = percent + 10 * len(others)
    card.run(WINDOW_NS)
    room = 50 if promoted else 100
    assert card.part(card.programs[0]) >= min(percent, percent * room / total) - 1
    assert card.part(card.programs[0]) <= percent + 1


@given(st.lists(loads, max_size=3), backlogged, st.integers(4, 20))
@settings(max_examples=20, deadline=None)
def test_a_fair_slice_holds_whatever_the_others_do(others: list[Load], load: Load, max_inst: int) -> None:
    card = card_with(Settings(Kind.FAIR, max_inst), [(Share(), load), *((Share(), other) for other in others)])
    card.run(WINDOW_NS)
    assert card.part(card.programs[0]) == pytest.approx(100 / max_inst, abs=1)
    assert max(card.parts()) <= 100 / max_inst + 1


@given(st.sampled_from(CONSERVING), st.lists(loads, max_size=4), backlogged, st.sampled_from([1, 5, 20, 33, 60, 99]))
@settings(max_examples=20, deadline=None)
def test_a_limit_holds_alone_and_together(kind: Kind, others: list[Load], load: Load, limit: int) -> None:
    limited = Share(weight=1000, compute_percent=100, compute_limit_percent=limit)
    card = card_with(Settings(kind), [(limited, load), *((Share(compute_percent=1), other) for other in others)])
    card.run(WINDOW_NS)
    got = card.part(card.programs[0])
    assert got <= limit + 1
    if not others or (limit < 20 and kind is not Kind.PREEMPTIVE):
        assert got >= limit - 1


@pytest.mark.parametrize("quantum_ns", [MS, 10 * MS, 100 * MS])
def test_percentages_that_fill_the_card_are_all_kept(quantum_ns: int) -> None:
    card = Card(Settings(Kind.FIXED, quantum_ns=quantum_ns))
    for number in range(20):
        card.join(Share(compute_percent=5), Load(MS + number * MS // 3))
    card.run(5 * SECOND)
    card.measure()
    card.run(10 * SECOND)
    assert_parts(card, [5] * 20)
    assert sum(card.parts()) >= 99.5


@pytest.mark.parametrize("kernel_ns", [20 * MS, 45 * MS, 100 * MS])
def test_a_capped_tenant_pays_for_long_kernels(kernel_ns: int) -> None:
    card = card_with(Settings(Kind.PREEMPTIVE), [(Share(compute_limit_percent=30), Load(kernel_ns))])
    card.run(3 * WINDOW_NS)
    assert_parts(card, [30])


# ---- debt and credit ----


def test_debt_of_a_long_kernel_is_carried() -> None:
    card = card_with(Settings(Kind.PREEMPTIVE), [(Share(), Load(100 * MS)), (Share(), Load(MS))])
    card.run(WINDOW_NS)
    assert_parts(card, [50, 50])


@pytest.mark.parametrize("kind", [Kind.PREEMPTIVE, Kind.WEIGHTED, Kind.SOFT])
def test_a_minute_of_idleness_is_worth_one_quantum(kind: Kind) -> None:
    card = Card(Settings(kind))
    worker = card.join(Share(), Load(MS))
    sleeper = card.join(Share())
    card.run(60 * SECOND)
    card.work(sleeper, Load(MS))
    card.measure()
    card.run(SECOND)
    assert sleeper.had_ns - worker.had_ns <= 2 * QUANTUM_NS


@pytest.mark.parametrize("kind", [Kind.FAIR, Kind.FIXED])
def test_a_minute_of_idleness_is_not_hoarded_below_a_cap(kind: Kind) -> None:
    card = Card(Settings(kind, max_inst=5))
    sleeper = card.join(Share())
    card.run(60 * SECOND)
    card.work(sleeper, Load(MS))
    card.measure()
    card.run(SECOND)
    assert 200 * MS <= sleeper.had_ns <= 200 * MS + QUANTUM_NS + MS


def test_high_priority_does_not_hoard() -> None:
    card = Card(Settings(Kind.PREEMPTIVE, prio_ratio=80))
    high = card.join(Share(priority=1), Load(MS))
    card.run(60 * SECOND)  # alone: nothing is taken from anybody
    normal = card.join(Share(), Load(MS))
    card.measure()
    card.run(SECOND)
    assert normal.had_ns >= 200 * MS - QUANTUM_NS
    assert max(normal.waits) <= 5 * QUANTUM_NS + 2 * QUANTUM_NS  # 80 % of budget for five, and what was queued
    card.work(high, IDLE)
    card.run(60 * SECOND)
    card.work(high, Load(MS))
    card.measure()
    card.run(SECOND)
    assert normal.had_ns >= 200 * MS - 2 * QUANTUM_NS


# ---- work is conserved ----


@given(
    st.sampled_from(CONSERVING),
    st.integers(20, 99),
    st.lists(st.tuples(any_share, loads), min_size=1, max_size=8),
)
@settings(max_examples=30, deadline=None)
def test_the_card_is_never_idle_while_somebody_may_use_it(
    kind: Kind, prio_ratio: int, tenants: list[tuple[Share, Load]]
) -> None:
    card = card_with(Settings(kind, prio_ratio=prio_ratio), tenants)
    card.run(5 * SECOND)
    assert card.wasted_ns == 0


@pytest.mark.parametrize("kind", CONSERVING)
def test_a_tenant_alone_is_never_interrupted(kind: Kind) -> None:
    card = card_with(Settings(kind), [(Share(compute_percent=5), Load(MS)), (Share(), IDLE), (Share(priority=1), IDLE)])
    card.run(WINDOW_NS)
    assert card.parts() == [100, 0, 0]
    assert card.counters(card.programs[0]).turns == 1


# ---- the core alone ----


@given(
    st.lists(st.tuples(st.integers(1, 16), st.integers(5_000, 30 * MS)), min_size=1, max_size=20),
)
@settings(max_examples=40, deadline=None)
def test_service_per_weight_differs_by_a_turn_of_each(tenants: list[tuple[int, int]]) -> None:
    """The bound of start-time fair queueing, at every moment."""
    policy = NativePolicy(Settings(Kind.WEIGHTED))
    for place, (weight, _) in enumerate(tenants):
        policy.join(Share(weight))
        policy.wake(place)
    turn_ns = [kernel_ns * -(-QUANTUM_NS // kernel_ns) for _, kernel_ns in tenants]
    for _ in range(300):
        place = policy.next()
        policy.begin(place)
        policy.charge(place, turn_ns[place])
        per_weight = [
            Fraction(policy.state.tenant[place].charged_ns, weight) for place, (weight, _) in enumerate(tenants)
        ]
        most, least = max(per_weight), min(per_weight)
        left, right = per_weight.index(most), per_weight.index(least)
        assert (
            most - least
            <= Fraction(turn_ns[left], tenants[left][0]) + Fraction(turn_ns[right], tenants[right][0]) + 1000
        )


def test_virtual_time_may_wrap() -> None:
    policy = NativePolicy(Settings(Kind.PREEMPTIVE))
    for place in (policy.join(Share()), policy.join(Share())):
        policy.state.tenant[place].virtual_time = 2**64 - 1000
        policy.wake(place)
    policy.state.clock[0] = 2**64 - 1000
    for _ in range(100):
        policy.charge(policy.next(), QUANTUM_NS)
    assert policy.state.tenant[0].charged_ns == policy.state.tenant[1].charged_ns == 50 * QUANTUM_NS


def test_a_tenant_that_slept_for_a_year_is_not_taken_for_one_in_debt() -> None:
    policy = NativePolicy(Settings(Kind.PREEMPTIVE))
    worker, sleeper = policy.join(Share()), policy.join(Share())
    policy.wake(worker)
    for _ in range(365 * 24 * 3600 // 1000):
        policy.charge(worker, 1000 * SECOND)
    policy.wake(sleeper)
    assert policy.next() == sleeper
    policy.charge(sleeper, 3 * QUANTUM_NS)
    assert policy.next() == worker
