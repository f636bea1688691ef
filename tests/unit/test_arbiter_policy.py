"""The arbiter's policy core (native/arbiter/policy.c), driven through ctypes against a short model.

It has no clock, so a card is played here: whoever is next runs for a while and is charged for it.
"""

from __future__ import annotations

import ctypes
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgpu.adapters.native import ARBITER, native_library

QUANTUM_NS = 10_000_000
PREEMPTIVE, WEIGHTED, NATIVE = 1, 2, 5
NOBODY = -1
TENANTS = 32


class _Tenant(ctypes.Structure):
    _fields_ = (
        ("virtual_time", ctypes.c_uint64),
        ("charged_ns", ctypes.c_uint64),
        ("turn", ctypes.c_uint64),
        ("weight", ctypes.c_uint32),
        ("compute_percent", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
        ("present", ctypes.c_bool),
        ("backlogged", ctypes.c_bool),
    )


class _Policy(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("quantum_ns", ctypes.c_uint64),
        ("clock", ctypes.c_uint64),
        ("turns", ctypes.c_uint64),
        ("tenant", _Tenant * TENANTS),
    )


class Core:
    """policy.c with Python's names."""

    def __init__(self, kind: int, weights: list[int]) -> None:
        self._library = ctypes.CDLL(str(native_library(ARBITER)))
        self.state = _Policy()
        self._call("init", ctypes.c_uint32(kind), ctypes.c_uint64(QUANTUM_NS))
        self.places = [self.join(weight) for weight in weights]

    def _call(self, name: str, *arguments: object) -> int:
        return int(self._library[f"cgpu_arbiter_policy_{name}"](ctypes.byref(self.state), *arguments))

    def join(self, weight: int) -> int:
        return self._call("join", ctypes.c_uint32(weight), ctypes.c_uint32(0), ctypes.c_uint32(0))

    def wake(self, place: int) -> None:
        self._call("wake", place)

    def sleep(self, place: int) -> None:
        self._call("sleep", place)

    def leave(self, place: int) -> None:
        self._call("leave", place)

    def charge(self, place: int, time_ns: int) -> None:
        self._call("charge", place, ctypes.c_uint64(time_ns))

    def next(self) -> int:
        return self._call("next")

    def share_ppm(self, place: int) -> int:
        return self._call("share_ppm", place)

    def charged_ns(self, place: int) -> int:
        return int(self.state.tenant[place].charged_ns)

    def run(self, total_ns: int, kernel_ns: dict[int, int]) -> None:
        """Turns of whole kernels: a turn ends with the kernel that crosses its quantum."""
        used_ns = 0
        while used_ns < total_ns:
            place = self.next()
            assert place != NOBODY, "somebody has work and nobody runs"
            length_ns = kernel_ns[place] * -(-QUANTUM_NS // kernel_ns[place])
            self._call("begin", place)
            self.charge(place, length_ns)
            used_ns += length_ns


weights = st.lists(st.integers(1, 16), min_size=1, max_size=20)


@given(weights, st.data())
@settings(max_examples=60, deadline=None)
def test_backlogged_tenants_get_their_weights_share_whatever_their_kernels(
    given_weights: list[int], data: st.DataObject
) -> None:
    kernels = data.draw(
        st.lists(st.integers(5_000, 30_000_000), min_size=len(given_weights), max_size=len(given_weights))
    )
    core = Core(WEIGHTED, given_weights)
    for place in core.places:
        core.wake(place)
    kernel_ns = dict(zip(core.places, kernels, strict=True))
    # Of start-time fair queueing: service per weight differs by at most one turn of each of the two.
    core.run(QUANTUM_NS * 300, kernel_ns)
    longest_turn_ns = {place: kernel_ns[place] * -(-QUANTUM_NS // kernel_ns[place]) for place in core.places}
    per_weight = [
        Fraction(core.charged_ns(place), weight) for place, weight in zip(core.places, given_weights, strict=True)
    ]
    turns = [Fraction(longest_turn_ns[place], weight) for place, weight in zip(core.places, given_weights, strict=True)]
    for i, left in enumerate(per_weight):
        for j, right in enumerate(per_weight):
            assert left - right <= turns[i] + turns[j] + 1000


@pytest.mark.parametrize("given_weights", [[1, 1], [1, 2, 4], [1] * 8, [1] * 10 + [2] * 6 + [5] * 3 + [13]])
def test_shares_within_one_percent(given_weights: list[int]) -> None:
    core = Core(WEIGHTED, given_weights)
    for place in core.places:
        core.wake(place)
    core.run(QUANTUM_NS * 20_000, {place: 100_000 + 700_000 * (place % 4) for place in core.places})
    total = sum(core.charged_ns(place) for place in core.places)
    for place, weight in zip(core.places, given_weights, strict=True):
        asked = weight / sum(given_weights)
        assert core.charged_ns(place) / total == pytest.approx(asked, rel=0.01)
        assert core.share_ppm(place) == pytest.approx(asked * 1e6, abs=1)


def test_preemptive_ignores_weights() -> None:
    core = Core(PREEMPTIVE, [1, 9])
    for place in core.places:
        core.wake(place)
    core.run(QUANTUM_NS * 100, dict.fromkeys(core.places, 1_000_000))
    assert core.charged_ns(0) == core.charged_ns(1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["wake", "sleep", "run", "join", "leave"]), st.integers(0, 19), st.integers(1, 50_000_000)
        ),
        max_size=200,
    )
)
@settings(max_examples=100, deadline=None)
def test_against_the_model(steps: list[tuple[str, int, int]]) -> None:
    """The same rule in twenty lines of exact arithmetic names the same tenants."""
    core = Core(WEIGHTED, [1])
    virtual: dict[int, Fraction] = {core.places[0]: Fraction(0)}
    weight_of, backlog, clock = {core.places[0]: 1}, set[int](), Fraction(0)
    for action, number, amount in steps:
        present = sorted(virtual)
        place = present[number % len(present)] if present else NOBODY
        if action == "join" and len(virtual) < 20:
            place = core.join(1 + number)
            virtual[place], weight_of[place] = clock, 1 + number
        elif place == NOBODY:
            continue
        elif action == "wake":
            core.wake(place)
            if place not in backlog:
                virtual[place] = max(virtual[place], clock - Fraction(QUANTUM_NS, weight_of[place]))
                backlog.add(place)
        elif action == "sleep":
            core.sleep(place)
            backlog.discard(place)
        elif action == "leave":
            core.leave(place)
            backlog.discard(place)
            del virtual[place], weight_of[place]
        elif action == "run":
            chosen = core.next()
            assert (chosen == NOBODY) == (not backlog)  # work conserving, and never an idle one
            if chosen == NOBODY:
                continue
            assert chosen in backlog
            assert float(virtual[chosen] - min(virtual[i] for i in backlog)) <= len(steps)  # below 1 ns per step
            core.charge(chosen, amount)
            virtual[chosen] += Fraction(amount, weight_of[chosen])
        if backlog:
            clock = max(clock, min(virtual[i] for i in backlog))


def test_nobody_starves() -> None:
    core = Core(WEIGHTED, [1000] * 19 + [1])
    for place in core.places:
        core.wake(place)
    core.run(QUANTUM_NS * 20_000, dict.fromkeys(core.places, QUANTUM_NS))
    assert core.charged_ns(19) >= QUANTUM_NS


def test_debt_is_carried() -> None:
    core = Core(PREEMPTIVE, [1, 1])
    core.wake(0)
    core.wake(1)
    core.charge(0, 50 * QUANTUM_NS)
    turns = 0
    while core.next() == 1:
        core.charge(1, QUANTUM_NS)
        turns += 1
    assert turns in (50, 51)


def test_debt_survives_a_pause() -> None:
    core = Core(PREEMPTIVE, [1, 1])
    core.wake(0)
    core.wake(1)
    core.charge(0, 50 * QUANTUM_NS)
    core.sleep(0)
    core.wake(0)
    core.charge(1, 48 * QUANTUM_NS)
    assert core.next() == 1


def test_idleness_is_not_hoarded() -> None:
    core = Core(PREEMPTIVE, [1, 1])
    core.wake(0)
    core.charge(0, 1000 * QUANTUM_NS)
    core.wake(1)  # was away for a thousand turns, and gets one of them
    turns = 0
    while core.next() == 1:
        core.charge(1, QUANTUM_NS)
        turns += 1
    assert turns <= 2


def test_places_run_out_and_come_back() -> None:
    core = Core(PREEMPTIVE, [1] * TENANTS)
    assert core.join(1) == NOBODY
    core.leave(7)
    assert core.join(1) == 7


def test_virtual_time_may_wrap() -> None:
    core = Core(PREEMPTIVE, [1, 1])
    for tenant in core.state.tenant[:2]:
        tenant.virtual_time = 2**64 - 1000
    core.state.clock = 2**64 - 1000
    core.wake(0)
    core.wake(1)
    core.run(QUANTUM_NS * 100, dict.fromkeys(core.places, QUANTUM_NS))
    assert core.charged_ns(0) == core.charged_ns(1)
