"""A persistent kernel that waits for words which later copies bring: it ends only if they pass the gate.

python fed_client.py ROUNDS      prints "done"
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Final

from cgpu.sim.demo_client import Cuda

KERNELS: Final = Path(__file__).with_name("kernels.ptx")
NON_BLOCKING: Final = 1


def stream(cuda: Cuda) -> ctypes.c_void_p:
    """A stream that waits for no other."""
    made = ctypes.c_void_p()
    cuda.call("cuStreamCreate", ctypes.byref(made), NON_BLOCKING)
    return made


def main() -> None:
    cuda = Cuda()
    module, hold, word = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
    cuda.call("cuModuleLoadData", ctypes.byref(module), KERNELS.read_bytes() + b"\0")
    cuda.call("cuModuleGetFunction", ctypes.byref(hold), module, b"cgpu_hold")
    cuda.call("cuMemAlloc_v2", ctypes.byref(word), ctypes.c_size_t(4096))
    cuda.call("cuMemsetD32_v2", word, 0, ctypes.c_size_t(1024))
    waiting, feeding = stream(cuda), stream(cuda)
    for number in range(1, int(sys.argv[1]) + 1):
        value = ctypes.c_uint32(number)
        parameters = (ctypes.c_void_p * 2)(ctypes.addressof(word), ctypes.addressof(value))
        cuda.call("cuLaunchKernel", hold, 1, 1, 1, 1, 1, 1, 0, waiting, parameters, None)
        cuda.call("cuMemcpyHtoDAsync_v2", word, ctypes.byref(value), ctypes.c_size_t(4), feeding)
        cuda.call("cuStreamSynchronize", waiting)
    print('"done"', flush=True)


if __name__ == "__main__":
    main()
