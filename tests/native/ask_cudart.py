"""A program for tests: use one libcudart, print what it answers and which functions of others it has kept.

    ask_cudart.py LIBCUDART

libcudart finds the driver by the library path. It keeps the functions that it has resolved in its own data: each
word there that points into another library is printed as offset, library+offset. It runs with the shim preloaded
and without, so it uses ctypes and the standard library alone.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from tests.native.ask_libcuda import Places


def answers(runtime: ctypes.CDLL) -> list[str]:
    """What calls answer that a program begins with, and their results."""
    number, size, pointer = ctypes.c_int(-1), ctypes.c_size_t(77), ctypes.c_void_p(0x77)
    by = ctypes.byref
    runtime.cudaGetErrorName.restype = ctypes.c_char_p
    calls: list[tuple[str, tuple[object, ...]]] = [
        ("cudaRuntimeGetVersion", (by(number),)),
        ("cudaDriverGetVersion", (by(number),)),
        ("cudaGetDeviceCount", (by(number),)),
        ("cudaGetDevice", (by(number),)),
        ("cudaMalloc", (by(pointer), size)),
        ("cudaMallocManaged", (by(pointer), size, 1)),
        ("cudaMallocAsync", (by(pointer), size, None)),
        ("cudaMemGetInfo", (by(size), by(size))),
        ("cudaStreamCreate", (by(pointer),)),
        ("cudaDeviceSynchronize", ()),
        ("cudaGetLastError", ()),
    ]
    told = []
    for name, arguments in calls:
        result = getattr(runtime, name)(*arguments)
        words = (number.value, size.value, pointer.value)
        told.append(f"{name} {result} {runtime.cudaGetErrorName(result).decode()} {words}")
    return told


def kept(library: str, places: Places) -> list[str]:
    """Words of the library's own data that point into other libraries: offset, where."""
    spans = []
    base = None
    previous = ""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access, _, _, _, *path = line.split(maxsplit=5)
        low, high = (int(word, 16) for word in span.split("-"))
        name = path[0] if path else ""
        if name == library and base is None:
            base = low
        # Its uninitialised data lies in a mapping without a name behind its own.
        if "w" in access and (name == library or (not name and previous == library)):
            spans.append((low, high))
        previous = name or (previous if spans and spans[-1][1] == low else "")
    found = []
    assert base is not None
    for low, high in spans:
        for address in range(low, high, 8):
            value = ctypes.c_uint64.from_address(address).value
            where = places.name(value) if value else "nowhere"
            if where != "nowhere" and not where.startswith(Path(library).name):
                found.append(f"{address - base:#x} {where}")
    return found


def main() -> None:
    """Call first: the first call resolves. The driver stays when libcudart refuses and closes it."""
    ctypes.CDLL("libcuda.so.1")  # a library that ctypes has opened is never closed
    runtime = ctypes.CDLL(sys.argv[1])
    for line in answers(runtime):
        print("answer", line)
    for line in kept(str(Path(sys.argv[1]).resolve()), Places()):
        print("kept", line)


if __name__ == "__main__":
    main()
