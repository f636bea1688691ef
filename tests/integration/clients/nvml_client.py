"""What nvidia-ml-py tells about device 0."""

from __future__ import annotations

import json

import pynvml as nvml


def main() -> None:
    nvml.nvmlInit()
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    first, second = (
        nvml.nvmlDeviceGetMemoryInfo(device),
        nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2),
    )
    told = {
        "total_bytes": [first.total, second.total],
        "used_bytes": [first.used, second.used],
        "free_bytes": [first.free, second.free],
        "pids": [row.pid for row in nvml.nvmlDeviceGetComputeRunningProcesses(device)],
        "process_bytes": [row.usedGpuMemory for row in nvml.nvmlDeviceGetComputeRunningProcesses(device)],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
