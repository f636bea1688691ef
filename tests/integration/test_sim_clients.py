"""Unmodified CUDA programs on the simulated libcuda: cuda-bindings, cuda.core, numba-cuda.

Kernels are compiled for real by NVIDIA's packages (nvidia-cuda-nvrtc, nvidia-nvvm, nvidia-nvjitlink)
and loaded as cubin and PTX; on the simulated card they take time and change no memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cgpu.sim import control
from native import build
from tests.native.sim_machine import CONTEXT_BYTES, MIB, PROFILE, RESERVED_BYTES, TOTAL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 120
USABLE_BYTES = TOTAL_BYTES - RESERVED_BYTES
SPIN_PTX = Path(__file__).parents[2] / "src" / "cgpu" / "sim" / "spin.ptx"

BINDINGS = """
import ctypes, json, os, signal, sys, time
from cuda.bindings import driver as cuda

def ok(answer):
    assert answer[0] == cuda.CUresult.CUDA_SUCCESS, answer[0]
    return answer[1] if len(answer) == 2 else answer[1:]

def name(answer):
    return answer[0].name

def primary(ordinal=0):
    device = ok(cuda.cuDeviceGet(ordinal))
    context = ok(cuda.cuDevicePrimaryCtxRetain(device))
    ok(cuda.cuCtxSetCurrent(context))
    return device
"""


@dataclass(frozen=True)
class Sim:
    """A simulated machine for Python programs."""

    state: Path
    profile: Path

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        libraries = Path(os.environ.get("CGPU_TEST_NATIVE", build.DEFAULT_OUT)) / "sim"
        return os.environ | {
            "LD_LIBRARY_PATH": str(libraries),
            "CGPU_SIM_STATE": str(self.state),
            "CGPU_SIM_PROFILE": str(self.profile),
            **more,
        }

    def python(self, script: str, **more: str) -> Any:
        """What a script leaves in `result`, as JSON tells it. `more` is added to its environment."""
        done = subprocess.run(
            [sys.executable, "-c", f"{script}\nimport json; print(json.dumps(result))"],
            env=self.environment(more), capture_output=True, text=True, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    @contextlib.contextmanager
    def running(self, script: str) -> Iterator[subprocess.Popen[str]]:
        """A script that has written "ready"; it is killed in the end."""
        command = [sys.executable, "-c", script]
        with subprocess.Popen(
            command, env=self.environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout
                assert process.stdout.readline() == "ready\n"
                yield process
            finally:
                process.kill()

    def card(self, index: int = 0) -> Any:
        """The truth about a card."""
        return json.loads(control.status_json(self.state))["cards"][index]


@pytest.fixture
def sim(tmp_path: Path) -> Sim:
    """Two T4s under a driver of CUDA 13.5, which takes what the installed compilers write."""
    (tmp_path / "state").mkdir()
    (tmp_path / "profile.toml").write_text(PROFILE.replace('"550.163.01"', '"620.20.01"'))
    return Sim(tmp_path / "state", tmp_path / "profile.toml")


# ---- cuda-bindings ----


def test_bindings_see_the_machine(sim: Sim) -> None:
    result = sim.python(
        BINDINGS
        + """
early = name(cuda.cuDeviceGetCount())
ok(cuda.cuInit(0))
device = primary()
result = [early, ok(cuda.cuDriverGetVersion()), ok(cuda.cuDeviceGetCount()),
          ok(cuda.cuDeviceGetName(64, device)).split(b"\\0")[0].decode(), ok(cuda.cuDeviceTotalMem(device)),
          list(ok(cuda.cuMemGetInfo()))]
"""
    )
    assert result == [
        "CUDA_ERROR_NOT_INITIALIZED", 13050, 2, "Tesla T4", USABLE_BYTES, [USABLE_BYTES - CONTEXT_BYTES, USABLE_BYTES],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("visible", "order"),
    [
        (None, [0, 1]), ("1,0", [1, 0]), ("1", [1]), ("0,7,1", [0]), ("", []), ("-1", []), ("0,0", []), ("none", []),
        ("uuid:1,uuid:0", [1, 0]), ("short:1", [1]), ("both", []),
    ],
)  # fmt: skip
def test_visible_devices(visible: str | None, order: list[int], sim: Sim) -> None:
    script = (
        BINDINGS
        + """
answer = cuda.cuInit(0)
devices = [] if answer[0] == cuda.CUresult.CUDA_ERROR_NO_DEVICE else range(ok(cuda.cuDeviceGetCount()))
result = [bytes(ok(cuda.cuDeviceGetUuid(ok(cuda.cuDeviceGet(i)))).bytes).hex() for i in devices]
"""
    )
    uuids = sim.python(script)
    texts = ["GPU-" + str(uuid.UUID(each)) for each in uuids]
    same = next(i for i, letters in enumerate(zip(*texts, strict=True)) if len(set(letters)) > 1)
    more = {}
    if visible is not None:
        for i, text in enumerate(texts):
            visible = visible.replace(f"uuid:{i}", text).replace(f"short:{i}", text[: same + 1])
        more["CUDA_VISIBLE_DEVICES"] = visible.replace("both", texts[0][:same])
    assert sim.python(script, **more) == [uuids[i] for i in order]


def test_memory_is_shared_by_all_processes_and_outlives_no_kill(sim: Sim) -> None:
    hold = BINDINGS + f"ok(cuda.cuInit(0)); primary(); ok(cuda.cuMemAlloc({8000 * MIB})); print('ready', flush=True)\n"
    ask = (
        BINDINGS
        + f"""
ok(cuda.cuInit(0)); primary()
result = [ok(cuda.cuMemGetInfo())[0], name(cuda.cuMemAlloc({8000 * MIB}))]
"""
    )
    free = USABLE_BYTES - 2 * CONTEXT_BYTES
    with sim.running(hold + "sys.stdin.read()") as holder:
        assert sim.python(ask) == [free - 8000 * MIB, "CUDA_ERROR_OUT_OF_MEMORY"]
        assert sim.card()["used_bytes"] == CONTEXT_BYTES + 8000 * MIB
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert sim.card()["used_bytes"] == 0
    assert sim.python(ask) == [free + CONTEXT_BYTES, "CUDA_SUCCESS"]


def test_r615_limit_is_what_a_process_sees_and_gets(sim: Sim) -> None:
    script = (
        BINDINGS
        + f"""
ok(cuda.cuInit(0)); primary()
free, total = ok(cuda.cuMemGetInfo())
result = [free, total, name(cuda.cuMemAlloc(free + 1)), name(cuda.cuMemAlloc({100 * MIB}))]
"""
    )
    sim.python(script)  # makes the machine
    control.set_limit(sim.state, 0, "/tenant", 1024 * MIB, 0)
    limited = sim.python(script, CGPU_SIM_CGROUP="/tenant")
    assert limited == [1024 * MIB - CONTEXT_BYTES, 1024 * MIB, "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_SUCCESS"]
    assert sim.python(script, CGPU_SIM_CGROUP="/other")[1] == USABLE_BYTES


def test_the_spin_kernel_of_a_real_card_takes_its_time(sim: Sim) -> None:
    result = sim.python(
        BINDINGS
        + f"""
ok(cuda.cuInit(0)); primary()
module = ok(cuda.cuModuleLoadData(open({str(SPIN_PTX)!r}, "rb").read() + b"\\0"))
spin = ok(cuda.cuModuleGetFunction(module, b"cgpu_spin"))
start, end = ok(cuda.cuEventCreate(0)), ok(cuda.cuEventCreate(0))
arguments = ((20_000_000,), (ctypes.c_uint64,))
ok(cuda.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, 0, arguments, 0))
ok(cuda.cuEventRecord(start, 0))
ok(cuda.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, 0, arguments, 0))
ok(cuda.cuEventRecord(end, 0))
ok(cuda.cuEventSynchronize(end))
result = ok(cuda.cuEventElapsedTime(start, end))
"""
    )
    assert result == pytest.approx(20, abs=0.5)
    assert sim.card()["busy_ns"] == pytest.approx(40_000_000, rel=0.01)


@pytest.mark.parametrize(
    ("fault", "value", "error"),
    [
        (control.Fault.OOM, 1, "CUDA_ERROR_OUT_OF_MEMORY"),
        (control.Fault.LOST, 1, "CUDA_ERROR_DEVICE_UNAVAILABLE"),
    ],
)
def test_faults_on_demand(fault: control.Fault, value: int, error: str, sim: Sim) -> None:
    script = (
        BINDINGS
        + """
ok(cuda.cuInit(0)); primary()
print("ready", flush=True)
sys.stdin.readline()
print(name(cuda.cuMemAlloc(4 << 20)), flush=True)
sys.stdin.read()
"""
    )
    with sim.running(script) as client:
        control.set_fault(sim.state, 0, fault, value)
        assert client.stdin
        assert client.stdout
        client.stdin.write("\n")
        client.stdin.flush()
        assert client.stdout.readline().strip() == error


def test_two_busy_processes_get_half_a_card_each_and_a_killed_one_leaves_the_rest_alone(sim: Sim) -> None:
    spinner = (
        BINDINGS
        + f"""
ok(cuda.cuInit(0)); primary()
module = ok(cuda.cuModuleLoadData(open({str(SPIN_PTX)!r}, "rb").read() + b"\\0"))
spin = ok(cuda.cuModuleGetFunction(module, b"cgpu_spin"))
word = ok(cuda.cuMemAlloc(4))
print("ready", flush=True)
sys.stdin.readline()
while True:  # the queue is never empty: a launch waits while it is full
    ok(cuda.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, 0, ((5_000_000,), (ctypes.c_uint64,)), 0))
"""
    )
    observer = (
        BINDINGS
        + f"""
ok(cuda.cuInit(0)); primary()
module = ok(cuda.cuModuleLoadData(open({str(SPIN_PTX)!r}, "rb").read() + b"\\0"))
spin = ok(cuda.cuModuleGetFunction(module, b"cgpu_spin"))
def turn():
    ok(cuda.cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, 0, ((1_000,), (ctypes.c_uint64,)), 0))
    ok(cuda.cuCtxSynchronize())
"""
    )
    with sim.running(spinner) as one, sim.running(spinner) as other:
        for process in (one, other):
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        # Two hundred turns of a third context, each behind the slices of the two.
        sim.python(observer + "for _ in range(200): turn()\nresult = None")
        busy = {process["own_pid"]: process["busy_ns"] for process in sim.card()["processes"]}
        share = busy[one.pid] / (busy[one.pid] + busy[other.pid])
        assert share == pytest.approx(0.5, abs=0.1)
        one.send_signal(signal.SIGKILL)
        one.wait()
        assert sim.python(observer + "turn(); result = True")
        assert other.poll() is None


# ---- cuda.core ----

CORE = """
import numpy as np
from cuda.core import Device, EventOptions, LaunchConfig, Program, ProgramOptions, launch
device = Device(0)
device.set_current()
stream = device.create_stream()
"""


def test_core_allocates_and_copies(sim: Sim) -> None:
    result = sim.python(
        CORE
        + """
from cuda.core import DeviceMemoryResource, LegacyPinnedMemoryResource
host = LegacyPinnedMemoryResource().allocate(1 << 20)
buffer = DeviceMemoryResource(device).allocate(1 << 20, stream=stream)
back = LegacyPinnedMemoryResource().allocate(1 << 20)
np.from_dlpack(host)[:] = np.arange(1 << 20, dtype=np.uint8)
buffer.copy_from(host, stream=stream)
buffer.copy_to(back, stream=stream)
stream.sync()
same = bool((np.from_dlpack(back) == np.from_dlpack(host)).all())
result = [device.name, list(device.compute_capability), same, buffer.is_device_accessible, buffer.is_host_accessible]
"""
    )
    assert result == ["Tesla T4", [7, 5], True, True, False]


@pytest.mark.parametrize("target", ["ptx", "cubin"])
def test_core_compiles_and_launches(target: str, sim: Sim) -> None:
    result = sim.python(
        CORE
        + f"""
source = r'''
extern "C" __global__ void scale(float *a, float factor, unsigned n) {{
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) a[i] *= factor;
}}
template <typename T> __global__ void add(T *a, T b) {{ a[0] += b; }}
'''
options = ProgramOptions(std="c++17", arch=f"sm_{{device.arch}}")
code = Program(source, code_type="c++", options=options).compile({target!r}, name_expressions=("add<double>",))
scale, add = code.get_kernel("scale"), code.get_kernel("add<double>")
timed = EventOptions(timing_enabled=True)
launch(stream, LaunchConfig(grid=40_000, block=256), scale, 0, np.float32(2), np.uint32(100))
start = stream.record(options=timed)
launch(stream, LaunchConfig(grid=40_000, block=256), scale, 0, np.float32(2), np.uint32(100))
end = stream.record(options=timed)
launch(stream, LaunchConfig(grid=1, block=32), add, 0, np.float64(1))
stream.sync()
result = [[list(one) for one in scale.arguments_info], [list(one) for one in add.arguments_info],
          end - start, scale.attributes.max_threads_per_block]
"""
    )
    scale, add, milliseconds, threads = result
    assert scale == [[0, 8], [8, 4], [12, 4]]
    assert add == [[0, 8], [8, 8]]
    assert threads == 1024
    # 1,000 blocks of 256 threads on each of 40 SMs: 250 times a block of 1,024 threads at 0.1 ms.
    assert milliseconds == pytest.approx(25, rel=0.01)


def test_core_replays_a_graph(sim: Sim) -> None:
    result = sim.python(
        CORE
        + """
code = Program('extern "C" __global__ void empty() {}', code_type="c++",
               options=ProgramOptions(arch=f"sm_{device.arch}")).compile("cubin")
empty = code.get_kernel("empty")
builder = device.create_graph_builder()
builder.begin_building()
for _ in range(3):
    launch(builder, LaunchConfig(grid=1, block=32), empty)
graph = builder.end_building().complete()
for _ in range(5):
    graph.launch(stream)
stream.sync()
result = True
"""
    )
    assert result
    assert sum(process["kernels"] for process in sim.card()["finished"]) == 15


# ---- numba-cuda ----

NUMBA = """
import warnings
warnings.simplefilter("ignore")  # numba finds the grids of a test small
import numpy as np
from numba import cuda
"""


def test_numba_compiles_and_launches(sim: Sim) -> None:
    result = sim.python(
        NUMBA
        + """
@cuda.jit
def increase(values, by):
    i = cuda.grid(1)
    if i < values.size:
        values[i] += by

@cuda.jit
def through_shared(values):
    tile = cuda.shared.array(128, dtype=np.float32)
    tile[cuda.threadIdx.x] = values[cuda.threadIdx.x]
    cuda.syncthreads()
    values[cuda.threadIdx.x] = tile[0]

host = np.arange(1000, dtype=np.float32)
values = cuda.to_device(host)
stream, start, end = cuda.stream(), cuda.event(), cuda.event()
increase[10_000, 128, stream](values, 2)  # compiles
increase[100_000, 128, stream](values, 2)  # keeps the card busy until the rest is queued
start.record(stream)
increase[10_000, 128, stream](values, 2)
end.record(stream)
end.synchronize()
through_shared[1, 128](values)
cuda.synchronize()
back = values.copy_to_host()
memory = cuda.current_context().get_memory_info()
result = [cuda.is_available(), cuda.get_current_device().name, bool((back == host).all()),
          cuda.event_elapsed_time(start, end), *increase.get_shared_mem_per_block().values(),
          *through_shared.get_shared_mem_per_block().values(), memory.total]
"""
    )
    available, name, same, milliseconds, none, shared, total = result
    assert (available, name, same, none, shared, total) == (True, "Tesla T4", True, 0, 512, USABLE_BYTES)
    assert milliseconds == pytest.approx(3.125, rel=0.01)  # 250 blocks of 128 threads on each SM, 0.1 ms / 8 each


def test_numba_out_of_memory_is_its_own_error(sim: Sim) -> None:
    result = sim.python(
        NUMBA
        + f"""
try:
    cuda.device_array({USABLE_BYTES}, dtype=np.uint8)
    result = "allocated"
except Exception as problem:
    result = str(problem)
"""
    )
    assert "CUDA_ERROR_OUT_OF_MEMORY" in result


def test_numba_managed_and_pinned_arrays(sim: Sim) -> None:
    result = sim.python(
        NUMBA
        + """
managed = cuda.managed_array(100, dtype=np.int64)
managed[:] = 3
pinned = cuda.pinned_array(100, dtype=np.int64)
pinned[:] = 4
device = cuda.to_device(pinned)
mapped = cuda.mapped_array(10)
mapped[:] = 1
result = [int(managed.sum()), int(device.copy_to_host().sum()), float(mapped.sum())]
"""
    )
    assert result == [300, 400, 10.0]
