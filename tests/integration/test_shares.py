"""Shares of time, measured from the simulated card's own truth: what is asked is what is had.

A window is ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cgpu.model.tenant import Policy
from tests.integration.attempts import Watch, until_right
from tests.native.gate_machine import Client, SharedMachine, Window, build_client

pytestmark = [pytest.mark.timing, pytest.mark.timeout(240)]

WINDOW_S = 10.0
WARM_UP_S = 1.0
SHORT_NS, LONG_NS = 100_000, 5_000_000
ERROR = 0.02  # of the card
BUSY, BUSY_ALONE = 0.95, 0.99
ARBITER_COST = 0.02  # of a core: 0.7 to 1.1 % was seen, by how fast the virtual machine makes its system calls
NO_SYNC, NO_GRAPH = 0, 0


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that keeps the card busy."""
    return build_client(tmp_path_factory.mktemp("clients"), "load")


Judge = Callable[[Window], str]
"""What is wrong with a window; nothing if it is right."""


def measure(folder: Path, policy: Policy, begin: Callable[[SharedMachine], Judge]) -> None:
    """Watches a window, on a new machine each time, until one is right."""

    def attempt(number: int, watch: Watch) -> str:
        with SharedMachine(folder / f"machine-{number}", policy) as machine:
            judge = begin(machine)
            machine.window(WARM_UP_S)
            with watch():
                window = machine.window(WINDOW_S)
            return judge(window)

    until_right(attempt)


def start(machine: SharedMachine, load: Path, weights: Sequence[int], kernel_ns: int, *how: int) -> list[Client]:
    options = how or (NO_SYNC, NO_GRAPH)
    clients = [machine.start(machine.tenant(weight), load, kernel_ns, *options) for weight in weights]
    for client in clients:
        client.begin()
    return clients


def shares_judge(clients: Sequence[Client], weights: Sequence[int]) -> Judge:
    asked = [weight / sum(weights) for weight in weights]

    def judge(window: Window) -> str:
        had = window.shares(clients)
        pairs = list(zip(asked, had, strict=True))
        right = all(abs(a - h) <= ERROR for a, h in pairs) and window.busy >= BUSY
        told = ", ".join(f"{h:.1%} of {a:.1%}" for a, h in pairs)
        return "" if right else f"busy {window.busy:.1%}, shares {told}"

    return judge


WEIGHTS = {"two": [1, 1], "three-weighted": [1, 2, 4], "eight": [1] * 8, "eight-weighted": [1, 2, 4, 1, 2, 4, 1, 2]}


@pytest.mark.parametrize("kernel_ns", [SHORT_NS, LONG_NS], ids=["0.1ms", "5ms"])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_backlogged_tenants(tmp_path: Path, load: Path, weights: list[int], kernel_ns: int):
    policy = Policy.WEIGHTED if max(weights) > 1 else Policy.PREEMPTIVE
    measure(tmp_path, policy, lambda machine: shares_judge(start(machine, load, weights, kernel_ns), weights))


def test_long_kernels_beside_short_ones(tmp_path: Path, load: Path):
    def begin(machine: SharedMachine) -> Judge:
        return shares_judge([*start(machine, load, [1], 25_000_000), *start(machine, load, [1], SHORT_NS)], [1, 1])

    measure(tmp_path, Policy.PREEMPTIVE, begin)


def test_graphs_are_charged_by_what_they_take(tmp_path: Path, load: Path):
    def begin(machine: SharedMachine) -> Judge:
        in_graphs = start(machine, load, [1], SHORT_NS, NO_SYNC, 20)
        return shares_judge([*in_graphs, *start(machine, load, [1], SHORT_NS)], [1, 1])

    measure(tmp_path, Policy.PREEMPTIVE, begin)


@pytest.mark.parametrize("kernel_ns", [SHORT_NS, LONG_NS], ids=["0.1ms", "5ms"])
def test_beside_an_idle_neighbour(tmp_path: Path, load: Path, kernel_ns: int):
    def begin(machine: SharedMachine) -> Judge:
        machine.start(machine.tenant(), load, kernel_ns, NO_SYNC, NO_GRAPH)  # has a context, and never begins
        start(machine, load, [1], kernel_ns)
        return lambda window: "" if window.busy >= BUSY_ALONE else f"busy {window.busy:.1%}"

    measure(tmp_path, Policy.PREEMPTIVE, begin)


def test_arbiter_costs_less_than_a_fiftieth_of_a_core(tmp_path: Path, load: Path):
    def begin(machine: SharedMachine) -> Judge:
        start(machine, load, [1] * 20, LONG_NS)
        began_ns = time.monotonic_ns()
        before_ns = machine.arbiter.counters(machine.gpus[0])["cpu_ns"]

        def judge(_: Window) -> str:
            used_ns = machine.arbiter.counters(machine.gpus[0])["cpu_ns"] - before_ns
            used = used_ns / (time.monotonic_ns() - began_ns)
            return "" if used <= ARBITER_COST else f"arbiter used {used:.2%} of a core"

        return judge

    measure(tmp_path, Policy.PREEMPTIVE, begin)
