"""How much memory a bare context takes on a card: make one, ask NVML, and end it.

No table can tell: it depends on card, driver and number of SMs (some 100 to 800 MiB). The context
is made in a process of its own, because a process that has used CUDA keeps memory on the card.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from cgpu.adapters.native import SIMULATED_CUDA, native_library
from cgpu.adapters.nvml import GpuProcess
from cgpu.model.tenant import Gpu
from cgpu.readable import readable

_SECONDS: Final = 20.0  # a card without persistence mode takes some seconds to wake

# Its own program, so that it starts fast and never meets the agent's libraries.
_CHILD: Final = """
import ctypes, sys
cuda = ctypes.CDLL(sys.argv[1])
device, context = ctypes.c_int(), ctypes.c_void_p()
failed = (
    cuda.cuInit(0)
    or cuda.cuDeviceGet(ctypes.byref(device), 0)
    or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
)
print("failed" if failed else "ready", flush=True)
sys.stdin.read()
"""


def measure_context(
    gpu: Gpu,
    processes: Callable[[Gpu], Iterable[GpuProcess]],
    sim_state: Path | None,
    cuda: Path | None = None,
) -> int | None:
    """Bytes that NVML attributes to a process with one context on the card.

    ``cuda`` is the driver's library, where the loader would not find it.

    None when it cannot be told: no libcuda, no room for a context, a PID namespace in which NVML
    does not show the process, or a driver that does not say.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "CGPU_REGION")}
    environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpu.uuid}
    library = "libcuda.so.1" if cuda is None else str(cuda)
    if sim_state is not None:
        environment["CGPU_SIM_STATE"] = str(sim_state)
        library = str(native_library(SIMULATED_CUDA))
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CHILD, library],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as child:
        try:
            return _memory_of(child, gpu, processes)
        finally:
            child.kill()


def _memory_of(child: subprocess.Popen[str], gpu: Gpu, processes: Callable[[Gpu], Iterable[GpuProcess]]) -> int | None:
    assert child.stdout is not None
    if not readable(child.stdout.fileno(), _SECONDS) or child.stdout.readline() != "ready\n":
        return None
    return next((row.memory_bytes for row in processes(gpu) if row.host_pid == child.pid), None)
