"""What the arbiter promises about waiting, priority, changes at run time and its counters."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.policy_model import Kind, Settings, Share
from tests.property.turns_card import IDLE, MS, SECOND, Card, Load, Program

QUANTUM_NS = 10 * MS
KERNELS_NS = [20_000, 200_000, MS, 5 * MS, 12 * MS, 30 * MS, 100 * MS]

kernels = st.sampled_from(KERNELS_NS[2:])
backlogged = st.builds(Load, kernel_ns=kernels, synchronous=st.booleans())
cyclic = st.builds(
    Load,
    kernel_ns=kernels,
    on_ns=st.integers(MS, 200 * MS),
    off_ns=st.integers(MS, 200 * MS),
    synchronous=st.booleans(),
)


def turn_ns(program: Program) -> int:
    """The longest that one turn of it can take: a quantum, what it had queued, and the last kernel."""
    return 2 * QUANTUM_NS + 2 * program.load.kernel_ns


# ---- waiting ----


@given(st.lists(st.tuples(st.integers(1, 8), backlogged), min_size=2, max_size=20))
@settings(max_examples=25, deadline=None)
def test_nobody_waits_longer_than_the_others_turns_and_its_own_debt(tenants: list[tuple[int, Load]]) -> None:
    card = Card(Settings(Kind.WEIGHTED))
    programs = [card.join(Share(weight), load) for weight, load in tenants]
    card.run(5 * SECOND)
    for program in programs:
        others = [other for other in programs if other is not program]
        debt_ns = sum(turn_ns(program) * other.share.weight / program.share.weight for other in others)
        bound_ns = debt_ns + sum(map(turn_ns, others))
        assert program.waits, "never had a turn"
        since_ns = 0 if program.waiting_since is None else card.now_ns - program.waiting_since
        assert max(*program.waits, since_ns) <= bound_ns


@given(st.lists(cyclic, max_size=6), st.sampled_from([Kind.PREEMPTIVE, Kind.WEIGHTED, Kind.SOFT]), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_nobody_starves_beside_tenants_that_come_and_go(others: list[Load], kind: Kind, start_ms: int) -> None:
    """However they wake up: a second is enough for a share of one in seven of short turns."""
    card = Card(Settings(kind))
    card.run(start_ms * MS)
    program = card.join(Share(), Load(MS))
    for load in others:
        card.join(Share(), load)
    card.run(SECOND)
    card.measure()
    card.run(5 * SECOND)
    assert card.part(program) >= 100 / (1 + len(others)) - 3


@given(st.lists(backlogged, min_size=1, max_size=6), st.integers(500 * MS, 700 * MS), st.sampled_from(KERNELS_NS))
@settings(max_examples=40, deadline=None)
def test_whoever_wakes_up_waits_a_quantum_and_what_the_holder_had_on_the_card(
    others: list[Load], wake_ns: int, kernel_ns: int
) -> None:
    card = Card(Settings(Kind.PREEMPTIVE))
    sleeper = card.join(Share())
    for load in others:
        card.join(Share(), load)
    card.run(wake_ns)
    card.work(sleeper, Load(kernel_ns, synchronous=True))
    card.measure()
    holder = next(program for program in card.programs if program.place == card.turns.state.holder)
    queue_ns = QUANTUM_NS + holder.load.kernel_ns
    card.run(2 * SECOND)
    assert sleeper.waits[0] <= QUANTUM_NS + queue_ns


@pytest.mark.parametrize("wake_ns", range(501 * MS, 525 * MS, 2 * MS))
def test_whoever_wakes_up_beside_synchronous_programs_waits_a_quantum_and_a_kernel(wake_ns: int) -> None:
    card = Card(Settings(Kind.PREEMPTIVE))
    sleeper = card.join(Share())
    for _ in range(3):
        card.join(Share(), Load(3 * MS, synchronous=True))
    card.run(wake_ns)
    card.work(sleeper, Load(MS))
    card.measure()
    card.run(SECOND)
    assert sleeper.waits[0] <= QUANTUM_NS + 3 * MS


@given(st.lists(st.integers(1, 8), min_size=2, max_size=8), st.booleans())
@settings(max_examples=10, deadline=None)
def test_whose_turn_is_next_is_known_a_little_before_it_begins(weights: list[int], synchronous: bool) -> None:
    card = Card(Settings(Kind.WEIGHTED))
    for weight in weights:
        card.join(Share(weight), Load(200_000, synchronous=synchronous))
    card.run(SECOND)
    foretold, changes = None, 0
    for _ in range(1500):
        holder = card.turns.state.holder
        card.run(MS // 5)
        begun = card.turns.state.holder
        if begun != holder and foretold is not None:
            place, at_ns = foretold
            assert begun == place
            assert abs(card.now_ns - at_ns) <= MS
            changes += 1
        foretold = card.turns.expected() or foretold
    assert changes >= 5


def test_nobody_is_expected_beside_a_tenant_alone_or_where_nobody_has_turns() -> None:
    card = Card(Settings(Kind.PREEMPTIVE))
    card.join(Share(), Load(MS))
    card.join(Share())
    card.run(100 * MS)
    assert card.turns.expected() is None
    card.join(Share(), Load(MS))
    card.run(30 * MS)
    assert card.turns.expected() is not None
    card.set(Settings(Kind.NATIVE))
    card.run(MS)
    assert card.turns.expected() is None


# ---- high priority ----


@pytest.mark.parametrize("prio_ratio", [20, 60, 80, 99])
@pytest.mark.parametrize("kernel_ns", [MS, 20 * MS])
@pytest.mark.parametrize("kind", [Kind.FAIR, Kind.PREEMPTIVE, Kind.WEIGHTED, Kind.FIXED, Kind.SOFT])
def test_high_priority_gets_its_ratio_and_no_more(prio_ratio: int, kernel_ns: int, kind: Kind) -> None:
    card = Card(Settings(kind, max_inst=1, prio_ratio=prio_ratio))
    normal, high = card.join(Share(), Load(kernel_ns)), card.join(Share(priority=1), Load(kernel_ns))
    card.run(SECOND)
    card.measure()
    card.run(10 * SECOND)
    assert card.part(high) == pytest.approx(prio_ratio, abs=1)
    assert card.part(normal) == pytest.approx(100 - prio_ratio, abs=1)


def test_high_priority_takes_nothing_when_idle() -> None:
    card = Card(Settings(Kind.PREEMPTIVE))
    normal, high = card.join(Share(), Load(MS)), card.join(Share(priority=1))
    card.run(SECOND)
    card.measure()
    card.run(10 * SECOND)
    assert (card.part(normal), card.part(high), card.wasted_ns) == (100, 0, 0)


@pytest.mark.parametrize(("kind", "asked"), [(Kind.PREEMPTIVE, 100), (Kind.FIXED, 80)])
def test_high_priority_alone_gets_what_nobody_wants_where_work_is_conserved(kind: Kind, asked: float) -> None:
    card = Card(Settings(kind))
    high = card.join(Share(priority=1), Load(MS))
    card.join(Share())
    card.run(SECOND)
    card.measure()
    card.run(10 * SECOND)
    assert card.part(high) == pytest.approx(asked, abs=1)


def test_several_of_high_priority_share_its_ratio_by_weight() -> None:
    card = Card(Settings(Kind.WEIGHTED, prio_ratio=60))
    for weight, priority in ((1, 1), (3, 1), (1, 0), (9, 0)):
        card.join(Share(weight, priority=priority), Load(2 * MS))
    card.run(SECOND)
    card.measure()
    card.run(10 * SECOND)
    assert card.parts() == pytest.approx([15, 45, 4, 36], abs=1)


def test_a_limit_holds_for_high_priority_and_the_rest_of_its_ratio_goes_to_the_others() -> None:
    card = Card(Settings(Kind.PREEMPTIVE))
    for share in (Share(compute_limit_percent=30, priority=1), Share(), Share()):
        card.join(share, Load(2 * MS))
    card.run(SECOND)
    card.measure()
    card.run(10 * SECOND)
    assert card.parts() == pytest.approx([30, 35, 35], abs=1)


@pytest.mark.parametrize("kernel_ns", [MS, 5 * MS])
def test_high_priority_waits_for_what_is_queued_and_no_longer(kernel_ns: int) -> None:
    card = Card(Settings(Kind.PREEMPTIVE))
    for _ in range(5):
        card.join(Share(), Load(kernel_ns))
    high = card.join(Share(priority=1), Load(MS, on_ns=3 * MS, off_ns=50 * MS))
    card.run(SECOND)
    card.measure()
    card.run(5 * SECOND)
    assert len(high.waits) > 50
    assert max(high.waits) <= QUANTUM_NS / 4 + kernel_ns


# ---- changes at run time ----


def settled(card: Card, seconds: int = 5) -> None:
    card.run(2 * SECOND)
    card.measure()
    card.run(seconds * SECOND)


def test_another_policy_takes_effect() -> None:
    card = Card(Settings(Kind.PREEMPTIVE, max_inst=10))
    for weight, percent in ((1, 20), (3, 30)):
        card.join(Share(weight, percent), Load(2 * MS))
    asked = {
        Kind.PREEMPTIVE: [50, 50],
        Kind.WEIGHTED: [25, 75],
        Kind.SOFT: [40, 60],
        Kind.FIXED: [20, 30],
        Kind.FAIR: [10, 10],
    }
    for kind in (*asked, *reversed(asked)):
        card.set(replace(card.settings, kind=kind))
        settled(card)
        assert card.parts() == pytest.approx(asked[kind], abs=1), kind
    card.set(replace(card.settings, kind=Kind.NATIVE))
    settled(card)
    assert card.parts() == pytest.approx([50, 50], abs=1)
    card.set(replace(card.settings, kind=Kind.WEIGHTED))
    settled(card)
    assert card.parts() == pytest.approx([25, 75], abs=1)


def test_another_share_takes_effect() -> None:
    card = Card(Settings(Kind.WEIGHTED, prio_ratio=60))
    first, _ = card.join(Share(), Load(2 * MS)), card.join(Share(), Load(2 * MS))
    for share, asked in (
        (Share(3), 75),
        (Share(3, compute_limit_percent=40), 40),
        (Share(3, priority=1), 60),
        (Share(3, compute_limit_percent=20, priority=1), 20),
        (Share(1), 50),
    ):
        card.share(first, share)
        settled(card)
        assert card.part(first) == pytest.approx(asked, abs=1), share


def test_other_settings_take_effect() -> None:
    card = Card(Settings(Kind.FAIR, max_inst=4))
    normal, high = card.join(Share(), Load(2 * MS)), card.join(Share(priority=1))
    for max_inst in (4, 2, 10, 5):
        card.set(replace(card.settings, max_inst=max_inst))
        settled(card)
        assert card.part(normal) == pytest.approx(100 / max_inst, abs=1)
    card.set(Settings(Kind.PREEMPTIVE))
    card.work(high, Load(2 * MS))
    for prio_ratio in (20, 90, 50):
        card.set(replace(card.settings, prio_ratio=prio_ratio))
        settled(card)
        assert card.part(high) == pytest.approx(prio_ratio, abs=1)


@pytest.mark.parametrize("ahead", [0, 1])
def test_equal_shares_go_on_at_once_when_the_scale_of_weights_changes(ahead: int) -> None:
    """From policy 1 to 4 all weights grow a thousandfold; whoever was ahead by a turn still is by one."""
    card = Card(Settings(Kind.PREEMPTIVE))
    for _ in range(2):
        card.join(Share(compute_percent=50), Load(MS))
    card.run(SECOND + ahead * QUANTUM_NS)
    card.set(Settings(Kind.SOFT))
    card.measure()
    card.run(200 * MS)
    assert card.parts() == pytest.approx([50, 50], abs=10)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_greater_weight_is_no_punishment(ahead: int) -> None:
    card = Card(Settings(Kind.WEIGHTED))
    programs = [card.join(Share(), Load(MS)) for _ in range(2)]
    card.run(SECOND + ahead * QUANTUM_NS)
    for program in programs:
        card.share(program, Share(1000))
    card.measure()
    card.run(200 * MS)
    assert card.parts() == pytest.approx([50, 50], abs=10)


any_share = st.builds(
    Share,
    weight=st.integers(1, 20),
    compute_percent=st.sampled_from([0, 5, 20, 40]),
    compute_limit_percent=st.sampled_from([0, 0, 0, 20, 60]),
    priority=st.sampled_from([0, 0, 0, 1]),
)
any_settings = st.builds(
    Settings,
    kind=st.sampled_from(Kind),
    max_inst=st.integers(1, 20),
    prio_ratio=st.integers(20, 99),
    quantum_ns=st.sampled_from([MS, 10 * MS, 30 * MS]),
)
change = st.one_of(
    st.tuples(st.just("set"), st.just(0), any_settings),
    st.tuples(st.just("share"), st.integers(0, 9), any_share),
    st.tuples(st.just("join"), st.just(0), st.tuples(any_share, cyclic)),
    st.tuples(st.just("leave"), st.integers(0, 9), st.none()),
)


@given(
    st.lists(st.tuples(any_share, cyclic), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 300 * MS), change), max_size=12),
    any_settings.filter(lambda policy: policy.kind is not Kind.NATIVE),
)
@settings(max_examples=30, deadline=None)
def test_no_change_wedges_the_machine(
    tenants: list[tuple[Share, Load]], changes: list[tuple[int, tuple[str, int, object]]], last: Settings
) -> None:
    """Whatever was changed when: afterwards all with work get what their share says."""
    card = Card(Settings(Kind.PREEMPTIVE))
    for share, load in tenants:
        card.join(share, load)
    for time_ns, (action, number, value) in changes:
        card.run(time_ns)
        program = card.programs[number % len(card.programs)]
        if action == "set":
            card.set(value)  # type: ignore[arg-type]
        elif action == "share":
            card.share(program, value)  # type: ignore[arg-type]
        elif action == "join":
            card.join(*value)  # type: ignore[misc]
        elif len(card.programs) > 1:
            card.leave(program)
    card.set(replace(last, quantum_ns=QUANTUM_NS))
    for program in card.programs:
        card.work(program, Load(2 * MS))
    card.run(10 * SECOND)
    card.measure()
    card.run(10 * SECOND)
    assert card.parts() == pytest.approx(card.entitled(), abs=1)


# ---- counters ----


@pytest.mark.parametrize("load", [Load(MS), Load(20_000), Load(12 * MS), Load(3 * MS, synchronous=True)])
def test_what_a_pair_got_and_waited_adds_up_to_its_backlogged_time(load: Load) -> None:
    card = Card(Settings(Kind.PREEMPTIVE))
    programs = [card.join(Share(), load), card.join(Share(), Load(2 * MS))]
    card.run(2 * SECOND)
    card.turns.advance(card.now_ns)
    for program in programs:
        counters = card.counters(program)
        assert card.charged_ns(program) + counters.waited_ns == card.now_ns
        assert card.charged_ns(program) == pytest.approx(program.had_ns, abs=1)
        assert counters.waited_ns == pytest.approx(card.now_ns / 2, rel=0.02)


@given(st.lists(st.one_of(backlogged, cyclic), min_size=2, max_size=2), st.sampled_from([0, 1]))
@settings(max_examples=25, deadline=None)
def test_turns_ended_by_time_are_followed_by_a_turn_of_the_other(tenants: list[Load], priority: int) -> None:
    """What two tenants stopped is what was stopped, but for the last; or, where they come and go, for
    those that nobody wanted any more when they had ended."""
    card = Card(Settings(Kind.PREEMPTIVE))
    card.join(Share(), tenants[0])
    card.join(Share(priority=priority), tenants[1])
    card.run(5 * SECOND)
    left, right = map(card.counters, card.programs)
    always = not tenants[0].on_ns and not tenants[1].on_ns
    for stopped, follower in ((left, right), (right, left)):
        assert 0 <= stopped.preempted - follower.preempting <= (1 if always else stopped.preempted)
    assert not always or left.preempting + right.preempting > 0


def test_turns_are_as_many_as_quanta_fit_in() -> None:
    card = Card(Settings(Kind.PREEMPTIVE))
    programs = [card.join(Share(), Load(MS)) for _ in range(2)]
    card.run(10 * SECOND)
    for program in programs:
        counters = card.counters(program)
        assert counters.turns == pytest.approx(500, abs=5)
        assert counters.preempted == pytest.approx(counters.turns, abs=2)
    card.work(programs[1], IDLE)
    before = card.counters(programs[0]).turns
    card.run(10 * SECOND)
    assert card.counters(programs[0]).turns <= before + 1
