"""What nvitop's API tells about device 0."""

from __future__ import annotations

import json

import nvitop


def main() -> None:
    gpu = nvitop.Device(0)
    processes = gpu.processes()
    told = {
        "total_bytes": [gpu.memory_total()],
        "used_bytes": [gpu.memory_used()],
        "free_bytes": [gpu.memory_free()],
        "pids": list(processes),
        "process_bytes": [process.gpu_memory() for process in processes.values()],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
