"""A tenant on cuda.core, as its users write it: pools, streams, a kernel from source, its view of NVML."""

from __future__ import annotations

import json
import os
import sys

from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch, system

SOURCE = 'extern "C" __global__ void scale(float *x, float by) { x[threadIdx.x] *= by; }'


def main() -> None:
    over_bytes, within_bytes = map(int, sys.argv[1:])
    device = Device()
    device.set_current()
    stream = device.create_stream()
    error = None
    try:
        device.allocate(over_bytes, stream=stream)
    except Exception as caught:  # noqa: BLE001 - which class it is, is what the test asks
        error = [type(caught).__module__, type(caught).__name__, str(caught)]
    buffer = device.allocate(within_bytes, stream=stream)
    options = ProgramOptions(arch=f"sm_{device.arch}")
    kernel = Program(SOURCE, "c++", options).compile("cubin").get_kernel("scale")
    launch(stream, LaunchConfig(grid=1, block=32), kernel, buffer, 2.0)
    stream.sync()
    card = system.Device(index=0)
    told = {
        "total_bytes": [card.memory_info.total],
        "error": error,
        "allocated_bytes": buffer.size,
        "pid": os.getpid(),
        "pids": [row.pid for row in card.compute_running_processes],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
