"""A program for tests: ask one libcuda for everything it has, and print one line per answer.

    ask_libcuda.py LIBCUDA < names

It runs with the shim preloaded and without, so it uses ctypes and the standard library alone.
A line is: how it was asked, name, version, flags, result, symbol status, and the address as
"library+offset" ("-" is null, "untouched" what was there before the call).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

UNTOUCHED = 0x5A5A
# Every release of CUDA that has a driver API, one step before the first, and some beyond any driver.
RELEASES = (
    [0, 1999]
    + [major * 1000 + minor * 10 for major, last in ((2, 3), (3, 2), (4, 2), (5, 5), (6, 5), (7, 5), (8, 0), (9, 2))
       for minor in range(last + 1)]
    + [major * 1000 + minor * 10 for major, last in ((10, 2), (11, 8), (12, 9), (13, 4)) for minor in range(last + 1)]
    + [99990]
)  # fmt: skip
FLAGS = (0, 1, 2, 3)


class Places:
    """Names addresses by the library that they lie in."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, int, str]] = []
        starts: dict[str, int] = {}
        for line in Path("/proc/self/maps").read_text().splitlines():
            span, _, _, _, _, *path = line.split(maxsplit=5)
            if path and path[0].startswith("/"):
                low, high = (int(word, 16) for word in span.split("-"))
                self._spans.append((low, high, starts.setdefault(path[0], low), Path(path[0]).name))

    def name(self, address: int | None) -> str:
        """The address as library+offset."""
        if address is None or address == UNTOUCHED:
            return "-" if address is None else "untouched"
        for low, high, start, library in self._spans:
            if low <= address < high:
                return f"{library}+{address - start:#x}"
        return "nowhere"


def by_name(driver: ctypes.CDLL, libc: ctypes.CDLL, names: list[str], places: Places) -> Iterator[str]:
    """Answers of dlsym and dlvsym on the handle; the unversioned libcuda takes any version."""
    handle = ctypes.c_void_p(driver._handle)
    libc.dlsym.restype = libc.dlvsym.restype = ctypes.c_void_p
    for name in names:
        yield f"dlsym {name} - - - - {places.name(libc.dlsym(handle, name.encode()))}"
        yield f"dlvsym {name} - - - - {places.name(libc.dlvsym(handle, name.encode(), b'GLIBC_2.2.5'))}"


def by_version(driver: ctypes.CDLL, names: list[str], releases: list[int], places: Places) -> Iterator[str]:
    """Answers of both generations of cuGetProcAddress."""
    first, second = driver.cuGetProcAddress, driver.cuGetProcAddress_v2
    first.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64]
    second.argtypes = [*first.argtypes, ctypes.c_void_p]
    pointer, status = ctypes.c_void_p(), ctypes.c_int()
    to_pointer, to_status = ctypes.byref(pointer), ctypes.byref(status)
    named: dict[int | None, str] = {}
    for name in names:
        symbol = name.encode()
        for release in releases:
            for flags in FLAGS:
                pointer.value, status.value = UNTOUCHED, -1
                result = second(symbol, to_pointer, release, flags, to_status)
                if (place := named.get(pointer.value)) is None:
                    place = named[pointer.value] = places.name(pointer.value)
                yield f"v2 {name} {release} {flags} {result} {status.value} {place}"
                pointer.value = UNTOUCHED
                result = first(symbol, to_pointer, release, flags)
                if (place := named.get(pointer.value)) is None:
                    place = named[pointer.value] = places.name(pointer.value)
                yield f"v1 {name} {release} {flags} {result} - {place}"


def without_status(driver: ctypes.CDLL, places: Places) -> str:
    """The symbol status may be left out. (A null name or pointer crashes NVIDIA's own library.)"""
    pointer = ctypes.c_void_p(UNTOUCHED)
    result = driver.cuGetProcAddress_v2(b"cuMemGetInfo", ctypes.byref(pointer), 12000, 0, None)
    return f"no-status cuMemGetInfo 12000 0 {result} - {places.name(pointer.value)}"


def main() -> None:
    """Ask before and after cuInit, which fails where there is no GPU and must change no answer."""
    names = sys.stdin.read().split()
    driver, libc = ctypes.CDLL(sys.argv[1]), ctypes.CDLL(None)
    places = Places()
    own = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(own))
    for line in by_name(driver, libc, names, places):
        print(line)
    for line in by_version(driver, [*names, "cuMemAlloc_v2", "cuLaunchKernel_ptsz", "cuNope"], RELEASES, places):
        print(line)
    print(without_status(driver, places))
    print(f"init - - - {driver.cuInit(0)} - -")
    for line in by_version(driver, names, [own.value], places):
        print(f"after-{line}")


if __name__ == "__main__":
    main()
