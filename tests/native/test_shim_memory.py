"""The memory quota over a simulated card: what is charged is what the card holds, for as long as it does."""

from __future__ import annotations

import time

import pytest

from cgpu.region import layout
from tests.native.memory_tenant import (
    GRANULE,
    INVALID_HANDLE,
    INVALID_VALUE,
    MIB,
    NOT_SUPPORTED,
    OUT_OF_MEMORY,
    Client,
    SimulatedHost,
    TenantRegion,
)
from tests.native.sim_machine import CONTEXT_BYTES

CONTEXT = CONTEXT_BYTES
QUOTA = CONTEXT + 400 * MIB


def settled(host: SimulatedHost, tenant: TenantRegion, *clients: Client) -> int:
    """What the tenant is charged beyond contexts, which must be what the card holds."""
    assert tenant.used_bytes == host.held_bytes(*clients)
    return tenant.used_bytes - CONTEXT * len(clients)


def comes_to(expected: int, host: SimulatedHost, tenant: TenantRegion, client: Client) -> bool:
    """The same, after a descriptor was closed: the card notices that a moment later."""
    deadline = time.monotonic() + 10
    while host.held_bytes(client) != expected + CONTEXT and time.monotonic() < deadline:
        time.sleep(0.01)
    return settled(host, tenant, client) == expected


# ---- without a tenant ----


def test_without_a_region_nothing_is_touched(host: SimulatedHost) -> None:
    client = host.client(None)
    assert client.alloc(1000 * MIB) == 0
    assert client.do("[cu.cuMemGetInfo_v2(R(p), R(q)), q.value]") == [
        0,
        host.card()["total_bytes"] - host.card()["reserved_bytes"],
    ] or (client.do("q.value") > 10_000 * MIB)
    assert client.end() == ""


# ---- linear memory ----


def test_small_blocks_are_charged_by_the_granule(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    client.do("small = [out() for _ in range(3000)]")
    assert client.do("[cu.cuMemAlloc_v2(R(p), Q(4096)) for p in small].count(0)") == 3000
    charged = settled(host, tenant, client)
    assert 3000 * 4096 <= charged <= 3000 * 4096 + 4 * GRANULE
    assert client.do("[cu.cuMemFree_v2(p) for p in small].count(0)") == 3000
    assert settled(host, tenant, client) == 0


def test_quota_is_met_to_the_granule(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    assert client.alloc(400 * MIB) == 0
    assert client.alloc(1, "q") == OUT_OF_MEMORY
    assert client.free() == 0
    assert client.alloc(400 * MIB + 1) == OUT_OF_MEMORY
    assert client.alloc(398 * MIB) == 0
    assert client.alloc(1, "q") == 0
    assert settled(host, tenant, client) == 400 * MIB


@pytest.mark.parametrize("size", [1 << 40, 1 << 62, (1 << 64) - 1, (1 << 64) - 256])
def test_absurd_sizes_are_refused_and_leave_nothing(host: SimulatedHost, size: int) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    assert client.alloc(size) == OUT_OF_MEMORY
    assert client.do(f"cu.cuMemCreate(R(p), Q({size}), pinned(), Q(0))") != 0
    assert client.do(f"cu.cuMemAllocPitch_v2(R(p), R(q), Q({size}), Q(2), 4)") == OUT_OF_MEMORY
    assert client.do(f"cu.cuMemAllocAsync(R(p), Q({size}), None)") == OUT_OF_MEMORY
    assert settled(host, tenant, client) == 0


def test_wrong_arguments_get_the_drivers_own_answers(host: SimulatedHost) -> None:
    tenant = host.tenant("a", CONTEXT)
    client, native = host.client(tenant), host.client(None)
    for order in (
        "cu.cuMemAlloc_v2(R(p), Q(0))",
        "cu.cuMemFree_v2(Q(0))",
        "cu.cuMemFree_v2(Q(12345))",
        "cu.cuMemFreeAsync(Q(12345), None)",
        "cu.cuMemRelease(Q(12345))",
        "cu.cuMemUnmap(Q(0), Q(0))",
        "cu.cuMemPoolDestroy(None)",
        "cu.cuMemAllocFromPoolAsync(R(p), Q(1), None, None)",
        "cu.cuCtxDestroy_v2(None)",
    ):
        assert client.do(order) == native.do(order), order
    assert settled(host, tenant, client) == 0


def test_managed_memory_is_charged_in_full_and_can_be_refused(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    assert client.do(f"cu.cuMemAllocManaged(R(p), Q({300 * MIB}), 1)") == 0
    assert tenant.used_bytes == CONTEXT + 300 * MIB
    assert tenant.usage()[1][0].gpus[0].managed_bytes == 300 * MIB
    assert client.do(f"cu.cuMemAllocManaged(R(q), Q({200 * MIB}), 1)") == OUT_OF_MEMORY
    assert client.free() == 0
    assert tenant.usage()[1][0].gpus[0].managed_bytes == 0
    assert tenant.used_bytes == CONTEXT

    strict = host.tenant("b", QUOTA, flags=layout.CGPU_TENANT_REFUSE_MANAGED)
    client = host.client(strict)
    assert client.do(f"cu.cuMemAllocManaged(R(p), Q({MIB}), 1)") == NOT_SUPPORTED
    assert strict.usage()[0].denied_count == 1
    assert strict.used_bytes == CONTEXT


def test_the_tenant_sees_its_share(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    assert client.do("[cu.cuDeviceTotalMem_v2(R(p), 0), p.value]") == [0, QUOTA]
    assert client.alloc(100 * MIB) == 0
    assert client.do("[cu.cuMemGetInfo_v2(R(p), R(q)), p.value, q.value]") == [0, 300 * MIB, QUOTA]
    tenant.grants.gpu[0].overhead_bytes = 50 * MIB
    assert client.do("[cu.cuMemGetInfo_v2(R(p), R(q)), p.value, q.value]") == [0, 250 * MIB, QUOTA]
    tenant.grants.gpu[0].quota_bytes = 120 * MIB  # below what is used
    assert client.do("[cu.cuMemGetInfo_v2(R(p), R(q)), p.value, q.value]") == [0, 0, 120 * MIB]
    assert client.alloc(1) == OUT_OF_MEMORY
    tenant.grants.gpu[0].quota_bytes = QUOTA + 500 * MIB
    assert client.alloc(600 * MIB) == 0


def test_processes_of_a_tenant_share_one_quota_and_neighbours_have_their_own(host: SimulatedHost) -> None:
    tenant, neighbour = host.tenant("a", 2 * CONTEXT + 400 * MIB), host.tenant("b", QUOTA)
    first, second, other = host.client(tenant), host.client(tenant), host.client(neighbour)
    assert first.alloc(300 * MIB) == 0
    assert second.alloc(200 * MIB) == OUT_OF_MEMORY
    assert other.alloc(400 * MIB) == 0
    assert second.alloc(100 * MIB) == 0
    assert settled(host, tenant, first, second) == 400 * MIB
    assert settled(host, neighbour, other) == 400 * MIB


# ---- contexts ----


def test_primary_context_is_charged_once_and_returned_at_its_end(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    assert client.do("cu.cuDevicePrimaryCtxRetain(R(p), 0)") == 0
    assert settled(host, tenant, client) == 0
    assert tenant.usage()[1][0].gpus[0].contexts == 1
    assert client.alloc(64 * MIB) == 0
    assert client.do("cu.cuDevicePrimaryCtxRelease_v2(0)") == 0
    assert settled(host, tenant, client) == 64 * MIB
    assert client.do("cu.cuDevicePrimaryCtxRelease_v2(0)") == 0
    assert tenant.used_bytes == host.held_bytes(client) == 0
    client.start_context()
    assert settled(host, tenant, client) == 0
    assert client.alloc(64 * MIB) == 0
    assert client.do("cu.cuDevicePrimaryCtxReset_v2(0)") == 0
    assert tenant.used_bytes == host.held_bytes(client) == 0


def test_destroying_a_context_returns_what_was_made_in_it(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    assert client.alloc(10 * MIB, "kept") == 0
    assert client.do("cu.cuCtxCreate_v2(R(p), 0, 0)") == 0
    assert client.alloc(64 * MIB, "q") == 0
    assert client.do("[cu.cuMemAlloc_v2(R(out()), Q(1000)) for _ in range(50)].count(0)") == 50
    assert tenant.used_bytes == host.held_bytes(client)
    assert client.do("cu.cuCtxDestroy_v2(p)") == 0
    assert settled(host, tenant, client) == 10 * MIB
    assert client.do("cu.cuCtxSetCurrent(context)") == 0
    assert client.free("kept") == 0
    assert settled(host, tenant, client) == 0


def test_context_over_the_quota_is_refused(host: SimulatedHost) -> None:
    tenant = host.tenant("a", CONTEXT - 1)
    client = host.start(tenant)
    client.do("p = out()")
    assert client.do("[cu.cuInit(0), cu.cuDevicePrimaryCtxRetain(R(p), 0)]") == [0, OUT_OF_MEMORY]
    assert client.do("cu.cuCtxCreate_v2(R(p), 0, 0)") == OUT_OF_MEMORY
    assert tenant.used_bytes == host.held_bytes(client) == 0


def test_heaps_are_charged_as_they_grow(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    assert client.do(f"cu.cuCtxSetLimit(2, Q({500 * MIB}))") == OUT_OF_MEMORY
    assert client.do(f"cu.cuCtxSetLimit(2, Q({200 * MIB}))") == 0
    assert tenant.used_bytes > CONTEXT + 150 * MIB
    assert client.alloc(300 * MIB) == OUT_OF_MEMORY
    assert client.do("cu.cuCtxSetLimit(2, Q(8388608))") == 0
    assert tenant.used_bytes == CONTEXT


# ---- pools ----


def test_pool_is_charged_for_what_it_keeps(host: SimulatedHost) -> None:
    """Fill the quota from a pool that keeps everything, free it, and fill it again by cuMemAlloc."""
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    client.do("assert cu.cuDeviceGetDefaultMemPool(R(pool), 0) == 0")
    assert client.do("cu.cuMemPoolSetAttribute(pool, 4, R(Q(2**64 - 1)))") == 0
    assert client.do(f"cu.cuMemAllocAsync(R(p), Q({390 * MIB}), None)") == 0
    assert client.do("[cu.cuMemFreeAsync(p, None), cu.cuCtxSynchronize()]") == [0, 0]
    assert settled(host, tenant, client) == 390 * MIB
    assert client.alloc(390 * MIB, "q") == 0  # the pool gives back what it keeps, and not a byte is held twice
    assert settled(host, tenant, client) == 390 * MIB
    assert client.do(f"cu.cuMemAllocAsync(R(p), Q({64 * MIB}), None)") == OUT_OF_MEMORY
    assert settled(host, tenant, client) == 390 * MIB


def test_pool_reuses_its_own_memory_at_the_edge_of_the_quota(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    for _ in range(20):  # frees on the stream that are not reached yet must not refuse what follows on it
        assert client.do(f"[cu.cuMemAllocAsync(R(p), Q({300 * MIB}), None), cu.cuMemFreeAsync(p, None)]") == [0, 0]
        assert host.held_bytes(client) <= QUOTA
    assert client.do("cu.cuCtxSynchronize()") == 0
    assert tenant.used_bytes >= host.held_bytes(client)


def test_free_functions_may_be_crossed(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    client.do("assert cu.cuDeviceGetDefaultMemPool(R(pool), 0) == 0")
    assert client.do("[cu.cuMemAllocAsync(R(p), Q(67108864), None), cu.cuCtxSynchronize(), cu.cuMemFree_v2(p)]") == [
        0,
        0,
        0,
    ]
    assert client.do("cu.cuMemPoolTrimTo(pool, Q(0))") == 0
    assert settled(host, tenant, client) == 0
    assert client.alloc(64 * MIB) == 0
    if client.do("cu.cuMemFreeAsync(p, None)"):  # a driver may refuse it: then it is still there
        assert settled(host, tenant, client) == 64 * MIB
        assert client.free() == 0
    assert client.do("cu.cuCtxSynchronize()") == 0
    assert client.alloc(400 * MIB) == 0
    assert settled(host, tenant, client) == 400 * MIB


def test_destroyed_pool_is_returned(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    assert client.do("cu.cuMemPoolCreate(R(pool), pool_properties())") == 0
    assert client.do("cu.cuMemPoolSetAttribute(pool, 4, R(Q(2**64 - 1)))") == 0
    assert client.do("[cu.cuMemAllocFromPoolAsync(R(p), Q(67108864), pool, None), cu.cuMemFreeAsync(p, None)]") == [
        0,
        0,
    ]
    assert client.do("cu.cuCtxSynchronize()") == 0
    assert settled(host, tenant, client) >= 64 * MIB
    assert client.do("cu.cuMemPoolDestroy(pool)") == 0
    assert settled(host, tenant, client) == 0


def test_destroyed_pool_with_blocks_in_use_stays_charged(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    assert client.do("cu.cuMemPoolCreate(R(pool), pool_properties())") == 0
    assert client.do(f"cu.cuMemAllocFromPoolAsync(R(p), Q({300 * MIB}), pool, None)") == 0
    assert client.do("cu.cuMemPoolDestroy(pool)") == 0
    assert settled(host, tenant, client) == 300 * MIB
    assert client.alloc(200 * MIB, "q") == OUT_OF_MEMORY
    assert client.do("[cu.cuMemFreeAsync(p, None), cu.cuCtxSynchronize()]") == [0, 0]
    assert settled(host, tenant, client) == 0


# ---- graphs ----

GRAPH = (
    "cu.cuGraphCreate(R(graph), 0); parameters = alloc_node({size}); "
    "r = cu.cuGraphAddMemAllocNode(R(node), graph, None, Q(0), parameters)"
)
NODE = (
    "cu.cuGraphCreate(R(graph), 0); parameters = node_parameters({size}); "
    "r = cu.cuGraphAddNode_v2(R(node), graph, None, None, Q(0), parameters)"
)
CAPTURE = (
    "cu.cuStreamCreate(R(stream), 1); cu.cuStreamBeginCapture_v2(stream, 2); "
    "r = cu.cuMemAllocAsync(R(p), Q({size}), stream); cu.cuStreamEndCapture(stream, R(graph))"
)


@pytest.mark.parametrize("build", [GRAPH, NODE, CAPTURE], ids=["node", "any-node", "capture"])
def test_graph_memory_is_charged_from_instantiation(host: SimulatedHost, build: str) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    client.do(build.format(size=300 * MIB))
    assert client.do("r") == 0
    assert settled(host, tenant, client) == 0
    assert client.do("cu.cuGraphInstantiateWithFlags(R(q), graph, Q(1))") == 0
    assert tenant.used_bytes == CONTEXT + 300 * MIB
    assert client.alloc(200 * MIB, "more") == OUT_OF_MEMORY
    assert client.do("[cu.cuGraphLaunch(q, None), cu.cuCtxSynchronize()]") == [0, 0]
    assert settled(host, tenant, client) == 300 * MIB
    assert client.do("cu.cuGraphExecDestroy(q)") == 0
    assert tenant.used_bytes >= host.held_bytes(client)  # the stock may keep it
    assert client.do("cu.cuDeviceGraphMemTrim(0)") == 0
    assert tenant.used_bytes == host.held_bytes(client)

    client.do(build.format(size=500 * MIB))
    assert client.do("cu.cuGraphInstantiateWithFlags(R(q), graph, Q(1))") == OUT_OF_MEMORY


# ---- physical memory by the handle ----


def test_physical_memory_stays_charged_while_mapped(host: SimulatedHost) -> None:
    """Create, map, release: the card still holds it."""
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    size = 300 * MIB
    client.do("va, again = out(), out()")
    assert client.do(f"cu.cuMemCreate(R(p), Q({size}), pinned(), Q(0))") == 0
    assert client.do(f"cu.cuMemAddressReserve(R(va), Q({size}), Q(0), Q(0), Q(0))") == 0
    assert client.do(f"[cu.cuMemMap(va, Q({size}), Q(0), p, Q(0)), cu.cuMemRelease(p)]") == [0, 0]
    assert settled(host, tenant, client) == size
    assert client.do(f"cu.cuMemCreate(R(q), Q({size}), pinned(), Q(0))") == OUT_OF_MEMORY
    assert client.do("cu.cuMemRetainAllocationHandle(R(again), ctypes.c_void_p(va.value + 4096))") == 0
    assert client.do(f"cu.cuMemUnmap(va, Q({size}))") == 0
    assert settled(host, tenant, client) == size
    assert client.do("cu.cuMemRelease(again)") == 0
    assert settled(host, tenant, client) == 0


def test_unmapping_several_at_once_and_failed_calls(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    client.do("va, h = out(), [out() for _ in range(8)]")
    assert client.do(f"cu.cuMemAddressReserve(R(va), Q({16 * MIB}), Q(0), Q(0), Q(0))") == 0
    assert client.do(f"[cu.cuMemCreate(R(x), Q({GRANULE}), pinned(), Q(0)) for x in h].count(0)") == 8
    assert (
        client.do(
            f"[cu.cuMemMap(Q(va.value + i * {GRANULE}), Q({GRANULE}), Q(0), h[i], Q(0)) for i in range(8)].count(0)"
        )
        == 8
    )
    assert client.do(f"cu.cuMemMap(va, Q({GRANULE}), Q(0), h[0], Q(0))") != 0
    assert client.do("[cu.cuMemRelease(x) for x in h].count(0)") == 8
    assert settled(host, tenant, client) == 16 * MIB
    assert client.do(f"cu.cuMemUnmap(Q(va.value + 4096), Q({GRANULE}))") != 0
    assert settled(host, tenant, client) == 16 * MIB
    assert client.do(f"cu.cuMemUnmap(va, Q({16 * MIB}))") == 0
    assert settled(host, tenant, client) == 0


# ---- between processes ----


def test_ipc_inside_a_tenant_is_charged_once_and_refused_across_tenants(host: SimulatedHost) -> None:
    tenant, stranger = host.tenant("a", 2 * CONTEXT + 400 * MIB), host.tenant("b", QUOTA)
    exporter, importer, other = host.client(tenant), host.client(tenant), host.client(stranger)
    assert exporter.alloc(300 * MIB) == 0
    exporter.do("handle = ctypes.create_string_buffer(64)")
    assert exporter.do("cu.cuIpcGetMemHandle(handle, p)") == 0
    handle = exporter.do("handle.raw.hex()")
    opening = (
        "class Handle(ctypes.Structure): _fields_ = [('raw', ctypes.c_char * 64)]\n"
        f"handle = Handle.from_buffer_copy(bytes.fromhex('{handle}'))\n"
        "r = cu.cuIpcOpenMemHandle_v2(R(q), handle, 1)"
    )
    other.do(opening)
    assert other.do("r") == INVALID_HANDLE
    assert stranger.usage()[0].denied_count == 1
    importer.do(opening)
    assert importer.do("r") == 0
    assert tenant.used_bytes == 2 * CONTEXT + 300 * MIB
    assert exporter.free() == 0  # the importer still holds it
    assert tenant.used_bytes == 2 * CONTEXT + 300 * MIB
    assert exporter.alloc(200 * MIB) == OUT_OF_MEMORY
    assert importer.do("cu.cuIpcCloseMemHandle(q)") == 0
    assert exporter.alloc(400 * MIB) == 0
    assert settled(host, tenant, exporter, importer) == 400 * MIB


def test_handles_of_other_tenants_are_not_opened(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    assert client.do("cu.cuMemImportFromShareableHandle(R(p), ctypes.c_void_p(0), 1)") == INVALID_VALUE
    client.do("import os; fd = ctypes.c_int(-1)")
    assert client.do(f"cu.cuMemCreate(R(p), Q({64 * MIB}), pinned(1), Q(0))") == 0
    assert client.do("cu.cuMemExportToShareableHandle(R(fd), p, 1, Q(0))") == 0
    assert client.do("cu.cuMemImportFromShareableHandle(R(q), ctypes.c_void_p(fd.value), 1)") == 0
    assert settled(host, tenant, client) == 64 * MIB
    assert client.do("cu.cuMemRelease(p)") == 0
    assert settled(host, tenant, client) == 64 * MIB
    assert client.do("[os.close(fd.value), cu.cuMemRelease(q)]") == [None, 0]
    assert client.alloc(400 * MIB) == 0
    assert comes_to(400 * MIB, host, tenant, client)


def test_waiting_shows_what_a_pool_has_given_back(host: SimulatedHost) -> None:
    """A pool without a threshold returns its memory when the host waits; a sibling may have it then."""
    tenant = host.tenant("a", 2 * CONTEXT + 400 * MIB)
    client, sibling = host.client(tenant), host.client(tenant)
    assert client.do(f"[cu.cuMemAllocAsync(R(p), Q({300 * MIB}), None), cu.cuMemFreeAsync(p, None)]") == [0, 0]
    assert client.do("cu.cuStreamSynchronize(None)") == 0
    assert settled(host, tenant, client, sibling) == 0
    assert sibling.alloc(400 * MIB) == 0


# ---- code ----

PTX = ".version 7.0\\n.target sm_70\\n.address_size 64\\n.visible .entry k(.param .u64 a) { ret; }\\n"


def test_code_is_charged_by_an_estimate_until_unloaded(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    client.do(f"image = ctypes.create_string_buffer(b'{PTX}')")
    assert client.do("cu.cuModuleLoadData(R(p), image)") == 0
    assert tenant.used_bytes == CONTEXT + GRANULE
    assert tenant.usage()[1][0].gpus[0].explicit_bytes == 0
    assert client.do("cu.cuModuleUnload(p)") == 0
    assert client.do("cu.cuLibraryLoadData(R(p), image, None, None, 0, None, None, 0)") == 0
    assert tenant.used_bytes == CONTEXT + GRANULE
    assert client.do("cu.cuLibraryUnload(p)") == 0
    assert tenant.used_bytes == CONTEXT
    tenant.grants.gpu[0].quota_bytes = CONTEXT
    assert client.do("cu.cuModuleLoadData(R(p), image)") == OUT_OF_MEMORY
    assert tenant.used_bytes == CONTEXT


def test_estimates_found_too_high_are_given_back_early(host: SimulatedHost) -> None:
    """The agent's surplus: taken up at the next charge, and not returned a second time at the end."""
    tenant = host.tenant("a", QUOTA, context_bytes=CONTEXT + 50 * MIB)
    client = host.client(tenant)
    assert tenant.used_bytes == CONTEXT + 50 * MIB
    surplus = tenant.grants.surplus[0][0]
    surplus.surplus_bytes = 50 * MIB
    surplus.charge_seq = tenant.usage()[1][0].gpus[0].charge_seq
    assert client.alloc(10 * MIB) == 0
    assert settled(host, tenant, client) == 10 * MIB
    assert client.do("cu.cuDevicePrimaryCtxReset_v2(0)") == 0
    assert tenant.used_bytes == host.held_bytes(client) == 0
