"""Virtual memory management of the simulated driver: how long physical memory lives, and who may reach it."""

from __future__ import annotations

import array
import os
import select
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

POSIX = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
NONE = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_NONE
ACCESS = cu.CUmemAccess_flags
SIZE = 10 * MIB


@pytest.fixture
def machine(native: Path, tmp_path: Path) -> SimulatedMachine:
    return SimulatedMachine.make(native, tmp_path)


def properties(handle_types: Any = NONE) -> Any:
    wanted = cu.CUmemAllocationProp()
    wanted.type = cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    wanted.location = on_device()
    wanted.requestedHandleTypes = handle_types
    return wanted


def grant(address: Any, flags: Any = ACCESS.CU_MEM_ACCESS_FLAGS_PROT_READWRITE, size: int = SIZE) -> None:
    ok(cu.cuMemSetAccess(address, size, [access_to(0, flags)], 1))


def mapped(handle: Any) -> Any:
    address = ok(cu.cuMemAddressReserve(SIZE, 0, 0, 0))
    ok(cu.cuMemMap(address, SIZE, 0, handle, 0))
    return address


def release_before_unmap() -> None:
    use_device()
    before = free_bytes()
    handle = ok(cu.cuMemCreate(SIZE, properties(), 0))
    assert before - free_bytes() == SIZE
    address = mapped(handle)
    grant(address)
    ok(cu.cuMemRelease(handle))
    assert result_of(cu.cuMemRelease(handle)) == "INVALID_VALUE"
    assert before - free_bytes() == SIZE, "mapped memory outlives its handle"
    ok(cu.cuMemsetD32(address, 9, SIZE // 4))
    assert read_words(int(address) + SIZE - 8, 2) == [9, 9]
    ok(cu.cuMemUnmap(address, SIZE))
    assert before == free_bytes()
    assert result_of(cu.cuMemsetD32(address, 9, 1)) == "INVALID_VALUE"
    ok(cu.cuMemAddressFree(address, SIZE))
    assert result_of(cu.cuMemAddressFree(address, SIZE)) == "INVALID_VALUE"


def test_released_memory_lives_while_it_is_mapped(machine: SimulatedMachine) -> None:
    machine.call(release_before_unmap)


def retained() -> None:
    use_device()
    before = free_bytes()
    handle = ok(cu.cuMemCreate(SIZE, properties(), 0))
    address = mapped(handle)
    ok(cu.cuMemRelease(handle))
    again = ok(cu.cuMemRetainAllocationHandle(int(address) + MIB))
    ok(cu.cuMemUnmap(address, SIZE))
    assert before - free_bytes() == SIZE, "a retained handle holds what was released and unmapped"
    second = mapped(again)
    grant(second)
    ok(cu.cuMemUnmap(second, SIZE))
    ok(cu.cuMemRelease(again))
    assert before == free_bytes()
    plain = ok(cu.cuMemAlloc(SIZE))
    assert result_of(cu.cuMemRetainAllocationHandle(int(plain))) == "INVALID_VALUE"


def test_a_retained_handle_holds_the_memory(machine: SimulatedMachine) -> None:
    machine.call(retained)


def access() -> None:
    use_device()
    handle = ok(cu.cuMemCreate(SIZE, properties(), 0))
    address = mapped(handle)
    assert ok(cu.cuMemGetAccess(on_device(0), address)) == 0
    assert result_of(cu.cuMemsetD32(address, 1, 1)) == "INVALID_VALUE", "nobody may reach it yet"
    grant(address, ACCESS.CU_MEM_ACCESS_FLAGS_PROT_READ)
    assert read_words(address, 1) == [0]
    assert result_of(cu.cuMemsetD32(address, 1, 1)) == "INVALID_VALUE"
    grant(address)
    ok(cu.cuMemsetD32(address, 1, 1))
    assert ok(cu.cuMemGetAccess(on_device(0), address)) == int(ACCESS.CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
    assert ok(cu.cuMemGetAccess(on_device(1), address)) == 0
    grant(address, ACCESS.CU_MEM_ACCESS_FLAGS_PROT_NONE)
    assert result_of(cu.cuMemcpyDtoH(bytearray(4), address, 4)) == "INVALID_VALUE"
    half = [access_to(0, ACCESS.CU_MEM_ACCESS_FLAGS_PROT_READ)]
    assert result_of(cu.cuMemSetAccess(address, SIZE + 2 * MIB, half, 1)) == "INVALID_VALUE"


def test_a_mapping_is_reached_only_as_far_as_access_was_set(machine: SimulatedMachine) -> None:
    machine.call(access)


def neighbours() -> None:
    """Two mappings in one reservation are one range for copies, and are unmapped together."""
    use_device()
    before = free_bytes()
    address = ok(cu.cuMemAddressReserve(2 * SIZE, 0, 0, 0))
    for place in (0, SIZE):
        handle = ok(cu.cuMemCreate(SIZE, properties(), 0))
        ok(cu.cuMemMap(int(address) + place, SIZE, 0, handle, 0))
        ok(cu.cuMemRelease(handle))
    grant(address, size=2 * SIZE)
    ok(cu.cuMemsetD32(int(address) + SIZE - 8, 5, 4))
    assert read_words(int(address) + SIZE - 8, 4) == [5] * 4
    assert result_of(cu.cuMemUnmap(address, SIZE + 2 * MIB)) == "INVALID_VALUE", "only whole mappings"
    assert result_of(cu.cuMemAddressFree(address, 2 * SIZE)) == "INVALID_VALUE", "not while something is mapped"
    ok(cu.cuMemUnmap(address, 2 * SIZE))
    assert before == free_bytes()
    ok(cu.cuMemAddressFree(address, 2 * SIZE))


def test_neighbouring_mappings_make_one_range(machine: SimulatedMachine) -> None:
    machine.call(neighbours)


def refusals() -> dict[str, str]:
    use_device()
    granularity = ok(
        cu.cuMemGetAllocationGranularity(
            properties(), cu.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        )
    )
    handle = ok(cu.cuMemCreate(SIZE, properties(), 0))
    address = ok(cu.cuMemAddressReserve(SIZE, 0, 0, 0))
    host = properties()
    host.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_HOST
    answers = {
        "odd size": cu.cuMemCreate(granularity + 1, properties(), 0),
        "too much": cu.cuMemCreate(free_bytes() + granularity, properties(), 0),
        "host": cu.cuMemCreate(granularity, host, 0),
        "offset": cu.cuMemMap(address, granularity, granularity, handle, 0),
        "not reserved": cu.cuMemMap(int(address) + SIZE, SIZE, 0, handle, 0),
        "larger than the memory": cu.cuMemMap(address, 2 * SIZE, 0, handle, 0),
        "no handle": cu.cuMemMap(address, SIZE, 0, cu.CUmemGenericAllocationHandle(77), 0),
        "not exportable": cu.cuMemExportToShareableHandle(handle, POSIX, 0),
        "not a descriptor of ours": cu.cuMemImportFromShareableHandle(0, POSIX),
        "not mapped": cu.cuMemUnmap(address, SIZE),
        "freed as memory": cu.cuMemFree(mapped(handle)),
    }
    return {what: result_of(answer) for what, answer in answers.items()}


def test_what_cannot_be_done_is_refused(machine: SimulatedMachine) -> None:
    answers = machine.call(refusals)
    assert answers.pop("too much") == "OUT_OF_MEMORY"
    assert answers.pop("host") == "NOT_SUPPORTED"
    assert set(answers.values()) == {"INVALID_VALUE"}, answers


def exporter(path: str) -> None:
    use_device()
    handle = ok(cu.cuMemCreate(SIZE, properties(POSIX), 0))
    address = mapped(handle)
    grant(address)
    ok(cu.cuMemsetD32(address, 1234, 16))
    descriptor = int(ok(cu.cuMemExportToShareableHandle(handle, POSIX, 0)))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        tell("ready")
        connection, _ = server.accept()
        with connection:
            rights = array.array("i", [descriptor])
            connection.sendmsg([b"memory"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    os.close(descriptor)
    ok(cu.cuMemRelease(handle))
    ok(cu.cuMemUnmap(address, SIZE))
    tell("let go")
    listen()


def importer(path: str) -> None:
    use_device()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        _, rights, _, _ = client.recvmsg(16, socket.CMSG_SPACE(4))
    descriptor = int.from_bytes(rights[0][2][:4], "little")
    tell("received")
    assert listen() == "import"
    before = free_bytes()
    handle = ok(cu.cuMemImportFromShareableHandle(descriptor, POSIX))
    os.close(descriptor)
    assert free_bytes() == before, "the descriptor alone has held it; an import takes nothing more"
    address = mapped(handle)
    grant(address)
    ok(cu.cuMemRelease(handle))
    tell(read_words(address, 2))
    assert listen() == "the exporter has ended"
    assert read_words(address, 2) == [1234, 1234]
    held = free_bytes()
    ok(cu.cuMemUnmap(address, SIZE))
    tell(free_bytes() - held)


def test_exported_memory_lives_in_the_descriptor_and_in_the_importer(machine: SimulatedMachine, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with machine.start(exporter, path) as first:
        assert first.receive() == "ready"
        with machine.start(importer, path) as second:
            assert second.receive() == "received"
            assert first.receive() == "let go"
            second.send("import")
            assert second.receive() == [1234, 1234]
            first.process.kill()
            first.process.wait()
            second.send("the exporter has ended")
            assert second.receive() == SIZE


def descriptor_alone() -> int:
    """The last close of an exported descriptor frees what nothing else holds."""
    use_device()
    before = free_bytes()
    handle = ok(cu.cuMemCreate(SIZE, properties(POSIX), 0))
    descriptor = int(ok(cu.cuMemExportToShareableHandle(handle, POSIX, 0)))
    twin = os.dup(descriptor)
    ok(cu.cuMemRelease(handle))
    os.close(descriptor)
    assert before - free_bytes() == SIZE
    os.close(twin)
    while free_bytes() != before:  # the driver hears of the close on a thread of its own
        select.select([], [], [], 0.001)
    return before - free_bytes()


def test_closing_the_last_descriptor_frees_the_memory(machine: SimulatedMachine) -> None:
    assert machine.call(descriptor_alone) == 0
