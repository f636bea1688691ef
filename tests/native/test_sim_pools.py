"""Memory pools of the simulated driver: what they keep, when they give it back, and to whom it is shown."""

from __future__ import annotations

import array
import ctypes
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from cuda.bindings import driver as cu

from tests.native.sim_driver import (
    MIB,
    SimulatedMachine,
    access_to,
    free_bytes,
    listen,
    ok,
    on_device,
    read_words,
    result_of,
    tell,
    use_device,
)

CHUNK = 32 * MIB
ATTRIBUTE = cu.CUmemPool_attribute
KEEP_ALL = cu.cuuint64_t(2**64 - 1)


@pytest.fixture
def machine(native: Path, tmp_path: Path) -> SimulatedMachine:
    return SimulatedMachine.make(native, tmp_path)


def amount(pool: Any, attribute: Any) -> int:
    return int(ok(cu.cuMemPoolGetAttribute(pool, attribute)))


def amounts(pool: Any) -> dict[str, int]:
    return {
        "reserved": amount(pool, ATTRIBUTE.CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT),
        "used": amount(pool, ATTRIBUTE.CU_MEMPOOL_ATTR_USED_MEM_CURRENT),
    }


def default_pool() -> Any:
    return ok(cu.cuDeviceGetDefaultMemPool(0))


def new_pool(handle_types: Any = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_NONE, max_bytes: int = 0) -> Any:
    properties = cu.CUmemPoolProps()
    properties.allocType = cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.location = on_device()
    properties.handleTypes = handle_types
    properties.maxSize = max_bytes
    return ok(cu.cuMemPoolCreate(properties))


def keeping() -> None:
    use_device()
    before, stream, pool = free_bytes(), ok(cu.cuStreamCreate(0)), default_pool()
    first = ok(cu.cuMemAllocAsync(100 * MIB, stream))
    assert before - free_bytes() == 100 * MIB
    assert amounts(pool) == {"reserved": 100 * MIB, "used": 100 * MIB}
    # Without a threshold the next synchronisation gives everything back.
    ok(cu.cuMemFreeAsync(first, stream))
    ok(cu.cuStreamSynchronize(stream))
    assert before == free_bytes()
    assert amounts(pool) == {"reserved": 0, "used": 0}
    # With one, the card still holds what the pool keeps, until the pool is trimmed.
    ok(cu.cuMemPoolSetAttribute(pool, ATTRIBUTE.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, KEEP_ALL))
    ok(cu.cuMemFreeAsync(ok(cu.cuMemAllocAsync(100 * MIB, stream)), stream))
    ok(cu.cuStreamSynchronize(stream))
    assert before - free_bytes() == 100 * MIB
    assert amounts(pool) == {"reserved": 100 * MIB, "used": 0}
    ok(cu.cuMemPoolTrimTo(pool, 100 * MIB))
    assert before - free_bytes() == 100 * MIB
    ok(cu.cuMemPoolTrimTo(pool, 100 * MIB - 1))
    assert before == free_bytes()
    assert amount(pool, ATTRIBUTE.CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH) == 100 * MIB


def test_a_pool_gives_back_what_its_threshold_does_not_allow(
    machine: SimulatedMachine,
) -> None:
    machine.call(keeping)


def escape_by_keeping() -> None:
    """Fill the card from the pool, free it all, and find that the card is still full."""
    use_device()
    stream, pool = ok(cu.cuStreamCreate(0)), default_pool()
    ok(cu.cuMemPoolSetAttribute(pool, ATTRIBUTE.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, KEEP_ALL))
    most = free_bytes()
    ok(cu.cuMemFreeAsync(ok(cu.cuMemAllocAsync(most, stream)), stream))
    ok(cu.cuStreamSynchronize(stream))
    assert free_bytes() == 0
    assert result_of(cu.cuMemAlloc(2 * MIB)) == "OUT_OF_MEMORY"
    ok(cu.cuMemPoolTrimTo(pool, 0))
    ok(cu.cuMemFree(ok(cu.cuMemAlloc(most))))


def test_memory_that_a_pool_keeps_is_not_there_for_others(machine: SimulatedMachine) -> None:
    machine.call(escape_by_keeping)


def pieces() -> None:
    use_device()
    before, stream, pool = free_bytes(), ok(cu.cuStreamCreate(0)), default_pool()
    small = [ok(cu.cuMemAllocAsync(1000, stream)) for _ in range(3)]
    assert before - free_bytes() == CHUNK, "a pool takes memory in chunks"
    assert amounts(pool) == {"reserved": CHUNK, "used": 3 * 1024}
    assert [int(each) - int(small[0]) for each in small] == [0, 1024, 2048]
    ok(cu.cuMemFreeAsync(small[1], stream))
    again = ok(cu.cuMemAllocAsync(600, stream))
    assert int(again) == int(small[1]), "work in the same stream may have it at once"
    for each in (small[0], again, small[2]):
        ok(cu.cuMemFreeAsync(each, stream))
    ok(cu.cuCtxSynchronize())
    assert before == free_bytes()
    assert amount(pool, ATTRIBUTE.CU_MEMPOOL_ATTR_USED_MEM_HIGH) == 3 * 1024
    ok(cu.cuMemPoolSetAttribute(pool, ATTRIBUTE.CU_MEMPOOL_ATTR_USED_MEM_HIGH, cu.cuuint64_t(0)))
    assert amount(pool, ATTRIBUTE.CU_MEMPOOL_ATTR_USED_MEM_HIGH) == 0


def test_small_allocations_share_a_chunk_and_are_used_again(machine: SimulatedMachine) -> None:
    machine.call(pieces)


def stream_order() -> None:
    use_device()
    stream, other = ok(cu.cuStreamCreate(1)), ok(cu.cuStreamCreate(1))
    pool, gate = default_pool(), ok(cu.cuMemAlloc(4))
    ok(cu.cuMemsetD32(gate, 0, 1))
    memory = ok(cu.cuMemAllocAsync(64 * MIB, stream))
    ok(cu.cuStreamWaitValue32(stream, gate, 1, 0))
    ok(cu.cuMemsetD32Async(memory, 7, 1024, stream))
    ok(cu.cuMemFreeAsync(memory, stream))
    # Behind the gate nothing has been freed: another stream cannot have it, and a second free is an error.
    assert amounts(pool) == {"reserved": 64 * MIB, "used": 64 * MIB}
    elsewhere = ok(cu.cuMemAllocAsync(64 * MIB, other))
    assert int(elsewhere) != int(memory)
    assert result_of(cu.cuMemFreeAsync(memory, other)) == "INVALID_VALUE"
    assert result_of(cu.cuMemFree(memory)) == "INVALID_VALUE"
    ok(cu.cuMemsetD32Async(gate, 1, 1, other))
    ok(cu.cuStreamSynchronize(stream))
    assert amounts(pool)["used"] == 64 * MIB
    ok(cu.cuMemFree(elsewhere))
    ok(cu.cuStreamSynchronize(other))
    assert amounts(pool) == {"reserved": 0, "used": 0}


def test_a_free_takes_effect_in_stream_order(machine: SimulatedMachine) -> None:
    machine.call(stream_order)


def waiting_reuse() -> None:
    """All of the card is on its way back in a stream that is held up: another stream gets it, and waits."""
    use_device()
    stream, other = ok(cu.cuStreamCreate(1)), ok(cu.cuStreamCreate(1))
    pool, gate = default_pool(), ok(cu.cuMemAlloc(4))
    ok(cu.cuMemsetD32(gate, 0, 1))
    most = free_bytes()
    memory = ok(cu.cuMemAllocAsync(most, stream))
    ok(cu.cuStreamWaitValue32(stream, gate, 1, 0))
    ok(cu.cuMemsetD32Async(memory, 7, 4, stream))
    ok(cu.cuMemFreeAsync(memory, stream))
    reuse = ATTRIBUTE.CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES
    ok(cu.cuMemPoolSetAttribute(pool, reuse, 0))
    assert result_of(cu.cuMemAllocAsync(most, other)) == "OUT_OF_MEMORY"
    ok(cu.cuMemPoolSetAttribute(pool, reuse, 1))
    again = ok(cu.cuMemAllocAsync(most, other))
    ok(cu.cuMemsetD32Async(again, 8, 1, other))
    assert result_of(cu.cuStreamQuery(other)) == "NOT_READY"
    ok(cu.cuStreamWriteValue32(ok(cu.cuStreamCreate(1)), gate, 1, 0))
    ok(cu.cuStreamSynchronize(other))
    assert read_words(again, 2) == [8, 7]
    assert amounts(pool) == {"reserved": most, "used": most}


def test_memory_that_another_stream_is_freeing_is_used_again_when_there_is_no_other(machine: SimulatedMachine) -> None:
    machine.call(waiting_reuse)


def data_stays() -> list[int]:
    use_device()
    stream = ok(cu.cuStreamCreate(0))
    memory = ok(cu.cuMemAllocAsync(8 * MIB, stream))
    ok(cu.cuMemsetD32Async(memory, 0x11223344, 2 * MIB, stream))
    ok(cu.cuStreamSynchronize(stream))
    return [*read_words(memory, 1), *read_words(int(memory) + 8 * MIB - 4, 1)]


def test_pool_memory_holds_data(machine: SimulatedMachine) -> None:
    assert machine.call(data_stays) == [0x11223344] * 2


def out_of_memory() -> None:
    use_device()
    stream, before = ok(cu.cuStreamCreate(0)), free_bytes()
    assert result_of(cu.cuMemAllocAsync(before + 2 * MIB, stream)) == "OUT_OF_MEMORY"
    assert free_bytes() == before
    rest = ok(cu.cuMemAlloc(before - 4 * MIB))
    ok(cu.cuMemAllocAsync(1000, stream))  # less than a chunk is left, but enough
    assert free_bytes() == 2 * MIB
    ok(cu.cuMemFree(rest))
    limited = new_pool(max_bytes=CHUNK)
    ok(cu.cuMemAllocFromPoolAsync(CHUNK, limited, stream))
    assert result_of(cu.cuMemAllocFromPoolAsync(2 * MIB, limited, stream)) == "OUT_OF_MEMORY"


def test_a_pool_is_refused_what_the_card_or_its_own_limit_does_not_have(machine: SimulatedMachine) -> None:
    machine.call(out_of_memory)


def life_of_a_pool() -> None:
    use_device()
    stream, before = ok(cu.cuStreamCreate(0)), free_bytes()
    pool = new_pool()
    ok(cu.cuDeviceSetMemPool(0, pool))
    assert int(ok(cu.cuDeviceGetMemPool(0))) == int(pool)
    memory = ok(cu.cuMemAllocAsync(40 * MIB, stream))
    assert amounts(pool)["used"] == 40 * MIB
    ok(cu.cuMemPoolDestroy(pool))
    assert int(ok(cu.cuDeviceGetMemPool(0))) == int(default_pool())
    assert result_of(cu.cuMemPoolTrimTo(pool, 0)) == "INVALID_VALUE"
    assert before - free_bytes() == 40 * MIB, "what is in use stays"
    ok(cu.cuMemsetD32Async(memory, 1, 16, stream))
    ok(cu.cuMemFreeAsync(memory, stream))
    ok(cu.cuStreamSynchronize(stream))
    assert before == free_bytes()
    assert result_of(cu.cuMemPoolDestroy(default_pool())) == "INVALID_VALUE"


def test_a_destroyed_pool_lives_until_its_last_allocation_is_freed(machine: SimulatedMachine) -> None:
    machine.call(life_of_a_pool)


def end_of_the_context() -> None:
    use_device()
    stream, before = ok(cu.cuStreamCreate(0)), free_bytes()
    ok(cu.cuMemPoolSetAttribute(default_pool(), ATTRIBUTE.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, KEEP_ALL))
    ok(cu.cuMemAllocAsync(50 * MIB, stream))
    ok(cu.cuMemFreeAsync(ok(cu.cuMemAllocAsync(50 * MIB, stream)), stream))
    ok(cu.cuDevicePrimaryCtxReset(0))
    use_device()
    assert free_bytes() == before


def test_the_end_of_a_context_frees_what_its_streams_allocated(machine: SimulatedMachine) -> None:
    machine.call(end_of_the_context)


def attributes_and_access() -> None:
    use_device()
    pool = new_pool()
    for wrong in (ATTRIBUTE.CU_MEMPOOL_ATTR_USED_MEM_CURRENT, ATTRIBUTE.CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT):
        assert result_of(cu.cuMemPoolSetAttribute(pool, wrong, cu.cuuint64_t(0))) == "INVALID_VALUE"
    high = ATTRIBUTE.CU_MEMPOOL_ATTR_USED_MEM_HIGH
    assert result_of(cu.cuMemPoolSetAttribute(pool, high, cu.cuuint64_t(5))) == "INVALID_VALUE"
    flags = cu.CUmemAccess_flags
    assert ok(cu.cuMemPoolGetAccess(pool, on_device(0))) == flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    assert ok(cu.cuMemPoolGetAccess(pool, on_device(1))) == flags.CU_MEM_ACCESS_FLAGS_PROT_NONE
    ok(cu.cuMemPoolSetAccess(pool, [access_to(1, flags.CU_MEM_ACCESS_FLAGS_PROT_READ)], 1))
    assert ok(cu.cuMemPoolGetAccess(pool, on_device(1))) == flags.CU_MEM_ACCESS_FLAGS_PROT_READ
    own = [access_to(0, flags.CU_MEM_ACCESS_FLAGS_PROT_NONE)]
    assert result_of(cu.cuMemPoolSetAccess(pool, own, 1)) == "INVALID_VALUE", "its own device keeps access"


def test_attributes_and_access_are_checked(machine: SimulatedMachine) -> None:
    machine.call(attributes_and_access)


POSIX = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR


def exporter(path: str) -> None:
    """Export a pool and an allocation of it; end it when told, and then end."""
    use_device()
    stream, pool = ok(cu.cuStreamCreate(0)), new_pool(POSIX)
    memory = ok(cu.cuMemAllocFromPoolAsync(6 * MIB, pool, stream))
    ok(cu.cuMemsetD32Async(memory, 42, 1024, stream))
    ok(cu.cuStreamSynchronize(stream))
    descriptor = int(ok(cu.cuMemPoolExportToShareableHandle(pool, POSIX, 0)))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        tell(list(ctypes.string_at(ok(cu.cuMemPoolExportPointer(memory)).getPtr(), 64)))
        connection, _ = server.accept()
        with connection:
            rights = array.array("i", [descriptor])
            connection.sendmsg([b"pool"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            os.close(descriptor)
    assert listen() == "free"
    ok(cu.cuMemFreeAsync(memory, stream))
    ok(cu.cuStreamSynchronize(stream))
    tell("freed")
    listen()


def importer(path: str, share: list[int]) -> None:
    use_device()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        _, rights, _, _ = client.recvmsg(16, socket.CMSG_SPACE(4))
    descriptor = int.from_bytes(rights[0][2][:4], "little")
    before = free_bytes()
    pool = ok(cu.cuMemPoolImportFromShareableHandle(descriptor, POSIX, 0))
    os.close(descriptor)
    data = cu.CUmemPoolPtrExportData()
    ctypes.memmove(data.getPtr(), bytes(share), 64)
    memory = ok(cu.cuMemPoolImportPointer(pool, data))
    assert read_words(memory, 2) == [42, 42]
    assert free_bytes() == before, "an import takes nothing more"
    assert result_of(cu.cuMemAllocFromPoolAsync(MIB, pool, 0)) == "INVALID_VALUE"
    assert result_of(cu.cuDeviceSetMemPool(0, pool)) == "INVALID_VALUE"
    tell("imported")
    assert listen() == "still there?"
    assert read_words(memory, 1) == [42], "what is imported outlives the exporter's free"
    held = free_bytes()
    ok(cu.cuMemFreeAsync(memory, 0))
    ok(cu.cuCtxSynchronize())
    ok(cu.cuMemPoolDestroy(pool))
    tell(free_bytes() - held)


def test_a_pool_is_shared_with_another_process(machine: SimulatedMachine, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with machine.start(exporter, path) as first:
        share = first.receive()
        with machine.start(importer, path, share) as second:
            assert second.receive() == "imported"
            first.send("free")
            assert first.receive() == "freed"
            second.send("still there?")
            assert second.receive() == CHUNK, "the last one to let go frees the memory"
