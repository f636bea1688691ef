"""A tenant on cuda-bindings' driver module, as its users write it."""

from __future__ import annotations

import json
import sys

from cuda.bindings import driver


def call(result: tuple[object, ...]) -> object:
    """The value of a call that succeeded."""
    assert result[0] == driver.CUresult.CUDA_SUCCESS, result
    return result[1] if len(result) > 1 else None


def main() -> None:
    over_bytes, within_bytes = map(int, sys.argv[1:])
    call(driver.cuInit(0))
    device = call(driver.cuDeviceGet(0))
    call(driver.cuCtxSetCurrent(call(driver.cuDevicePrimaryCtxRetain(device))))
    status, _ = driver.cuMemAlloc(over_bytes)
    address = call(driver.cuMemAlloc(within_bytes))
    back, text = bytearray(4), b"data"
    call(driver.cuMemcpyHtoD(address, text, len(text)))
    call(driver.cuMemcpyDtoH(back, address, len(back)))
    free, total = driver.cuMemGetInfo()[1:]
    told = {
        "total_bytes": [call(driver.cuDeviceTotalMem(device)), total],
        "free_bytes": free,
        "error": [type(status).__module__, type(status).__name__, status.name],
        "allocated_bytes": within_bytes,
        "copied": back == text,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
