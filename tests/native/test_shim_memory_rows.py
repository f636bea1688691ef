"""Every way to get device memory is charged what the card gives out, refused over the quota, returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pytest

from tests.native.memory_tenant import GRANULE, MIB, OUT_OF_MEMORY, SimulatedHost
from tests.native.sim_machine import CONTEXT_BYTES

QUOTA = 600 * MIB
ROUTES = ("dlsym", "default", "proc")


@dataclass(frozen=True)
class Row:
    """How one function allocates `size` bytes, and how they are freed; expressions for the client."""

    allocate: str
    free: str
    setup: str = ""
    size: int = 64 * MIB
    bound: int = 0  # at most this much is charged above the truth
    keeps: str = ""  # frees what the driver keeps after `free`


STREAM = "assert cu.cuStreamCreate(R(stream), 0) == 0; "
CREATE_POOL = "assert cu.cuMemPoolCreate(R(pool), pool_properties()) == 0"
DEFAULT_POOL = "assert cu.cuDeviceGetDefaultMemPool(R(pool), 0) == 0"
TRIM = "[cu.cuCtxSynchronize(), cu.cuMemPoolTrimTo(pool, Q(0))]"

ROWS: Final[dict[str, Row]] = {
    "cuMemAlloc_v2": Row("cu.cuMemAlloc_v2(R(p), Q({size}))", "cu.cuMemFree_v2(p)"),
    "cuMemAllocPitch_v2": Row("cu.cuMemAllocPitch_v2(R(p), R(q), Q(4096), Q({size} // 4096), 4)", "cu.cuMemFree_v2(p)"),
    "cuMemAllocManaged": Row("cu.cuMemAllocManaged(R(p), Q({size}), 1)", "cu.cuMemFree_v2(p)", bound=64 * MIB),
    "cuArrayCreate_v2": Row("cu.cuArrayCreate_v2(R(p), array2d({size}))", "cu.cuArrayDestroy(p)"),
    "cuArray3DCreate_v2": Row("cu.cuArray3DCreate_v2(R(p), array3d({size}))", "cu.cuArrayDestroy(p)"),
    "cuMipmappedArrayCreate": Row(
        "cu.cuMipmappedArrayCreate(R(p), array3d({size}), 1)", "cu.cuMipmappedArrayDestroy(p)"
    ),
    "cuMemCreate": Row("cu.cuMemCreate(R(p), Q({size}), pinned(), Q(0))", "cu.cuMemRelease(p)"),
    "cuMemAllocAsync": Row(
        "cu.cuMemAllocAsync(R(p), Q({size}), stream)", "cu.cuMemFreeAsync(p, stream)", STREAM + DEFAULT_POOL, keeps=TRIM
    ),
    "cuMemAllocAsync_ptsz": Row(
        "cu.cuMemAllocAsync_ptsz(R(p), Q({size}), None)", "cu.cuMemFreeAsync_ptsz(p, None)", DEFAULT_POOL, keeps=TRIM
    ),
    "cuMemAllocFromPoolAsync": Row(
        "cu.cuMemAllocFromPoolAsync(R(p), Q({size}), pool, stream)", "cu.cuMemFreeAsync(p, stream)",
        STREAM + CREATE_POOL, keeps=TRIM,
    ),
    "cuMemAllocFromPoolAsync_ptsz": Row(
        "cu.cuMemAllocFromPoolAsync_ptsz(R(p), Q({size}), pool, None)", "cu.cuMemFreeAsync_ptsz(p, None)",
        CREATE_POOL, keeps=TRIM,
    ),
    "cuCtxCreate_v2": Row("cu.cuCtxCreate_v2(R(p), 0, 0)", "cu.cuCtxDestroy_v2(p)", size=CONTEXT_BYTES),
    "cuCtxCreate_v3": Row("cu.cuCtxCreate_v3(R(p), None, 0, 0, 0)", "cu.cuCtxDestroy_v2(p)", size=CONTEXT_BYTES),
    "cuCtxCreate_v4": Row("cu.cuCtxCreate_v4(R(p), None, 0, 0)", "cu.cuCtxDestroy_v2(p)", size=CONTEXT_BYTES),
}  # fmt: skip
CASES = [
    (name, route)
    for name in ROWS
    for route in ROUTES
    if route != "proc" or "CtxCreate" not in name  # which version it gives is the driver's affair
]


@pytest.mark.parametrize(("name", "route"), CASES)
def test_row_is_charged_what_the_card_gives_and_returned(host: SimulatedHost, name: str, route: str) -> None:
    row = ROWS[name]
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant, route)
    client.do(row.setup or "None")
    before, held = tenant.used_bytes, host.held_bytes(client)
    assert before == held == CONTEXT_BYTES
    assert client.do(row.allocate.format(size=row.size)) == 0
    charged, given = tenant.used_bytes - before, host.held_bytes(client) - held
    assert row.size <= charged
    assert given <= charged <= given + row.bound
    assert client.do(row.free) == 0
    if row.keeps:
        client.do(row.keeps)
    assert (tenant.used_bytes, host.held_bytes(client)) == (before, held)


@pytest.mark.parametrize("name", ROWS)
def test_row_is_refused_over_the_quota_and_leaves_nothing(host: SimulatedHost, name: str) -> None:
    row = ROWS[name]
    tenant = host.tenant("a", CONTEXT_BYTES + row.size - GRANULE)
    client = host.client(tenant)
    client.do(row.setup or "None")
    assert client.do(row.allocate.format(size=row.size)) == OUT_OF_MEMORY
    assert tenant.used_bytes == host.held_bytes(client) == CONTEXT_BYTES
    assert tenant.usage()[0].oom_count == 1


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "Ctx" not in name])
def test_failure_of_the_driver_is_passed_on_and_returns_the_reserve(host: SimulatedHost, name: str) -> None:
    row = ROWS[name]
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    client.do(row.setup or "None")
    host.fault(0, 1)  # the card itself is out of memory, once
    result = client.do(row.allocate.format(size=row.size))
    if name != "cuMemAllocManaged":  # managed memory takes no card memory yet
        assert result == OUT_OF_MEMORY
        assert tenant.usage()[0].oom_count == 0
        assert tenant.used_bytes == host.held_bytes(client) == CONTEXT_BYTES
