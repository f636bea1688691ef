"""A CUDA program of the demo, on the driver API through ctypes: it runs on a real card and a simulated one.

    python -m cgpu.sim.demo_client spin --hold 1073741824 --kernel-ns 2000000
    python -m cgpu.sim.demo_client fill --block 134217728

``spin`` holds memory and keeps the card busy until its standard input ends. ``fill`` allocates
blocks until the driver refuses, then holds them likewise. Both tell what happens as lines of JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from importlib.resources import files
from typing import Any, Final

from cgpu.readable import readable

_OUT_OF_MEMORY: Final = 2  # CUDA_ERROR_OUT_OF_MEMORY
_BATCH: Final = 4  # kernels between two events
_TELL_SECONDS: Final = 0.2


class CudaError(Exception):
    """A driver call that failed, with the driver's own name of the error."""


class Cuda:
    """The few driver functions that the demo needs, on the first device."""

    def __init__(self) -> None:
        """Create the primary context, and load the kernel. Raises CudaError or OSError (no driver)."""
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._context = ctypes.c_void_p()
        device, module = ctypes.c_int(), ctypes.c_void_p()
        self._spin = ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.call("cuCtxSetCurrent", self._context)
        image = (files("cgpu") / "sim" / "spin.ptx").read_bytes() + b"\0"
        self.call("cuModuleLoadData", ctypes.byref(module), image)
        self.call("cuModuleGetFunction", ctypes.byref(self._spin), module, b"cgpu_spin")

    def call(self, name: str, *arguments: Any) -> None:
        """Call a driver function; raise CudaError unless it succeeds."""
        status = self.status(name, *arguments)
        if status != 0:
            raise CudaError(f"{name}: {self.error_name(status)}")

    def status(self, name: str, *arguments: Any) -> int:
        """Call a driver function and return its CUresult."""
        return int(getattr(self._driver, name)(*arguments))

    def error_name(self, status: int) -> str:
        """Such as ``CUDA_ERROR_OUT_OF_MEMORY``."""
        text = ctypes.c_char_p()
        self.status("cuGetErrorName", status, ctypes.byref(text))
        return (text.value or b"?").decode()

    def allocate(self, size_bytes: int) -> int:
        """Allocate, and return the CUresult."""
        return self.status("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), ctypes.c_size_t(size_bytes))

    def memory(self) -> tuple[int, int]:
        """Free and total bytes, as the driver tells this process."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def event(self) -> ctypes.c_void_p:
        """A new event without timing."""
        event = ctypes.c_void_p()
        self.call("cuEventCreate", ctypes.byref(event), 2)
        return event

    def launch(self, kernel_ns: int) -> None:
        """Queue one spinning kernel on the default stream."""
        duration = ctypes.c_uint64(kernel_ns)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(duration))
        self.call("cuLaunchKernel", self._spin, 1, 1, 1, 1, 1, 1, 0, None, parameters, None)


def tell(**values: object) -> None:
    """One line of JSON."""
    print(json.dumps(values), flush=True)


def told_to_end(seconds: float = 0.0) -> bool:
    """Whether standard input has ended."""
    return readable(sys.stdin.fileno(), seconds) and not os.read(sys.stdin.fileno(), 1)


def spin(cuda: Cuda, hold_bytes: int, kernel_ns: int) -> None:
    """Never let the card run dry: while one batch runs, the next is queued."""
    status = cuda.allocate(hold_bytes) if hold_bytes else 0
    if status:
        raise CudaError(f"cuMemAlloc: {cuda.error_name(status)}")
    tell(event="ready", total_bytes=cuda.memory()[1])
    events = [cuda.event(), cuda.event()]
    batches, told = 0, time.monotonic()
    while not told_to_end():
        event = events[batches % 2]
        if batches >= 2:
            cuda.call("cuEventSynchronize", event)
        for _ in range(_BATCH):
            cuda.launch(kernel_ns)
        cuda.call("cuEventRecord", event, None)
        batches += 1
        if time.monotonic() - told >= _TELL_SECONDS:
            told = time.monotonic()
            tell(event="progress", done_ns=max(0, batches - 2) * _BATCH * kernel_ns)
    cuda.call("cuCtxSynchronize")
    tell(event="done", done_ns=batches * _BATCH * kernel_ns)


def fill(cuda: Cuda, block_bytes: int) -> None:
    """Allocate until the driver refuses."""
    free, total = cuda.memory()
    tell(event="ready", free_bytes=free, total_bytes=total)
    held = 0
    while (status := cuda.allocate(block_bytes)) == 0:
        held += block_bytes
    tell(event="refused", error=cuda.error_name(status), out_of_memory=status == _OUT_OF_MEMORY, held_bytes=held)
    while not told_to_end(1.0):
        pass


def main() -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("spin", "fill"))
    parser.add_argument("--hold", type=int, default=0, metavar="BYTES")
    parser.add_argument("--kernel-ns", type=int, default=2_000_000, metavar="NS")
    parser.add_argument("--block", type=int, default=128 << 20, metavar="BYTES")
    options = parser.parse_args()
    try:
        cuda = Cuda()
        if options.what == "spin":
            spin(cuda, options.hold, options.kernel_ns)
        else:
            fill(cuda, options.block)
    except (CudaError, OSError) as error:
        tell(event="failed", error=str(error))
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
