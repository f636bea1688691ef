"""Memory and events between processes by cuIpc handles, on the simulated driver."""

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
    listen,
    ok,
    read_words,
    result_of,
    tell,
    use_device,
)

LAZY = cu.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
SIZE = 8 * MIB


@pytest.fixture
def machine(native: Path, tmp_path: Path) -> SimulatedMachine:
    return SimulatedMachine.make(native, tmp_path)


def bytes_of(handle: Any) -> list[int]:
    return list(ctypes.string_at(handle.getPtr(), 64))


def fill(handle: Any, content: list[int]) -> Any:
    ctypes.memmove(handle.getPtr(), bytes(content), 64)
    return handle


def memory_handle(content: list[int]) -> Any:
    return fill(cu.CUipcMemHandle(), content)


def exporter(size: int) -> None:
    use_device()
    memory = ok(cu.cuMemAlloc(size))
    ok(cu.cuMemsetD32(memory, 99, 4))
    tell(bytes_of(ok(cu.cuIpcGetMemHandle(memory))))
    while True:
        order = listen()
        if order == "read":
            tell(read_words(memory, 4))
        elif order == "free":
            ok(cu.cuMemFree(memory))
            tell("freed")


def importer(content: list[int]) -> None:
    use_device()
    before = free_bytes()
    memory = ok(cu.cuIpcOpenMemHandle(memory_handle(content), LAZY))
    twin = ok(cu.cuIpcOpenMemHandle(memory_handle(content), LAZY))
    assert int(memory) == int(twin), "opened twice it is the same, and counted"
    assert free_bytes() == before, "opening takes nothing from the card"
    assert read_words(memory, 4) == [99] * 4
    ok(cu.cuMemsetD32(memory, 100, 4))
    assert result_of(cu.cuMemFree(memory)) == "INVALID_VALUE"
    ok(cu.cuIpcCloseMemHandle(twin))
    tell("changed")
    listen()
    assert read_words(memory, 4) == [100] * 4
    held = free_bytes()
    ok(cu.cuIpcCloseMemHandle(memory))
    assert result_of(cu.cuIpcCloseMemHandle(memory)) == "INVALID_VALUE"
    assert result_of(cu.cuMemcpyDtoH(bytearray(4), memory, 4)) == "INVALID_VALUE"
    tell(free_bytes() - held)


@pytest.mark.parametrize("size", [SIZE, 4096])
def test_two_processes_see_one_memory(machine: SimulatedMachine, size: int) -> None:
    with machine.start(exporter, size) as first:
        content = first.receive()
        with machine.start(importer, content) as second:
            assert second.receive() == "changed"
            first.send("read")
            assert first.receive() == [100] * 4
            second.send("close")
            assert second.receive() == 0, "the exporter still holds it"


def test_the_exporters_end_leaves_the_importer_what_it_has_opened(machine: SimulatedMachine) -> None:
    with machine.start(exporter, SIZE) as first:
        content = first.receive()
        with machine.start(importer, content) as second:
            assert second.receive() == "changed"
            first.process.kill()
            first.process.wait()
            second.send("close")
            assert second.receive() == SIZE


def stale(content: list[int]) -> str:
    use_device()
    return result_of(cu.cuIpcOpenMemHandle(memory_handle(content), LAZY))


def test_a_handle_of_freed_memory_opens_nothing(machine: SimulatedMachine) -> None:
    with machine.start(exporter, SIZE) as first:
        content = first.receive()
        first.send("free")
        assert first.receive() == "freed"
        assert machine.call(stale, content) == "INVALID_VALUE"


def refusals() -> dict[str, str]:
    use_device()
    memory, stream = ok(cu.cuMemAlloc(SIZE)), ok(cu.cuStreamCreate(0))
    own = ok(cu.cuIpcGetMemHandle(memory))
    pooled = ok(cu.cuMemAllocAsync(SIZE, stream))
    plain = ok(cu.cuEventCreate(0))
    return {
        "one's own": result_of(cu.cuIpcOpenMemHandle(own, LAZY)),
        "flags": result_of(cu.cuIpcOpenMemHandle(own, 0)),
        "zeros": result_of(cu.cuIpcOpenMemHandle(cu.CUipcMemHandle(), LAZY)),
        "pool memory": result_of(cu.cuIpcGetMemHandle(pooled)),
        "null": result_of(cu.cuIpcGetMemHandle(0)),
        "private event": result_of(cu.cuIpcGetEventHandle(plain)),
        "not opened": result_of(cu.cuIpcCloseMemHandle(memory)),
    }


def test_what_cannot_be_shared_is_refused(machine: SimulatedMachine) -> None:
    answers = machine.call(refusals)
    assert answers.pop("one's own") == "INVALID_CONTEXT"
    assert answers.pop("private event") == "INVALID_HANDLE"
    assert set(answers.values()) == {"INVALID_VALUE"}, answers


def event_owner() -> None:
    use_device()
    stream = ok(cu.cuStreamCreate(1))
    flags = cu.CUevent_flags.CU_EVENT_INTERPROCESS | cu.CUevent_flags.CU_EVENT_DISABLE_TIMING
    event, gate = ok(cu.cuEventCreate(flags)), ok(cu.cuMemAlloc(4))
    ok(cu.cuMemsetD32(gate, 0, 1))
    tell(bytes_of(ok(cu.cuIpcGetEventHandle(event))))
    assert listen() == "record"
    ok(cu.cuStreamWaitValue32(stream, gate, 1, 0))
    ok(cu.cuEventRecord(event, stream))
    tell("recorded")
    assert listen() == "open the gate"
    ok(cu.cuMemsetD32Async(gate, 1, 1, ok(cu.cuStreamCreate(1))))
    listen()
    ok(cu.cuStreamWaitEvent(stream, event, 0))  # now the other process's record
    ok(cu.cuStreamSynchronize(stream))
    tell("seen")
    listen()


def event_user(content: list[int]) -> None:
    use_device()
    event = ok(cu.cuIpcOpenEventHandle(fill(cu.CUipcEventHandle(), content)))
    assert result_of(cu.cuEventQuery(event)) == "SUCCESS", "never recorded"
    tell("opened")
    assert listen() == "recorded"
    assert result_of(cu.cuEventQuery(event)) == "NOT_READY"
    tell("not ready")
    ok(cu.cuEventSynchronize(event))
    ok(cu.cuEventRecord(event, 0))
    ok(cu.cuCtxSynchronize())
    tell("complete")
    listen()


def test_an_event_orders_two_processes(machine: SimulatedMachine) -> None:
    with machine.start(event_owner) as first, machine.start(event_user, first.receive()) as second:
        assert second.receive() == "opened"
        first.send("record")
        assert first.receive() == "recorded"
        second.send("recorded")
        assert second.receive() == "not ready"
        first.send("open the gate")
        assert second.receive() == "complete"
        first.send("wait")
        assert first.receive() == "seen"
