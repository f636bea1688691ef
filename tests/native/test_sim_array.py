"""CUDA arrays, textures, stream memory operations and occupancy of the simulated driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cuda.bindings import driver as cu

from tests.native.sim_driver import (
    MIB,
    SimulatedMachine,
    free_bytes,
    ok,
    read_words,
    result_of,
    use_device,
)

KIND = cu.CUmemorytype
FLOAT = cu.CUarray_format.CU_AD_FORMAT_FLOAT
BYTE = cu.CUarray_format.CU_AD_FORMAT_UNSIGNED_INT8
LAYERED, SURFACE, CUBEMAP, SPARSE, DEFERRED = 0x01, 0x02, 0x04, 0x40, 0x80


@pytest.fixture
def machine(native: Path, tmp_path: Path) -> SimulatedMachine:
    return SimulatedMachine.make(native, tmp_path)


def shape(width: int, height: int = 0, depth: int = 0, flags: int = 0, kind: Any = FLOAT, channels: int = 1) -> Any:
    descriptor = cu.CUDA_ARRAY3D_DESCRIPTOR()
    descriptor.Width, descriptor.Height, descriptor.Depth = width, height, depth
    descriptor.Format, descriptor.NumChannels, descriptor.Flags = kind, channels, flags
    return descriptor


def box_copy(source: Any, target: Any, width: int, rows: int, slices: int, at: tuple[int, int, int]) -> None:
    """Copy a box of bytes between a host buffer and an array, at a place in the array."""
    copy = cu.CUDA_MEMCPY3D()
    for end, thing in (("src", source), ("dst", target)):
        if isinstance(thing, (bytes, bytearray)):
            setattr(copy, f"{end}MemoryType", KIND.CU_MEMORYTYPE_HOST)
            setattr(copy, f"{end}Host", thing)
            setattr(copy, f"{end}Pitch", width)
            setattr(copy, f"{end}Height", rows)
        else:
            setattr(copy, f"{end}MemoryType", KIND.CU_MEMORYTYPE_ARRAY)
            setattr(copy, f"{end}Array", thing)
            setattr(copy, f"{end}XInBytes", at[0])
            setattr(copy, f"{end}Y", at[1])
            setattr(copy, f"{end}Z", at[2])
    copy.WidthInBytes, copy.Height, copy.Depth = width, rows, slices
    ok(cu.cuMemcpy3D(copy))


def round_trips() -> None:
    use_device()
    before = free_bytes()
    for descriptor, box, at in [
        (shape(100), (40, 1, 1), (8, 0, 0)),
        (shape(100, 50), (40, 5, 1), (8, 3, 0)),
        (shape(30, 20, 10), (40, 5, 3), (80, 15, 7)),
        (shape(30, 20, 4, LAYERED), (12, 2, 4), (0, 0, 0)),
        (shape(16, 16, 6, CUBEMAP, BYTE, 4), (64, 16, 6), (0, 0, 0)),
        (shape(16, 16, 12, CUBEMAP | LAYERED, BYTE), (16, 16, 12), (0, 0, 0)),
    ]:
        array = ok(cu.cuArray3DCreate(descriptor))
        assert before > free_bytes()
        assert ok(cu.cuArray3DGetDescriptor(array)).Depth == descriptor.Depth
        data = bytes(each % 251 for each in range(box[0] * box[1] * box[2]))
        back = bytearray(len(data))
        box_copy(data, array, *box, at)
        box_copy(array, back, *box, at)
        assert back == data
        ok(cu.cuArrayDestroy(array))
        assert before == free_bytes()
        assert result_of(cu.cuArrayDestroy(None)) == "INVALID_HANDLE"


def test_arrays_of_every_shape_hold_data(machine: SimulatedMachine) -> None:
    machine.call(round_trips)


def sizes() -> None:
    use_device()
    before = free_bytes()
    flat = ok(cu.cuArray3DCreate(shape(1024, 1024)))
    assert before - free_bytes() == 4 * MIB
    padded = ok(cu.cuArray3DCreate(shape(1025, 1024)))
    assert before - free_bytes() == 10 * MIB, "rows are padded"
    mipmap = ok(cu.cuMipmappedArrayCreate(shape(1024, 1024), 99))
    taken = before - free_bytes()
    assert taken == 16 * MIB, "all levels together"
    assert ok(cu.cuArrayGetDescriptor(ok(cu.cuMipmappedArrayGetLevel(mipmap, 10)))).Width == 1
    assert result_of(cu.cuMipmappedArrayGetLevel(mipmap, 11)) == "INVALID_VALUE"
    level = ok(cu.cuMipmappedArrayGetLevel(mipmap, 3))
    assert result_of(cu.cuArrayDestroy(level)) == "INVALID_HANDLE", "a level ends with its chain"
    data, back = bytes(range(64)), bytearray(64)
    box_copy(data, level, 64, 1, 1, (256, 100, 0))
    box_copy(level, back, 64, 1, 1, (256, 100, 0))
    assert back == data
    # Only an array without memory tells what it would take.
    assert result_of(cu.cuArrayGetMemoryRequirements(flat, 0)) == "INVALID_VALUE"
    deferred = ok(cu.cuArray3DCreate(shape(1024, 1024, flags=DEFERRED)))
    assert before - free_bytes() == taken
    assert ok(cu.cuArrayGetMemoryRequirements(deferred, 0)).size == 4 * MIB
    for each in (flat, padded, deferred):
        ok(cu.cuArrayDestroy(each))
    ok(cu.cuMipmappedArrayDestroy(mipmap))
    assert before == free_bytes()
    ok(cu.cuArray3DCreate(shape(1024, 1024)))
    ok(cu.cuMipmappedArrayCreate(shape(1024, 1024), 4))
    ok(cu.cuDevicePrimaryCtxReset(0))
    use_device()
    assert before == free_bytes(), "arrays end with their context"


def test_arrays_take_memory_with_their_padding_and_give_it_back(machine: SimulatedMachine) -> None:
    machine.call(sizes)


def refused_arrays() -> dict[str, str]:
    use_device()
    huge = shape(1 << 16, 1 << 15)
    wrong = {
        "no width": shape(0),
        "depth without height": shape(16, 0, 4),
        "three channels": shape(16, channels=3),
        "a cube of oblongs": shape(16, 8, 6, CUBEMAP),
        "five faces": shape(16, 16, 5, CUBEMAP),
        "no layers": shape(16, 16, 0, LAYERED),
        "unknown flag": shape(16, flags=0x8000),
        "sparse": shape(16, 16, flags=SPARSE),
        "block-compressed": shape(16, 16, kind=cu.CUarray_format.CU_AD_FORMAT_BC1_UNORM),
    }
    answers = {name: result_of(cu.cuArray3DCreate(descriptor)) for name, descriptor in wrong.items()}
    while result_of(cu.cuArray3DCreate(huge)) == "SUCCESS":
        answers["filled"] = "yes"
    return answers | {"full": result_of(cu.cuArray3DCreate(huge))}


def test_arrays_that_cannot_be_are_refused(machine: SimulatedMachine) -> None:
    answers = machine.call(refused_arrays)
    assert answers.pop("full") == "OUT_OF_MEMORY"
    assert answers.pop("filled") == "yes"
    assert answers.pop("sparse") == answers.pop("block-compressed") == "NOT_SUPPORTED"
    assert set(answers.values()) == {"INVALID_VALUE"}, answers


def textures() -> None:
    use_device()
    array = ok(cu.cuArray3DCreate(shape(16, 16)))
    resource = cu.CUDA_RESOURCE_DESC()
    resource.resType = cu.CUresourcetype.CU_RESOURCE_TYPE_ARRAY
    resource.res.array.hArray = array
    description = cu.CUDA_TEXTURE_DESC()
    description.maxAnisotropy = 4
    texture = ok(cu.cuTexObjectCreate(resource, description, None))
    assert int(ok(cu.cuTexObjectGetResourceDesc(texture)).res.array.hArray) == int(array)
    assert ok(cu.cuTexObjectGetTextureDesc(texture)).maxAnisotropy == 4
    assert result_of(cu.cuTexObjectGetResourceViewDesc(texture)) == "INVALID_VALUE"
    assert result_of(cu.cuSurfObjectDestroy(texture)) == "INVALID_VALUE"
    assert result_of(cu.cuSurfObjectCreate(resource)) == "INVALID_VALUE", "not made for surfaces"
    resource.res.array.hArray = ok(cu.cuArray3DCreate(shape(16, 16, flags=SURFACE)))
    ok(cu.cuSurfObjectDestroy(ok(cu.cuSurfObjectCreate(resource))))
    ok(cu.cuTexObjectDestroy(texture))
    assert result_of(cu.cuTexObjectDestroy(texture)) == "INVALID_VALUE"
    resource.res.array.hArray = None
    assert result_of(cu.cuTexObjectCreate(resource, description, None)) == "INVALID_HANDLE"


def test_textures_and_surfaces_keep_their_descriptions(machine: SimulatedMachine) -> None:
    machine.call(textures)


WAIT = cu.CUstreamWaitValue_flags


def memory_operations() -> None:
    use_device()
    waiting, other = ok(cu.cuStreamCreate(1)), ok(cu.cuStreamCreate(1))
    words = ok(cu.cuMemAlloc(64))
    host = ok(cu.cuMemHostAlloc(64, 0))
    for condition, start, wanted, wrong, right in [
        (WAIT.CU_STREAM_WAIT_VALUE_GEQ, 0, 3, 2, 4),
        (WAIT.CU_STREAM_WAIT_VALUE_EQ, 0, 3, 4, 3),
        (WAIT.CU_STREAM_WAIT_VALUE_AND, 0, 6, 9, 4),
        (WAIT.CU_STREAM_WAIT_VALUE_NOR, 2**32 - 1, 0, 2**32 - 1, 5),
    ]:
        ok(cu.cuMemsetD32(words, start, 1))
        ok(cu.cuStreamWaitValue32(waiting, words, wanted, condition))
        ok(cu.cuStreamWriteValue64(waiting, int(words) + 8, 2**40 + wanted, 0))
        ok(cu.cuStreamWriteValue32(other, words, wrong, 0))
        ok(cu.cuStreamSynchronize(other))
        assert result_of(cu.cuStreamQuery(waiting)) == "NOT_READY"
        ok(cu.cuMemcpyHtoDAsync(words, right.to_bytes(4, "little"), 4, other))  # a copy will do as well
        ok(cu.cuStreamSynchronize(waiting))
        assert read_words(int(words) + 8, 2) == [wanted, 2**8]
    # A wait on host memory, as the host sees it.
    memory = (cu.CUdeviceptr)(int(ok(cu.cuMemHostGetDevicePointer(host, 0))))
    ok(cu.cuMemsetD32(memory, 0, 2))
    ok(cu.cuStreamWaitValue64(waiting, memory, 9, WAIT.CU_STREAM_WAIT_VALUE_EQ))
    ok(cu.cuStreamWriteValue64(other, memory, 9, 0))
    ok(cu.cuStreamSynchronize(waiting))


def test_a_stream_waits_for_a_word_whoever_writes_it(machine: SimulatedMachine) -> None:
    machine.call(memory_operations)


def refused_operations() -> list[str]:
    use_device()
    words = int(ok(cu.cuMemAlloc(64)))
    return [
        result_of(cu.cuStreamWaitValue32(0, 0, 1, 0)),
        result_of(cu.cuStreamWaitValue32(0, words + 2, 1, 0)),
        result_of(cu.cuStreamWriteValue64(0, words + 4, 1, 0)),
        result_of(cu.cuStreamWaitValue32(0, words, 1, 7)),
        result_of(cu.cuStreamWriteValue32(0, words, 1, 7)),
        result_of(cu.cuStreamBatchMemOp(0, 0, [], 0)),
        result_of(cu.cuStreamWaitValue32(0, words, 1, WAIT.CU_STREAM_WAIT_VALUE_FLUSH)),
    ]


def test_bad_memory_operations_are_refused(machine: SimulatedMachine) -> None:
    assert machine.call(refused_operations) == ["INVALID_VALUE"] * 6 + ["NOT_SUPPORTED"]


def occupancy() -> None:
    use_device()
    attribute = cu.CUdevice_attribute
    module = ok(cu.cuModuleLoadData(b"cgpu-sim-module 1\nspin\n\0"))
    spin = ok(cu.cuModuleGetFunction(module, b"spin"))
    threads = ok(cu.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 0))
    most = ok(cu.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 0))
    shared = ok(cu.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 0))
    processors = ok(cu.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0))
    per_sm = cu.cuOccupancyMaxActiveBlocksPerMultiprocessor
    assert ok(per_sm(spin, 1024, 0)) == threads // 1024
    assert ok(per_sm(spin, 33, 0)) == min(most, threads // 64), "a block takes whole warps"
    assert ok(per_sm(spin, 32, shared // 2)) == 2, "shared memory is what runs out"
    assert ok(per_sm(spin, 2048, 0)) == 0
    assert result_of(per_sm(spin, 0, 0)) == "INVALID_VALUE"
    grid, block = ok(cu.cuOccupancyMaxPotentialBlockSize(spin, None, 0, 0))
    assert grid * block == processors * threads
    assert ok(cu.cuOccupancyAvailableDynamicSMemPerBlock(spin, 2, 32)) == shared // 2


def test_occupancy_follows_from_the_resources_of_an_sm(machine: SimulatedMachine) -> None:
    machine.call(occupancy)
