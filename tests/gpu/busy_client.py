"""A process that keeps the card busy with kernels of one length, and writes down when each of them ran.

    python busy_client.py KERNEL_NS launches|graphs cgpu_stamped_spin|cgpu_spin

It says "ready" when the first kernels have run, and goes on until its standard input ends; then it prints
the log as JSON, [[begin, end], ...] in nanoseconds of the card's %globaltimer. cgpu_spin writes no log.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Final

from cgpu.sim import demo_client
from cgpu.sim.demo_client import Cuda, told_to_end

KERNELS: Final = Path(__file__).with_name("kernels.ptx")
SPIN: Final = Path(demo_client.__file__).with_name("spin.ptx")
ROOM: Final = 1 << 18  # launches that the log holds
BATCH_NS: Final = 20_000_000  # of work between two events, and in a graph: this process may be scheduled late
THREAD_LOCAL: Final = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class Log:
    """The card's own record of the launches."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.address = ctypes.c_uint64()
        cuda.call("cuMemAlloc_v2", ctypes.byref(self.address), ctypes.c_size_t(16 * (ROOM + 1)))
        head = (ctypes.c_uint64 * 2)(0, ROOM)
        cuda.call("cuMemcpyHtoD_v2", self.address, head, ctypes.c_size_t(16))

    def read(self) -> list[tuple[int, int]]:
        """All pairs."""
        words = (ctypes.c_uint64 * (2 * (ROOM + 1)))()
        self.cuda.call("cuMemcpyDtoH_v2", words, self.address, ctypes.c_size_t(ctypes.sizeof(words)))
        count = min(words[0], ROOM)
        return sorted(zip(words[2 : 2 * count + 2 : 2], words[3 : 2 * count + 3 : 2], strict=True))


class Work:
    """A batch of kernels, launched one by one or as a graph."""

    def __init__(self, cuda: Cuda, kernel: str, kernel_ns: int, log: Log, *, as_graph: bool) -> None:
        self.cuda = cuda
        module, self.function, self.stream = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        source = KERNELS if kernel == "cgpu_stamped_spin" else SPIN
        cuda.call("cuModuleLoadData", ctypes.byref(module), source.read_bytes() + b"\0")
        cuda.call("cuModuleGetFunction", ctypes.byref(self.function), module, kernel.encode())
        cuda.call("cuStreamCreate", ctypes.byref(self.stream), 1)
        self.batch = max(1, BATCH_NS // kernel_ns)
        self.values = (ctypes.c_uint64(kernel_ns), log.address)
        self.parameters = (ctypes.c_void_p * 2)(*map(ctypes.addressof, self.values))
        self.graph = self._capture() if as_graph else None

    def _launch(self) -> None:
        for _ in range(self.batch):
            shape = (1, 1, 1, 1, 1, 1, 0)
            self.cuda.call("cuLaunchKernel", self.function, *shape, self.stream, self.parameters, None)

    def _capture(self) -> ctypes.c_void_p:
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self.cuda.call("cuStreamBeginCapture_v2", self.stream, THREAD_LOCAL)
        self._launch()
        self.cuda.call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        self.cuda.call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_uint64(0))
        return executable

    def queue(self) -> None:
        """Queue one batch."""
        if self.graph is None:
            self._launch()
        else:
            self.cuda.call("cuGraphLaunch", self.graph, self.stream)


def main() -> None:
    kernel_ns, how, kernel = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    cuda = Cuda()
    log = Log(cuda)
    work = Work(cuda, kernel, kernel_ns, log, as_graph=how == "graphs")
    events = (cuda.event(), cuda.event())
    batches = 0
    while not told_to_end():
        if batches >= 2:
            cuda.call("cuEventSynchronize", events[batches % 2])
        work.queue()
        cuda.call("cuEventRecord", events[batches % 2], work.stream)
        batches += 1
        if batches == 2:
            print('"ready"', flush=True)
    cuda.call("cuCtxSynchronize")
    print(json.dumps(log.read()))


if __name__ == "__main__":
    main()
