"""The dynamic loader's cache, ``/etc/ld.so.cache``, in the form that glibc has written since 2.32 and before. Pure.

The form is that of glibc's dl-cache.h: a head of 48 bytes, entries of 24 bytes, texts; offsets are from the
beginning of the head. Older caches have one of another form ahead of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_MAGIC: Final = b"glibc-ld.so.cache1.1"
_HEAD: Final = 48
_ENTRY: Final = struct.Struct("<iIIIQ")  # flags, name, path, version of the system, what hardware it needs
_BYTES_MAX: Final = 64 << 20


def libraries_of(content: bytes) -> Iterator[tuple[str, str]]:
    """Names and paths of the libraries, in the cache's order. Of what is no such cache there are none."""
    begin = content[:_BYTES_MAX].find(_MAGIC)
    if begin < 0:
        return
    cache = content[begin:]
    (count,) = struct.unpack_from("<I", cache.ljust(_HEAD, b"\0"), len(_MAGIC))
    for number in range(min(count, max(0, len(cache) - _HEAD) // _ENTRY.size)):
        _, name, path, *_ = _ENTRY.unpack_from(cache, _HEAD + number * _ENTRY.size)
        texts = _text(cache, name), _text(cache, path)
        if all(texts):
            yield texts


def _text(cache: bytes, offset: int) -> str:
    end = cache.find(b"\0", offset)
    return cache[offset:end].decode(errors="replace") if offset < len(cache) and end >= 0 else ""
