"""Stream captures beside the gate: never spoilt, never held back, never charged; their graphs are."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cgpu.region.reader import RegionReader
from tests.native.gate_machine import Client, SharedMachine, build_client

MODES = ("global", "thread-local", "relaxed")
# Which threads take part; only a relaxed capture may be ended by another one than began it.
WAYS = [*((mode, threads) for mode in MODES for threads in ("one", "launches")), ("relaxed", "end")]
SHAPES = ("one", "fork", "graph")
ROUNDS = 4
SHORT_NS, LONG_NS = 1_000_000, 200_000_000  # of a rival's kernels: a slot is 20 ms
NO_SYNC, NO_GRAPH = 0, 0
LAUNCHES = 100
CAPTURED_NS = 200_000  # each kernel
MOST_NS = 20_000_000  # for a captured launch; each that waited would wait for a slot at least
PATIENCE_S = 20


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SharedMachine]:
    with SharedMachine(tmp_path / "machine") as shared:
        yield shared


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clients")
    return {name: build_client(folder, name) for name in ("load", "capture")}


def start_rival(machine: SharedMachine, programs: dict[str, Path], kernel_ns: int) -> Client:
    rival = machine.start(machine.tenant(), programs["load"], kernel_ns, NO_SYNC, NO_GRAPH)
    rival.begin()
    wait_until(lambda: card_busy_ns(machine, rival) > 0)
    return rival


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def card_busy_ns(machine: SharedMachine, client: Client) -> int:
    return sum(int(row["busy_ns"]) for row in machine.status()[0]["processes"] if row["pid"] == client.process.pid)


class Account(NamedTuple):
    """What a tenant has had of the card, and how long it was kept from it: by everybody's word."""

    card_ns: int
    charged_ns: int
    wanted_ns: int  # the arbiter's
    waited_ns: int  # the launches'
    turns: int


def account(machine: SharedMachine, client: Client) -> Account:
    with contextlib.closing(RegionReader(client.region)) as reader:
        granted, slots = reader.grants().gpus[0], reader.usage(1).slots
    waited_ns = sum(slot.gpus[0].waited_ns for slot in slots)
    return Account(card_busy_ns(machine, client), granted.busy_ns, granted.waited_ns, waited_ns, granted.turns)


@pytest.mark.parametrize("rival", [False, True], ids=["alone", "beside-a-rival"])
@pytest.mark.parametrize(("mode", "threads"), WAYS)
def test_captures_are_never_spoilt(
    machine: SharedMachine, programs: dict[str, Path], mode: str, threads: str, rival: bool
):
    client = machine.start(machine.tenant(), programs["capture"], mode, threads)
    if rival:
        start_rival(machine, programs, SHORT_NS)
    assert [client.ask(f"rounds {shape} {ROUNDS}") for shape in SHAPES] == ["done"] * len(SHAPES)


@pytest.mark.parametrize(("mode", "threads"), WAYS)
def test_a_capture_waits_for_no_turn_and_costs_nothing_until_its_graph_runs(
    machine: SharedMachine, programs: dict[str, Path], mode: str, threads: str
):
    client = machine.start(machine.tenant(), programs["capture"], mode, threads)
    start_rival(machine, programs, LONG_NS)  # it holds the card all the time
    before = account(machine, client)
    took_ns = [int(client.ask(f"capture {shape} {LAUNCHES}")) for shape in SHAPES]
    assert account(machine, client) == before
    assert max(took_ns) < LAUNCHES * MOST_NS

    assert client.ask("run") == "done"
    wait_until(lambda: account(machine, client).charged_ns - before.charged_ns >= LAUNCHES * CAPTURED_NS)
    after = account(machine, client)
    assert after.card_ns - before.card_ns >= LAUNCHES * CAPTURED_NS
    assert after.waited_ns > before.waited_ns
