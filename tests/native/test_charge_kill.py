"""Processes that are killed leave nothing behind; tenants that fill up at once stay inside their quotas."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.native.c_compiler import compile_c
from tests.native.memory_tenant import MIB, OUT_OF_MEMORY, Client, SimulatedHost, reclaim
from tests.native.sim_machine import CONTEXT_BYTES

CHURN = Path(__file__).with_name("memory_churn.c")
TENANTS, PROCESSES, ROUNDS = 20, 4, "400"


def build_churn(native: Path, folder: Path) -> Path:
    """memory_churn.c, linked with the driver as programs are."""
    return compile_c(folder / "churn", [CHURN], libraries=[f"-L{native / 'sim'}", "-l:libcuda.so.1"])


def begin(churning: list[Client]) -> None:
    """Lets them loose when all have their contexts."""
    for client in churning:
        assert client.process.stdout
        assert client.process.stdout.read(1) == ".", client.end()
    for client in churning:
        assert client.process.stdin
        client.process.stdin.write("\n")
        client.process.stdin.flush()


def released(host: SimulatedHost, *clients: Client) -> bool:
    """Whether the card has let go what these dead processes held."""
    return host.held_bytes(*clients) == 0


def test_killed_process_is_reclaimed_exactly(host: SimulatedHost, native: Path) -> None:
    tenant = host.tenant("a", 2 * CONTEXT_BYTES + 400 * MIB)
    doomed, sibling = host.client(tenant), host.client(tenant)
    assert doomed.alloc(300 * MIB) == 0
    assert doomed.do("[cu.cuMemAllocAsync(R(p), Q(33554432), None), cu.cuMemAllocManaged(R(p), Q(33554432), 1)]") == [
        0,
        0,
    ]
    assert reclaim(native, tenant, 0) == -11, "EAGAIN: its owner lives"
    doomed.kill()
    assert released(host, doomed)
    assert sibling.alloc(300 * MIB) == OUT_OF_MEMORY
    assert reclaim(native, tenant, 0) == 0
    assert tenant.slots() == [(sibling.pid, CONTEXT_BYTES)]
    assert sibling.alloc(300 * MIB) == 0
    assert tenant.used_bytes == host.held_bytes(sibling)


def test_processes_killed_in_the_middle_of_churning(host: SimulatedHost, native: Path, tmp_path: Path) -> None:
    """Whatever instruction each one dies at, its siblings go on and its charge comes back exactly."""
    program = build_churn(native, tmp_path)
    tenant = host.tenant("a", 4 * CONTEXT_BYTES + 200 * MIB)
    dice = random.Random(20261123)
    for _ in range(12):
        churning = [host.spawn(tenant, program, "0") for _ in range(3)]
        begin(churning)
        time.sleep(dice.random() * 0.02)  # any instruction will do
        for client in churning:
            client.kill()
        assert released(host, *churning)
        for slot in tenant.usage()[1]:
            assert reclaim(native, tenant, slot.index) == 0
        assert tenant.slots() == []
        assert tenant.used_bytes == 0
    survivor = host.client(tenant)
    assert survivor.alloc(200 * MIB) == 0
    assert tenant.used_bytes == host.held_bytes(survivor)


def test_twenty_tenants_of_four_processes_fill_their_quotas_at_once(
    host: SimulatedHost, native: Path, tmp_path: Path
) -> None:
    """The card's truth never exceeds a quota, at any moment, in any way of allocating."""
    program = build_churn(native, tmp_path)
    quota = PROCESSES * CONTEXT_BYTES + 100 * MIB
    tenants = [host.tenant(f"tenant-{i}", quota) for i in range(TENANTS)]
    running = {host.spawn(tenant, program, ROUNDS).pid: tenant for tenant in tenants for _ in range(PROCESSES)}
    begin(host.clients)
    looked = 0
    fullest = {id(tenant): 0 for tenant in tenants}
    while any(client.process.poll() is None for client in host.clients):
        held = {id(tenant): 0 for tenant in tenants}
        for row in host.card()["processes"]:
            if row["pid"] in running:
                held[id(running[row["pid"]])] += row["memory_bytes"]
        assert max(held.values()) <= quota
        fullest = {tenant: max(most, held[tenant]) for tenant, most in fullest.items()}
        looked += 1
    for client in host.clients:
        assert client.process.stdout
        assert client.process.stdout.read() == "done\n", client.end()
    assert looked > 20
    print(f"looked {looked} times; each tenant held {min(fullest.values()) / quota:.0%} of its quota or more")
    assert min(fullest.values()) > quota * 0.8, "the quotas were not filled: the test is too easy"
    for tenant in tenants:
        assert tenant.usage()[0].oom_count > 0
        assert tenant.used_bytes <= quota
