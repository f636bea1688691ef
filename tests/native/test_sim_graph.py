"""Graphs of the simulated driver: that they run, are changed, and keep their memory."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
from cuda.bindings import driver as cu

from tests.native.sim_driver import (
    MIB,
    SimulatedMachine,
    free_bytes,
    ok,
    on_device,
    read_words,
    result_of,
    use_device,
)
from tests.native.sim_graphs import add_memset, edges, memset_params, new_stream, run

MODE = cu.CUstreamCaptureMode
GLOBAL = MODE.CU_STREAM_CAPTURE_MODE_GLOBAL
RELAXED = MODE.CU_STREAM_CAPTURE_MODE_RELAXED
GRAPH_MEMORY = cu.CUgraphMem_attribute
NODE = cu.CUgraphNodeType
TEST_MODULE = b"cgpu-sim-module 1\nspin\nset\n\0"
MILLISECOND_NS = 1_000_000


@pytest.fixture
def machine(native: Path, tmp_path: Path) -> SimulatedMachine:
    return SimulatedMachine.make(native, tmp_path)


# ---- graphs ----


def structure() -> None:
    use_device()
    graph, memory = ok(cu.cuGraphCreate(0)), ok(cu.cuMemAlloc(64))
    root = ok(cu.cuGraphAddEmptyNode(graph, [], 0))
    left = add_memset(graph, [root], memory, 1)
    right = add_memset(graph, [root], int(memory) + 4, 2)
    last = ok(cu.cuGraphAddEmptyNode(graph, [left], 1))
    ok(cu.cuGraphAddDependencies(graph, [right], [last], None, 1))
    assert result_of(cu.cuGraphAddDependencies(graph, [right], [last], None, 1)) == "INVALID_VALUE", "twice"
    assert result_of(cu.cuGraphAddDependencies(graph, [last], [root], None, 1)) == "INVALID_VALUE", "a cycle"
    assert result_of(cu.cuGraphAddDependencies(graph, [root], [root], None, 1)) == "INVALID_VALUE"
    wanted = {(root, left), (root, right), (left, last), (right, last)}
    assert edges(graph) == {(int(source), int(target)) for source, target in wanted}
    assert [int(node) for node in ok(cu.cuGraphGetRootNodes(graph, 1))[0]] == [int(root)]
    assert ok(cu.cuGraphGetRootNodes(graph, 0))[1] == 1
    assert ok(cu.cuGraphNodeGetType(left)) == NODE.CU_GRAPH_NODE_TYPE_MEMSET
    dependents = ok(cu.cuGraphNodeGetDependentNodes(root, 2))[0]
    assert {int(node) for node in dependents} == {int(left), int(right)}

    clone = ok(cu.cuGraphClone(graph))
    twin = ok(cu.cuGraphNodeFindInClone(left, clone))
    assert int(twin) != int(left)
    ok(cu.cuGraphMemsetNodeSetParams(twin, memset_params(memory, 9)))
    assert int(ok(cu.cuGraphMemsetNodeGetParams(left)).value) == 1, "a clone is on its own"
    run(clone)
    assert read_words(memory, 2) == [9, 2]

    ok(cu.cuGraphRemoveDependencies(graph, [right], [last], None, 1))
    ok(cu.cuGraphDestroyNode(right))
    assert edges(graph) == {(int(root), int(left)), (int(left), int(last))}
    assert result_of(cu.cuGraphNodeGetType(right)) == "INVALID_VALUE"


def test_a_graph_knows_its_nodes_and_edges(machine: SimulatedMachine) -> None:
    machine.call(structure)


def long_chain() -> None:
    """More nodes than a channel's ring holds, on branches that meet again and again."""
    use_device()
    graph, memory = ok(cu.cuGraphCreate(0)), ok(cu.cuMemAlloc(4 * 400))
    last: list[Any] = []
    for each in range(0, 400, 4):
        branches = [add_memset(graph, last, int(memory) + 4 * (each + at), each + at) for at in range(4)]
        last = [ok(cu.cuGraphAddEmptyNode(graph, branches, 4))]
    executable, stream = ok(cu.cuGraphInstantiate(graph, 0)), new_stream()
    for _ in range(3):
        ok(cu.cuMemsetD32(memory, 0, 400))
        ok(cu.cuGraphLaunch(executable, stream))
        ok(cu.cuStreamSynchronize(stream))
        assert read_words(memory, 400) == list(range(400))


def test_a_large_graph_with_branches_runs(machine: SimulatedMachine) -> None:
    machine.call(long_chain)


def kernel(name: bytes) -> Any:
    return ok(cu.cuModuleGetFunction(ok(cu.cuModuleLoadData(TEST_MODULE)), name))


def kernel_params(function: Any, value: int) -> tuple[Any, list[Any]]:
    """Parameters of a kernel node with one 64-bit argument, and what they point at."""
    argument = ctypes.c_uint64(value)
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
    params = cu.CUDA_KERNEL_NODE_PARAMS()
    params.func = function
    params.gridDimX = params.gridDimY = params.gridDimZ = 1
    params.blockDimX = params.blockDimY = params.blockDimZ = 1
    params.kernelParams = ctypes.addressof(pointers)
    return params, [argument, pointers]


def elapsed_ms(graph: Any) -> float:
    """Device time of a launch, between two events: the shortest of a few, for a busy machine adds to it."""
    executable = ok(cu.cuGraphInstantiate(graph, 0))
    return min(launch_ms(executable) for _ in range(5))


def launch_ms(executable: Any) -> float:
    stream = new_stream()
    start, stop = ok(cu.cuEventCreate(0)), ok(cu.cuEventCreate(0))
    ok(cu.cuEventRecord(start, stream))
    ok(cu.cuGraphLaunch(executable, stream))
    ok(cu.cuEventRecord(stop, stream))
    ok(cu.cuEventSynchronize(stop))
    return float(ok(cu.cuEventElapsedTime(start, stop)))


def kernels_take_time() -> list[float]:
    use_device()
    spin, graph = kernel(b"spin"), ok(cu.cuGraphCreate(0))
    params, alive = kernel_params(spin, 5 * MILLISECOND_NS)
    first = ok(cu.cuGraphAddKernelNode(graph, [], 0, params))
    alive[0].value = 0  # the node has its own copy
    params, _alive = kernel_params(spin, 20 * MILLISECOND_NS)
    ok(cu.cuGraphAddKernelNode(graph, [first], 1, params))
    once = elapsed_ms(graph)
    child = ok(cu.cuGraphCreate(0))
    params, _alive = kernel_params(spin, 10 * MILLISECOND_NS)
    ok(cu.cuGraphAddKernelNode(child, [], 0, params))
    node = ok(cu.cuGraphAddChildGraphNode(graph, [], 0, child))
    assert int(ok(cu.cuGraphChildGraphNodeGetGraph(node))) != int(child), "the node has its own copy"
    params, _alive = kernel_params(spin, 2 * MILLISECOND_NS)
    ok(cu.cuGraphKernelNodeSetParams(first, params))
    return [once, elapsed_ms(graph)]


def test_kernels_of_a_graph_take_their_time_on_the_card(machine: SimulatedMachine) -> None:
    once, with_child = machine.call(kernels_take_time)
    assert 25 <= once < 40
    assert 32 <= with_child < 50


def changes() -> None:
    use_device()
    graph, memory, stream = ok(cu.cuGraphCreate(0)), ok(cu.cuMemAlloc(64)), new_stream()
    context = ok(cu.cuCtxGetCurrent())
    first = add_memset(graph, [], memory, 1)
    second = add_memset(graph, [first], int(memory) + 4, 2)
    executable = run(graph, stream)

    def launched() -> list[int]:
        ok(cu.cuMemsetD32(memory, 0, 2))
        ok(cu.cuGraphLaunch(executable, stream))
        ok(cu.cuStreamSynchronize(stream))
        return read_words(memory, 2)

    ok(cu.cuGraphExecMemsetNodeSetParams(executable, second, memset_params(int(memory) + 4, 7), context))
    assert launched() == [1, 7]
    assert int(ok(cu.cuGraphMemsetNodeGetParams(second)).value) == 2, "the graph itself is as it was"
    ok(cu.cuGraphNodeSetEnabled(executable, first, 0))
    assert launched() == [0, 7]
    ok(cu.cuGraphNodeSetEnabled(executable, first, 1))
    ok(cu.cuGraphMemsetNodeSetParams(first, memset_params(memory, 8)))
    assert launched() == [1, 7], "an executable graph does not follow its graph"
    ok(cu.cuGraphExecUpdate(executable, graph))
    assert launched() == [8, 2]
    third = add_memset(graph, [], int(memory) + 4, 3)
    assert result_of(cu.cuGraphExecUpdate(executable, graph)) == "GRAPH_EXEC_UPDATE_FAILURE", "another shape"
    assert result_of(cu.cuGraphExecMemsetNodeSetParams(executable, third, memset_params(memory, 7), context)) == (
        "INVALID_VALUE"
    )
    assert launched() == [8, 2]


def test_executable_graphs_are_changed_by_node_and_as_a_whole(machine: SimulatedMachine) -> None:
    machine.call(changes)


def other_nodes() -> None:
    use_device()
    graph, memory, stream = ok(cu.cuGraphCreate(0)), ok(cu.cuMemAlloc(64)), new_stream()
    ok(cu.cuMemsetD32(memory, 0, 16))
    called: list[int] = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(called.append)
    host = cu.CUDA_HOST_NODE_PARAMS()
    host.fn = cu.CUhostFn(ctypes.cast(callback, ctypes.c_void_p).value)
    host.userData = 77
    event = ok(cu.cuEventCreate(0))
    record = ok(cu.cuGraphAddEventRecordNode(graph, [], 0, event))
    wait = ok(cu.cuGraphAddEventWaitNode(graph, [record], 1, event))
    call = ok(cu.cuGraphAddHostNode(graph, [wait], 1, host))
    add_memset(graph, [call], memory, 6)
    assert int(ok(cu.cuGraphEventRecordNodeGetEvent(record))) == int(event)
    executable = ok(cu.cuGraphInstantiate(graph, 0))
    for _ in range(2):
        ok(cu.cuGraphLaunch(executable, stream))
    ok(cu.cuStreamSynchronize(stream))
    assert called == [77, 77]
    assert read_words(memory, 1) == [6]
    assert result_of(cu.cuEventQuery(event)) == "SUCCESS"
    conditional = cu.CUgraphNodeParams()
    conditional.type = NODE.CU_GRAPH_NODE_TYPE_CONDITIONAL
    assert result_of(cu.cuGraphAddNode(graph, [], None, 0, conditional)) == "NOT_SUPPORTED"


def test_host_functions_and_events_in_graphs(machine: SimulatedMachine) -> None:
    machine.call(other_nodes)


def captured_launch() -> None:
    use_device()
    inner, memory, stream = ok(cu.cuGraphCreate(0)), ok(cu.cuMemAlloc(64)), new_stream()
    add_memset(inner, [], memory, 4)
    executable = ok(cu.cuGraphInstantiate(inner, 0))
    ok(cu.cuMemsetD32(memory, 0, 1))
    ok(cu.cuStreamBeginCapture(stream, RELAXED))
    ok(cu.cuGraphLaunch(executable, stream))
    graph = ok(cu.cuStreamEndCapture(stream))
    assert read_words(memory, 1) == [0]
    assert ok(cu.cuGraphNodeGetType(ok(cu.cuGraphGetNodes(graph, 1))[0][0])) == NODE.CU_GRAPH_NODE_TYPE_GRAPH
    run(graph)
    assert read_words(memory, 1) == [4]


def test_a_graph_launched_into_a_capture_becomes_a_child(machine: SimulatedMachine) -> None:
    machine.call(captured_launch)


def user_objects() -> list[int]:
    use_device()
    destroyed: list[int] = []
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(destroyed.append)
    destructor = cu.CUhostFn(ctypes.cast(callback, ctypes.c_void_p).value)
    flags = cu.CUuserObject_flags.CU_USER_OBJECT_NO_DESTRUCTOR_SYNC
    thing = ok(cu.cuUserObjectCreate(5, destructor, 1, flags))
    graph = ok(cu.cuGraphCreate(0))
    ok(cu.cuGraphRetainUserObject(graph, thing, 1, cu.CUuserObjectRetain_flags.CU_GRAPH_USER_OBJECT_MOVE))
    executable = ok(cu.cuGraphInstantiate(graph, 0))
    ok(cu.cuGraphDestroy(graph))
    assert destroyed == []
    ok(cu.cuGraphExecDestroy(executable))
    assert result_of(cu.cuUserObjectRelease(thing, 1)) == "INVALID_VALUE"
    return destroyed


def test_a_user_object_is_destroyed_with_the_last_graph_that_holds_it(machine: SimulatedMachine) -> None:
    assert machine.call(user_objects) == [5]


# ---- memory of graphs ----


def graph_memory() -> list[int]:
    """Used, used at most, reserved, reserved at most; MiB."""
    kinds = (
        GRAPH_MEMORY.CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT,
        GRAPH_MEMORY.CU_GRAPH_MEM_ATTR_USED_MEM_HIGH,
        GRAPH_MEMORY.CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT,
        GRAPH_MEMORY.CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH,
    )
    return [int(ok(cu.cuDeviceGetGraphMemAttribute(0, kind))) // MIB for kind in kinds]


def captured_allocation() -> None:
    use_device()
    stream, memory = new_stream(), ok(cu.cuMemAlloc(64))
    before = free_bytes()
    ok(cu.cuStreamBeginCapture(stream, GLOBAL))
    own = ok(cu.cuMemAllocAsync(10 * MIB, stream))
    ok(cu.cuMemsetD32Async(own, 3, 10 * MIB // 4, stream))
    ok(cu.cuMemcpyDtoDAsync(memory, int(own) + 10 * MIB - 4, 4, stream))
    ok(cu.cuMemFreeAsync(own, stream))
    graph = ok(cu.cuStreamEndCapture(stream))
    assert result_of(cu.cuGraphClone(graph)) == "NOT_SUPPORTED"
    executable = ok(cu.cuGraphInstantiate(graph, 0))
    assert result_of(cu.cuGraphInstantiate(graph, 0)) == "INVALID_VALUE", "one at a time"
    assert before == free_bytes(), "memory comes with the launch"
    ok(cu.cuGraphUpload(executable, stream))
    assert before - free_bytes() == 10 * MIB, "or with the upload"
    for _ in range(3):
        ok(cu.cuGraphLaunch(executable, stream))
    ok(cu.cuStreamSynchronize(stream))
    assert read_words(memory, 1) == [3]
    assert before - free_bytes() == 10 * MIB, "and stays after the free"
    assert graph_memory() == [0, 10, 10, 10]
    ok(cu.cuDeviceGraphMemTrim(0))
    assert before == free_bytes()
    assert graph_memory() == [0, 10, 0, 10]
    high = GRAPH_MEMORY.CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH
    ok(cu.cuDeviceSetGraphMemAttribute(0, high, cu.cuuint64_t(0)))
    assert graph_memory() == [0, 10, 0, 0]
    ok(cu.cuGraphLaunch(executable, stream))  # it comes again
    ok(cu.cuStreamSynchronize(stream))
    assert graph_memory() == [0, 10, 10, 10]


def test_a_graph_keeps_the_memory_it_has_freed_until_it_is_trimmed(machine: SimulatedMachine) -> None:
    machine.call(captured_allocation)


def allocation_params(size: int) -> Any:
    params = cu.CUDA_MEM_ALLOC_NODE_PARAMS()
    params.poolProps.allocType = cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    params.poolProps.location = on_device()
    params.bytesize = size
    return params


def allocation_without_free() -> None:
    use_device()
    stream, graph, before = new_stream(), ok(cu.cuGraphCreate(0)), free_bytes()
    params = allocation_params(6 * MIB)
    node = ok(cu.cuGraphAddMemAllocNode(graph, [], 0, params))
    own = int(params.dptr)
    add_memset(graph, [node], own, 8)
    assert result_of(cu.cuGraphDestroyNode(node)) == "NOT_SUPPORTED"
    executable = ok(cu.cuGraphInstantiate(graph, 0))
    assert result_of(cu.cuMemFreeAsync(own, stream)) == "INVALID_VALUE", "not allocated yet"
    ok(cu.cuGraphLaunch(executable, stream))
    assert result_of(cu.cuGraphLaunch(executable, stream)) == "INVALID_VALUE", "still in use"
    ok(cu.cuStreamSynchronize(stream))
    assert read_words(own, 1) == [8]
    assert graph_memory()[0] == 6
    # The allocation outlives its graph.
    ok(cu.cuGraphExecDestroy(executable))
    ok(cu.cuGraphDestroy(graph))
    assert before - free_bytes() == 6 * MIB
    assert read_words(own, 1) == [8]
    ok(cu.cuMemFreeAsync(own, stream))
    ok(cu.cuStreamSynchronize(stream))
    assert graph_memory()[0] == 0
    assert result_of(cu.cuMemFree(own)) == "INVALID_VALUE"
    ok(cu.cuDeviceGraphMemTrim(0))
    assert before == free_bytes()


def test_what_a_graph_leaves_allocated_is_the_users_to_free(machine: SimulatedMachine) -> None:
    machine.call(allocation_without_free)


def freed_by_relaunch() -> None:
    use_device()
    stream, graph = new_stream(), ok(cu.cuGraphCreate(0))
    ok(cu.cuGraphAddMemAllocNode(graph, [], 0, allocation_params(4 * MIB)))
    flag = cu.CUgraphInstantiate_flags.CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH
    executable = ok(cu.cuGraphInstantiate(graph, flag))
    for _ in range(3):
        ok(cu.cuGraphLaunch(executable, stream))
    ok(cu.cuStreamSynchronize(stream))
    assert graph_memory() == [4, 4, 4, 4]
    too_much = ok(cu.cuGraphCreate(0))
    ok(cu.cuGraphAddMemAllocNode(too_much, [], 0, allocation_params(free_bytes() + 2 * MIB)))
    large = ok(cu.cuGraphInstantiate(too_much, 0))
    assert result_of(cu.cuGraphLaunch(large, stream)) == "OUT_OF_MEMORY"
    ok(cu.cuDevicePrimaryCtxReset(0))
    use_device()
    assert graph_memory()[0] == 0
    assert graph_memory()[2] == 0


def test_auto_free_out_of_memory_and_the_end_of_the_context(machine: SimulatedMachine) -> None:
    machine.call(freed_by_relaunch)
