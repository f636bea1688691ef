"""Green contexts under the memory quota: what is charged lives as long as the primary context, as on the card."""

from __future__ import annotations

from tests.native.memory_tenant import MIB, OUT_OF_MEMORY, SimulatedHost
from tests.native.test_shim_memory import CONTEXT, QUOTA, settled

# A descriptor of 8 of the card's SMs; CUdevResource has 144 bytes.
SPLIT = """
whole, part, groups = ctypes.create_string_buffer(144), ctypes.create_string_buffer(144), ctypes.c_uint(1)
descriptor, green, view = out(), out(), out()
codes = [cu.cuDeviceGetDevResource(0, whole, 1)]
codes.append(cu.cuDevSmResourceSplitByCount(part, ctypes.byref(groups), whole, None, 0, 8))
codes.append(cu.cuDevResourceGenerateDesc(R(descriptor), part, 1))
""".strip().splitlines()


def test_green_context_is_charged_as_the_primary_context_that_it_keeps(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    for order in ("import ctypes", *SPLIT):
        client.do(order)
    assert client.do("codes") == [0, 0, 0]
    assert client.do("cu.cuDevicePrimaryCtxRelease_v2(0)") == 0
    assert tenant.used_bytes == host.held_bytes(client) == 0
    assert client.do("cu.cuGreenCtxCreate(R(green), descriptor, 0, 1)") == 0
    assert settled(host, tenant, client) == 0
    assert tenant.usage()[1][0].gpus[0].contexts == 1
    assert client.do("[cu.cuCtxFromGreenCtx(R(view), green), cu.cuCtxSetCurrent(view)]") == [0, 0]
    assert client.alloc(64 * MIB) == 0
    assert client.alloc(400 * MIB, "q") == OUT_OF_MEMORY
    assert settled(host, tenant, client) == 64 * MIB
    assert client.do("cu.cuGreenCtxCreate(R(q), descriptor, 0, 1)") == 0
    assert settled(host, tenant, client) == 64 * MIB
    assert client.do("cu.cuGreenCtxDestroy(q)") == 0
    assert settled(host, tenant, client) == 64 * MIB
    assert client.do("cu.cuGreenCtxDestroy(green)") == 0
    assert tenant.used_bytes == host.held_bytes(client) == 0
    assert client.do("cu.cuGreenCtxCreate(R(green), descriptor, 0, 1)") == 0
    assert client.do("[cu.cuCtxFromGreenCtx(R(view), green), cu.cuCtxSetCurrent(view)]") == [0, 0]
    assert client.alloc(64 * MIB) == 0
    assert client.do("cu.cuDevicePrimaryCtxReset_v2(0)") == 0
    assert tenant.used_bytes == host.held_bytes(client) == 0


def test_what_is_made_in_a_green_context_outlives_it(host: SimulatedHost) -> None:
    tenant = host.tenant("a", QUOTA)
    client = host.client(tenant)
    for order in ("import ctypes", *SPLIT):
        client.do(order)
    assert client.do("cu.cuGreenCtxCreate(R(green), descriptor, 0, 1)") == 0
    assert client.do("[cu.cuCtxFromGreenCtx(R(view), green), cu.cuCtxSetCurrent(view)]") == [0, 0]
    assert client.alloc(64 * MIB) == 0
    assert client.do("[cu.cuGreenCtxDestroy(green), cu.cuCtxSetCurrent(context)]") == [0, 0]
    assert settled(host, tenant, client) == 64 * MIB
    assert client.free() == 0
    assert settled(host, tenant, client) == 0
    assert client.do("cu.cuDevicePrimaryCtxRelease_v2(0)") == 0
    assert tenant.used_bytes == host.held_bytes(client) == 0


def test_green_context_over_the_quota_is_refused(host: SimulatedHost) -> None:
    tenant = host.tenant("a", CONTEXT - 1)
    client = host.start(tenant)
    for order in ("import ctypes", "cu.cuInit(0)", *SPLIT):
        client.do(order)
    assert client.do("cu.cuGreenCtxCreate(R(green), descriptor, 0, 1)") == OUT_OF_MEMORY
    assert tenant.used_bytes == host.held_bytes(client) == 0
