"""A tenant on numba-cuda: a kernel compiled by NVIDIA's compiler packages, launched on device arrays."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from numba import cuda

KIB = 1 << 10


@cuda.jit  # type: ignore[untyped-decorator]
def add_one(values: Any) -> None:
    index = cuda.grid(1)  # type: ignore[attr-defined]
    if index < values.size:
        values[index] += 1


def main() -> None:
    over_bytes, within_bytes = map(int, sys.argv[1:])
    total = cuda.current_context().get_memory_info().total  # type: ignore[no-untyped-call]
    error = None
    try:
        cuda.device_array(over_bytes, np.uint8)
    except Exception as caught:  # noqa: BLE001 - which class it is, is what the test asks
        error = [type(caught).__module__, type(caught).__name__, str(caught)]
    held = cuda.device_array(within_bytes, np.uint8)
    values = np.arange(KIB, dtype=np.int32)
    on_device = cuda.to_device(values)
    add_one[KIB // 256, 256](on_device)
    cuda.synchronize()  # type: ignore[no-untyped-call]
    told = {
        "total_bytes": [total],
        "error": error,
        "allocated_bytes": held.nbytes,
        "code": next(iter(add_one.inspect_asm().values())),
        "copied": on_device.copy_to_host().shape == values.shape,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
