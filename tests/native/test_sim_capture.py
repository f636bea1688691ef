"""Stream capture of the simulated driver: what is captured, and what breaks it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from cuda.bindings import driver as cu

from tests.native.sim_driver import (
    MIB,
    SimulatedMachine,
    ok,
    read_words,
    result_of,
    use_device,
)
from tests.native.sim_graphs import add_memset, edges, end, new_stream, run

MODE = cu.CUstreamCaptureMode
GLOBAL = MODE.CU_STREAM_CAPTURE_MODE_GLOBAL
THREAD_LOCAL = MODE.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
RELAXED = MODE.CU_STREAM_CAPTURE_MODE_RELAXED
STATUS = cu.CUstreamCaptureStatus


@pytest.fixture
def machine(native: Path, tmp_path: Path) -> SimulatedMachine:
    return SimulatedMachine.make(native, tmp_path)


def fork_and_join() -> None:
    use_device()
    stream, branch = new_stream(), new_stream()
    memory = ok(cu.cuMemAlloc(MIB))
    ok(cu.cuMemsetD32(memory, 1, 16))
    fork, join = ok(cu.cuEventCreate(2)), ok(cu.cuEventCreate(2))
    ok(cu.cuStreamBeginCapture(stream, GLOBAL))
    ok(cu.cuMemsetD32Async(memory, 5, 4, stream))
    ok(cu.cuEventRecord(fork, stream))
    ok(cu.cuStreamWaitEvent(branch, fork, 0))
    assert ok(cu.cuStreamIsCapturing(branch)) == STATUS.CU_STREAM_CAPTURE_STATUS_ACTIVE
    ok(cu.cuMemsetD32Async(int(memory) + 16, 6, 4, branch))
    ok(cu.cuMemsetD32Async(int(memory) + 32, 7, 4, stream))
    ok(cu.cuEventRecord(join, branch))
    ok(cu.cuStreamWaitEvent(stream, join, 0))
    ok(cu.cuMemcpyDtoDAsync(int(memory) + 48, int(memory) + 16, 16, stream))
    graph = ok(cu.cuStreamEndCapture(stream))
    assert ok(cu.cuStreamIsCapturing(branch)) == STATUS.CU_STREAM_CAPTURE_STATUS_NONE
    assert read_words(memory, 16) == [1] * 16, "captured work does not run"
    assert len(edges(graph)) == 4
    executable = run(graph)
    assert read_words(memory, 16) == [5] * 4 + [6] * 4 + [7] * 4 + [6] * 4
    # A graph replays, whichever streams it is put into.
    for each in range(50):
        ok(cu.cuGraphLaunch(executable, (stream, branch)[each % 2]))
    ok(cu.cuCtxSynchronize())
    ok(cu.cuGraphDestroy(graph))
    assert result_of(cu.cuGraphDestroy(graph)) == "INVALID_VALUE"
    ok(cu.cuMemsetD32(memory, 1, 16))
    ok(cu.cuGraphLaunch(executable, stream))  # it needs its graph no more
    ok(cu.cuStreamSynchronize(stream))
    assert read_words(memory, 1) == [5]
    ok(cu.cuGraphExecDestroy(executable))
    assert result_of(cu.cuGraphLaunch(executable, stream)) == "INVALID_VALUE"


def test_work_of_joined_streams_becomes_a_graph_that_replays(machine: SimulatedMachine) -> None:
    machine.call(fork_and_join)


def forbidden(kind: str) -> list[str]:
    """What a call says during a capture, and the capture after it."""
    use_device()
    stream, idle, memory = new_stream(), new_stream(), ok(cu.cuMemAlloc(MIB))
    elsewhere, captured = ok(cu.cuEventCreate(0)), ok(cu.cuEventCreate(0))
    ok(cu.cuEventRecord(elsewhere, 0))
    ok(cu.cuCtxSynchronize())
    ok(cu.cuStreamBeginCapture(stream, RELAXED if kind.startswith("captured") else GLOBAL))
    ok(cu.cuEventRecord(captured, stream))
    calls = {
        "allocate": lambda: cu.cuMemAlloc(MIB),
        "free": lambda: cu.cuMemFree(memory),
        "query another event": lambda: cu.cuEventQuery(elsewhere),
        "query another stream": lambda: cu.cuStreamQuery(idle),
        "captured: query the stream": lambda: cu.cuStreamQuery(stream),
        "captured: wait for the stream": lambda: cu.cuStreamSynchronize(stream),
        "captured: query the event": lambda: cu.cuEventQuery(captured),
        "captured: wait for the event": lambda: cu.cuEventSynchronize(captured),
        "captured: wait for the context": cu.cuCtxSynchronize,
    }
    return [result_of(calls[kind]()), end(stream)]


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("allocate", "STREAM_CAPTURE_UNSUPPORTED"),
        ("free", "STREAM_CAPTURE_UNSUPPORTED"),
        ("query another event", "STREAM_CAPTURE_UNSUPPORTED"),
        ("query another stream", "STREAM_CAPTURE_UNSUPPORTED"),
        ("captured: query the stream", "STREAM_CAPTURE_UNSUPPORTED"),
        ("captured: wait for the stream", "STREAM_CAPTURE_UNSUPPORTED"),
        ("captured: query the event", "CAPTURED_EVENT"),
        ("captured: wait for the event", "CAPTURED_EVENT"),
        ("captured: wait for the context", "STREAM_CAPTURE_UNSUPPORTED"),
    ],
)
def test_a_call_that_capture_forbids_fails_and_invalidates_it(
    machine: SimulatedMachine, kind: str, answer: str
) -> None:
    assert machine.call(forbidden, kind) == [answer, "STREAM_CAPTURE_INVALIDATED"]


def modes() -> list[list[str]]:
    """For each mode of capture and of the other thread: what the other thread's query says, and the capture."""
    context, stream = use_device(), new_stream()
    event, answers = ok(cu.cuEventCreate(0)), []

    def other(mode: Any, said: list[str]) -> None:
        ok(cu.cuCtxSetCurrent(context))
        ok(cu.cuThreadExchangeStreamCaptureMode(mode))
        said.append(result_of(cu.cuEventQuery(event)))

    for capture_mode in (GLOBAL, THREAD_LOCAL, RELAXED):
        for thread_mode in (GLOBAL, THREAD_LOCAL, RELAXED):
            said: list[str] = []
            ok(cu.cuStreamBeginCapture(stream, capture_mode))
            thread = threading.Thread(target=other, args=(thread_mode, said))
            thread.start()
            thread.join()
            answers.append([*said, end(stream)])
    return answers


def test_the_mode_decides_which_threads_may_disturb_a_capture(machine: SimulatedMachine) -> None:
    disturbed = ["STREAM_CAPTURE_UNSUPPORTED", "STREAM_CAPTURE_INVALIDATED"]
    assert machine.call(modes) == [disturbed] + [["SUCCESS", "SUCCESS"]] * 8


def own_thread() -> list[str]:
    use_device()
    stream, event, answers = new_stream(), ok(cu.cuEventCreate(0)), []
    for mode in (GLOBAL, THREAD_LOCAL, RELAXED):
        ok(cu.cuStreamBeginCapture(stream, mode))
        answers.append(result_of(cu.cuEventQuery(event)))
        end(stream)
    ok(cu.cuStreamBeginCapture(stream, GLOBAL))
    before = ok(cu.cuThreadExchangeStreamCaptureMode(RELAXED))
    answers.append(result_of(cu.cuEventQuery(event)))
    ok(cu.cuThreadExchangeStreamCaptureMode(before))
    return [*answers, end(stream)]


def test_a_thread_that_has_exchanged_its_mode_may_do_what_capture_forbids(machine: SimulatedMachine) -> None:
    refused = "STREAM_CAPTURE_UNSUPPORTED"
    assert machine.call(own_thread) == [refused, refused, "SUCCESS", "SUCCESS", "SUCCESS"]


def broken_sequences() -> dict[str, list[str]]:
    use_device()
    context = ok(cu.cuCtxGetCurrent())
    stream, other, blocking = new_stream(), new_stream(), ok(cu.cuStreamCreate(0))
    memory, event = ok(cu.cuMemAlloc(64)), ok(cu.cuEventCreate(2))
    answers: dict[str, list[str]] = {}

    ok(cu.cuStreamBeginCapture(blocking, RELAXED))
    answers["legacy stream used"] = [result_of(cu.cuMemsetD32Async(memory, 1, 1, 0)), end(blocking)]
    ok(cu.cuStreamBeginCapture(stream, RELAXED))
    answers["legacy stream beside a non-blocking one"] = [result_of(cu.cuMemsetD32Async(memory, 1, 1, 0)), end(stream)]
    answers["legacy stream captured"] = [result_of(cu.cuStreamBeginCapture(0, RELAXED))]

    ok(cu.cuStreamBeginCapture(stream, RELAXED))
    ok(cu.cuEventRecord(event, stream))
    ok(cu.cuStreamWaitEvent(other, event, 0))
    ok(cu.cuMemsetD32Async(memory, 1, 1, other))
    answers["unjoined"] = [end(stream)]

    ok(cu.cuStreamBeginCapture(stream, RELAXED))
    ok(cu.cuEventRecord(event, stream))
    ok(cu.cuStreamWaitEvent(other, event, 0))
    answers["ended in another stream"] = [end(other), end(stream)]

    ok(cu.cuEventRecord(event, other))
    ok(cu.cuStreamBeginCapture(stream, RELAXED))
    answers["event from outside"] = [result_of(cu.cuStreamWaitEvent(stream, event, 0)), end(stream)]

    ok(cu.cuStreamBeginCapture(stream, RELAXED))
    ok(cu.cuStreamBeginCapture(other, RELAXED))
    ok(cu.cuEventRecord(event, stream))
    answers["two captures"] = [result_of(cu.cuStreamWaitEvent(other, event, 0)), end(stream), end(other)]

    said: list[str] = []

    def another_thread() -> None:
        ok(cu.cuCtxSetCurrent(context))
        said.append(end(stream))

    ok(cu.cuStreamBeginCapture(stream, THREAD_LOCAL))
    thread = threading.Thread(target=another_thread)
    thread.start()
    thread.join()
    answers["ended by another thread"] = [*said, end(stream)]
    answers["not begun"] = [end(stream)]
    return answers


def test_captures_that_cannot_be_graphs_are_refused(machine: SimulatedMachine) -> None:
    invalid = "STREAM_CAPTURE_INVALIDATED"
    assert machine.call(broken_sequences) == {
        "legacy stream used": ["STREAM_CAPTURE_IMPLICIT", invalid],
        "legacy stream beside a non-blocking one": ["SUCCESS", "SUCCESS"],
        "legacy stream captured": ["STREAM_CAPTURE_UNSUPPORTED"],
        "unjoined": ["STREAM_CAPTURE_UNJOINED"],
        "ended in another stream": ["STREAM_CAPTURE_UNMATCHED", invalid],
        "event from outside": ["STREAM_CAPTURE_ISOLATION", invalid],
        "two captures": ["STREAM_CAPTURE_MERGE", invalid, invalid],
        "ended by another thread": ["STREAM_CAPTURE_WRONG_THREAD", invalid],
        "not begun": ["ILLEGAL_STATE"],
    }


def into_a_graph() -> None:
    use_device()
    stream, graph = new_stream(), ok(cu.cuGraphCreate(0))
    memory = ok(cu.cuMemAlloc(64))
    first = add_memset(graph, [], memory, 3)
    ok(cu.cuStreamBeginCaptureToGraph(stream, graph, [first], None, 1, RELAXED))
    status, number, capturing, nodes, *_ = ok(cu.cuStreamGetCaptureInfo(stream))
    assert status == STATUS.CU_STREAM_CAPTURE_STATUS_ACTIVE
    assert number
    assert int(capturing) == int(graph)
    assert [int(node) for node in nodes] == [int(first)]
    assert result_of(cu.cuGraphDestroy(graph)) == "INVALID_VALUE", "a capture still adds to it"
    ok(cu.cuMemcpyDtoDAsync(int(memory) + 4, memory, 4, stream))
    assert int(ok(cu.cuStreamEndCapture(stream))) == int(graph)
    run(graph)
    assert read_words(memory, 2) == [3, 3]


def test_a_capture_can_go_on_with_a_graph_that_is_there(machine: SimulatedMachine) -> None:
    machine.call(into_a_graph)
