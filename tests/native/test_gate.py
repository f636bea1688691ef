"""The gate and the arbiter over the simulated card: work goes on, whatever it waits for and whoever dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cgpu.model.tenant import GpuPolicy, Policy
from tests.native.gate_machine import Client, SharedMachine, build_client

KERNEL_NS = 1_000_000
NO_SYNC, NO_GRAPH = 0, 0
PATIENCE_S = 20


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SharedMachine]:
    with SharedMachine(tmp_path / "machine") as shared:
        yield shared


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that keeps the card busy."""
    return build_client(tmp_path_factory.mktemp("clients"), "load")


def gets_on(machine: SharedMachine, client: Client) -> bool:
    """Whether the card does something for the client before patience ends."""
    began_s, at_first = time.monotonic(), busy_ns(machine, client)
    while busy_ns(machine, client) < at_first + 20 * KERNEL_NS:
        if time.monotonic() - began_s > PATIENCE_S:
            return False
        time.sleep(0.01)
    return True


def busy_ns(machine: SharedMachine, client: Client) -> int:
    return sum(int(row["busy_ns"]) for row in machine.status()[0]["processes"] if row["pid"] == client.process.pid)


def start_loads(machine: SharedMachine, load: Path, count: int) -> list[Client]:
    clients = [machine.start(machine.tenant(), load, KERNEL_NS, NO_SYNC, NO_GRAPH) for _ in range(count)]
    for client in clients:
        client.begin()
    return clients


def test_work_that_waits_for_itself_ends(machine: SharedMachine, tmp_path: Path):
    program = build_client(tmp_path, "depend")
    clients = [machine.start(machine.tenant(), program, 3) for _ in range(2)]
    for client in clients:
        client.begin()
    assert [client.end() for client in clients] == ["done", "done"]


def test_work_that_waits_for_itself_ends_beside_a_busy_neighbour(machine: SharedMachine, load: Path, tmp_path: Path):
    client = machine.start(machine.tenant(), build_client(tmp_path, "depend"), 3)
    start_loads(machine, load, 2)
    client.begin()
    assert client.end() == "done"


def test_collectives_over_two_cards_end(tmp_path: Path):
    program = build_client(tmp_path, "collective")
    with SharedMachine(tmp_path / "machine", cards=2) as machine:
        clients = [machine.start(machine.tenant(), program, 20, first_card) for first_card in (0, 1)]
        for client in clients:
            client.begin()
        assert [client.end() for client in clients] == ["done", "done"]


def test_killed_holder_blocks_nobody(machine: SharedMachine, load: Path):
    clients = start_loads(machine, load, 3)
    assert all(gets_on(machine, client) for client in clients)
    for victim in (clients[0], clients[1]):
        victim.process.kill()
        victim.process.wait()
        assert gets_on(machine, clients[2])


def test_tenants_run_on_without_an_arbiter_and_come_back_to_a_new_one(machine: SharedMachine, load: Path):
    clients = start_loads(machine, load, 2)
    assert all(gets_on(machine, client) for client in clients)
    machine.arbiter.stop()
    assert all(gets_on(machine, client) for client in clients)
    for client in clients:
        machine.arbiter.add_tenant(machine.gpus[0], client.region, 0, machine.share(machine.gpus[0]))
    assert all(gets_on(machine, client) for client in clients)
    assert machine.arbiter.counters(machine.gpus[0])["charged_ns"] > 0


def test_policy_changes_while_tenants_run(machine: SharedMachine, load: Path):
    clients = start_loads(machine, load, 2)
    for policy in (Policy.NATIVE, Policy.WEIGHTED, Policy.NATIVE, Policy.PREEMPTIVE):
        machine.arbiter.set_policy(machine.gpus[0], policy, GpuPolicy())
        assert all(gets_on(machine, client) for client in clients)
    assert [client.end().isdigit() for client in clients] == [True, True]


def test_removed_tenant_is_not_held_back(machine: SharedMachine, load: Path):
    clients = start_loads(machine, load, 2)
    machine.arbiter.remove_tenant(machine.gpus[0], clients[0].region)
    assert all(gets_on(machine, client) for client in clients)


def test_processes_of_a_tenant_share_its_turns(machine: SharedMachine, load: Path):
    region = machine.tenant()
    siblings = [machine.start(region, load, KERNEL_NS, NO_SYNC, NO_GRAPH) for _ in range(3)]
    rival = start_loads(machine, load, 1)[0]
    for client in siblings:
        client.begin()
    assert all(gets_on(machine, client) for client in (*siblings, rival))
