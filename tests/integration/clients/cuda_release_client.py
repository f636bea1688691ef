"""A tenant on the bindings of some CUDA release: says what it has, holds it until a line comes, and frees it."""

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
    stream = call(driver.cuStreamCreate(0))
    refused = [driver.cuMemAlloc(over_bytes)[0].name, driver.cuMemAllocAsync(over_bytes, stream)[0].name]
    address = call(driver.cuMemAlloc(within_bytes))
    call(driver.cuMemsetD8(address, 7, 4))
    back = bytearray(4)
    call(driver.cuMemcpyDtoH(back, address, len(back)))
    told = {
        "release": driver.CUDA_VERSION // 1000,
        "total_bytes": driver.cuMemGetInfo()[2],
        "refused": refused,
        "copied": list(back),
    }
    print(json.dumps(told), flush=True)
    sys.stdin.readline()
    call(driver.cuMemFree(address))


if __name__ == "__main__":
    main()
