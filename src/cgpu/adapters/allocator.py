"""The C library's allocator, told that the many threads of a server are short-lived."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h of glibc; mallopt(3)


def limit_arenas(count: int) -> None:
    """At most so many heaps for all threads, before any is started; each keeps the most it has ever held.

    Without effect where the C library has no such option.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count)
