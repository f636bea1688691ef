"""Waiting until something is not as it was (``native/arbiter/vigil.c``)."""

from __future__ import annotations

import ctypes
import functools
import os
import time
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.native import ARBITER, native_library
from cgpu.adapters.nvml import CardQuestions
from cgpu.adapters.region_words import GrowingBuffer, RegionList

_CALL_SECONDS: Final = 4.0
_NS_PER_S: Final = 10**9


class Ending(IntEnum):
    """What has ended a vigil."""

    OVER = 0
    """Its time."""
    CALLED = 1
    """One of the epoll's files is ready, or a signal has come."""
    SEEN = 2
    """Something has changed."""


class _Card(ctypes.Structure):
    _fields_ = (("device", ctypes.c_void_p), ("list", ctypes.c_void_p * 2), ("memory", ctypes.c_void_p))


class _Sights(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_void_p),
        ("cards", ctypes.POINTER(_Card)),
        ("names", ctypes.POINTER(ctypes.c_char_p)),
        ("file_count", ctypes.c_uint32),
        ("card_count", ctypes.c_uint32),
        ("name_count", ctypes.c_uint32),
    )


class Vigil:
    """Regions, cards and names of files as they were when it began: ``wait`` ends when they are not any more.

    Of a region, all that ``RegionWords`` reads, and the time that its tenant has got.
    """

    def __init__(self, regions: RegionList, cards: Sequence[CardQuestions], names: Sequence[Path]) -> None:
        """Read them. The regions' files may be closed later. Raises StateError when the library is not installed."""
        see, self._wait = _functions()
        rows = [_Card(card.device, (ctypes.c_void_p * 2)(*card.lists), card.memory) for card in cards]
        self._kept = regions, (_Card * len(rows))(*rows), (ctypes.c_char_p * len(names))(*map(os.fsencode, names))
        self._sights = _Sights(
            files=ctypes.cast(regions.array, ctypes.c_void_p),
            cards=self._kept[1],
            names=self._kept[2],
            file_count=regions.count,
            card_count=len(cards),
            name_count=len(names),
        )
        self._known = GrowingBuffer().read(lambda out, room: see(ctypes.byref(self._sights), out, room))

    def wait(self, epoll: int, period_seconds: float, seconds: float) -> Ending:
        """At most so long; looked is once in each period. What has made the epoll ready is not taken from it."""
        deadline = time.monotonic() + seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            # Of a signal just before the call, Python's handler runs after it.
            times = (round(period_seconds * _NS_PER_S), round(min(left, _CALL_SECONDS) * _NS_PER_S))
            ended = self._wait(ctypes.byref(self._sights), self._known, len(self._known), epoll, *times)
            if ended < 0:
                return Ending.SEEN  # without memory to look
            if ended != Ending.OVER or left <= _CALL_SECONDS:
                return Ending(ended)


@functools.cache
def _functions() -> tuple[Any, Any]:
    library = ctypes.CDLL(str(native_library(ARBITER)))
    see, wait = library.cgpu_arbiter_see, library.cgpu_arbiter_vigil
    see.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64)
    see.restype = ctypes.c_uint64
    wait.argtypes = (
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64),
        *(ctypes.c_int, ctypes.c_uint64, ctypes.c_uint64),
    )
    return see, wait
