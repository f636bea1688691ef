"""Quotas of memory on a card: what is charged is what the card holds, and the tenant sees its share."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from cgpu.model.units import GIB, MIB
from tests.gpu.conftest import Card
from tests.gpu.report import Findings
from tests.integration.conftest import eventually
from tests.native import memory_tenant
from tests.native.memory_tenant import GRANULE, NOT_SUPPORTED, OUT_OF_MEMORY, Client
from tests.native.test_shim_memory_rows import ROWS

pytestmark = pytest.mark.gpu

Settled = Callable[[str, Client], int]
ALLOCATING = {name: row for name, row in ROWS.items() if "Ctx" not in name}  # a context's size is the driver's affair
READ_NVML = """
import pynvml as nvml
nvml.nvmlInit()
device = nvml.nvmlDeviceGetHandleByIndex(0)
memory = nvml.nvmlDeviceGetMemoryInfo(device)
"""


def test_over_the_quota_is_out_of_memory_and_the_neighbour_gets_all_of_its_own(card: Card):
    greedy, neighbour = card.tenant("greedy", "2GiB"), card.tenant("neighbour", "2GiB")
    assert greedy.alloc(2 * GIB) == OUT_OF_MEMORY
    assert greedy.alloc(GIB) == 0
    assert greedy.alloc(GIB) == OUT_OF_MEMORY
    assert neighbour.alloc(GIB) == 0
    assert card.share("greedy")["oom_count"] == 2
    assert card.share("neighbour")["oom_count"] == 0


def test_the_charge_is_what_the_card_holds(card: Card, settled: Settled, findings: Findings):
    client = card.tenant("exact", "4GiB")
    context = settled("exact", client)
    findings.add("a context", context // MIB, "MiB")
    assert context > 0
    for size in (GRANULE, 64 * MIB, GIB):
        assert client.alloc(size) == 0
        assert card.held_bytes(client.pid) == card.share("exact")["used_bytes"] == context + size
        assert client.free() == 0
        assert card.held_bytes(client.pid) == card.share("exact")["used_bytes"] == context


def test_the_estimate_of_a_context_is_corrected_within_a_second(card: Card, findings: Findings):
    client = card.tenant("context", "4GiB")
    began = time.monotonic()
    eventually(lambda: card.share("context")["used_bytes"] == card.held_bytes(client.pid))
    took = time.monotonic() - began
    findings.add("corrected after", 1e3 * took, "ms", asked="1000")
    assert took < 1.5  # a second, and the looking


def test_the_tenant_sees_its_share_as_the_card(card: Card, settled: Settled):
    client = card.tenant("view", "3GiB")
    assert client.alloc(GIB, "held") == 0
    used = settled("view", client)
    assert client.do("[cu.cuMemGetInfo_v2(R(p), R(q)), p.value, q.value]") == [0, 3 * GIB - used, 3 * GIB]
    assert client.do("[cu.cuDeviceTotalMem_v2(R(p), 0), p.value]") == [0, 3 * GIB]
    client.do(READ_NVML)
    assert client.do("[memory.total, memory.used, memory.free]") == [3 * GIB, used, 3 * GIB - used]


def test_nvml_lists_the_tenants_own_processes_only(card: Card):
    card.tenant("other", "2GiB")
    client = card.tenant("mine", "2GiB")
    client.do(READ_NVML)
    assert client.do("[row.pid for row in nvml.nvmlDeviceGetComputeRunningProcesses(device)]") == [client.pid]


def test_a_killed_process_gives_back_its_charge_within_a_second_of_the_cards_release(card: Card, findings: Findings):
    python = f"{sys.executable} {memory_tenant.CLIENT} dlsym"
    shell = Client(card.start("killed", "sh", "-c", f"{python}; echo '\"over\"'; cat", memory="3GiB"))
    shell.start_context()
    shell.do(memory_tenant.PRELUDE)
    assert shell.alloc(2 * GIB) == 0
    pid = int(shell.do("__import__('os').getpid()"))
    assert card.held_bytes(pid) > 2 * GIB
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: card.held_bytes(pid) == 0)
    released = time.monotonic()
    eventually(lambda: card.share("killed")["used_bytes"] == 0)
    took = time.monotonic() - released
    findings.add("charge gone after the card's release", 1e3 * took, "ms", asked="1000")
    assert took < 1.0
    assert shell.process.stdout
    assert json.loads(shell.process.stdout.readline()) == "over"
    assert card.tenant("next", "3GiB").alloc(2 * GIB) == 0


@pytest.mark.parametrize("name", ALLOCATING)
def test_every_way_to_allocate_is_charged_and_returned(card: Card, settled: Settled, name: str):
    row = ALLOCATING[name]
    client = card.tenant("ways", "4GiB")
    client.do(row.setup or "None")
    before = settled("ways", client)
    assert client.do(row.allocate.format(size=row.size)) == 0
    charged = card.share("ways")["used_bytes"] - before
    given = card.held_bytes(client.pid) - before
    assert row.size <= charged
    assert given <= charged <= given + row.bound
    assert client.do(row.free) == 0
    if row.keeps:
        client.do(row.keeps)
    assert settled("ways", client) == before


@pytest.mark.parametrize("name", ALLOCATING)
def test_every_way_to_allocate_is_refused_over_the_quota(card: Card, name: str):
    client = card.tenant("refused", "1GiB")
    client.do(ALLOCATING[name].setup or "None")
    assert client.do(ALLOCATING[name].allocate.format(size=GIB)) == OUT_OF_MEMORY
    assert card.share("refused")["oom_count"] == 1


GRAPH_WITH_MEMORY = """
def run(size):
    parameters = alloc_node(size)
    return next(filter(None, (
        cu.cuGraphCreate(R(graph), 0),
        cu.cuGraphAddMemAllocNode(R(node), graph, None, Q(0), parameters),
        cu.cuGraphInstantiateWithFlags(R(p), graph, Q(0)),
        cu.cuGraphLaunch(p, None),
        cu.cuCtxSynchronize(),
    )), 0)
"""


def test_a_graphs_memory_is_charged_and_refused_over_the_quota(card: Card, settled: Settled):
    client = card.tenant("graph", "1GiB")
    client.do(GRAPH_WITH_MEMORY)
    before = settled("graph", client)
    assert client.do(f"run({64 * MIB})") == 0
    charged = card.share("graph")["used_bytes"] - before
    given = card.held_bytes(client.pid) - before
    assert 64 * MIB <= given <= charged
    assert client.do(f"run({GIB})") == OUT_OF_MEMORY


def test_managed_memory_is_refused_where_the_tenant_is_to_have_none(card: Card):
    client = card.tenant("strict", "2GiB", options=("--refuse-managed",))
    assert client.do("cu.cuMemAllocManaged(R(p), Q(4096), 1)") == NOT_SUPPORTED
