"""Allocate device memory in blocks of 256 MiB until the driver says no. Knows nothing of cgpu."""

import ctypes

cuda = ctypes.CDLL("libcuda.so.1")
BLOCK = 256 << 20


def call(name: str, *arguments: object) -> int:
    return int(getattr(cuda, name)(*arguments))


device, context = ctypes.c_int(), ctypes.c_void_p()
for status in (
    call("cuInit", 0),
    call("cuDeviceGet", ctypes.byref(device), 0),
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device),
    call("cuCtxSetCurrent", context),
):
    if status != 0:
        raise SystemExit(f"the driver answered {status}")

total, free = ctypes.c_size_t(), ctypes.c_size_t()
call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
print(f"the card has {total.value >> 20} MiB")

blocks, status = 0, 0
while True:
    pointer = ctypes.c_uint64()
    status = call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(BLOCK))
    if status != 0:
        break
    blocks += 1
name = "CUDA_ERROR_OUT_OF_MEMORY" if status == 2 else "unexpected"
print(f"allocated {blocks * BLOCK >> 20} MiB, then error {status} ({name})")
