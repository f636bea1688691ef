"""What regions say of memory and of who holds it, undecoded (``native/arbiter/words.c``)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from cgpu.adapters.native import ARBITER, native_library

_FIRST_BYTES: Final = 1 << 16  # some 20 tenants with 20 processes each; grows where it has to


class RegionFiles(NamedTuple):
    """A region's open files."""

    usage: int
    grants: int
    locks: int
    rows: int
    """Of its GPU table that are in use, at most 16."""


class _Files(ctypes.Structure):
    _fields_ = (
        ("usage", ctypes.c_int32),
        ("grants", ctypes.c_int32),
        ("locks", ctypes.c_int32),
        ("rows", ctypes.c_uint32),
    )


class RegionList:
    """Regions that are read together, as the library takes them."""

    def __init__(self, regions: Iterable[RegionFiles]) -> None:
        """The files have to stay open as long as the list is read."""
        rows = [_Files(*files) for files in regions]
        self.count = len(rows)
        self.array = (_Files * self.count)(*rows)


class GrowingBuffer:
    """Room for what a function of the library writes. For one thread at a time."""

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(_FIRST_BYTES)

    def read(self, write: Callable[[Any, int], Any]) -> bytes:
        """All of it. ``write`` gets memory and its size, and tells how many bytes there are, which may be more."""
        while True:
            size = int(write(self._memory, len(self._memory)))
            if size <= len(self._memory):
                return ctypes.string_at(self._memory, size)
            self._memory = ctypes.create_string_buffer(2 * size)


class RegionWords:
    """Reads them, into a buffer of its own. For one thread at a time."""

    def __init__(self) -> None:
        """Load the library. Raises StateError when it is not installed."""
        self._function = ctypes.CDLL(str(native_library(ARBITER))).cgpu_arbiter_words
        self._function.argtypes = (ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_uint64)
        self._function.restype = ctypes.c_uint64
        self._buffer = GrowingBuffer()

    def read(self, regions: RegionList) -> bytes:
        """Of no use but to be compared.

        Equal at two moments: in none of the regions has anybody come or gone, nothing was charged, returned or refused
        in between, and what the agent grants is the same. A region that cannot be read stays what it is, too.
        """
        return self._buffer.read(lambda out, room: self._function(regions.array, regions.count, out, room))
