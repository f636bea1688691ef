"""Amounts as users write them. Strict: what is not exactly understood is refused."""

from __future__ import annotations

import re
from typing import Final

from cgpu.errors import AmountError

MIB: Final = 1 << 20
GIB: Final = 1 << 30

_SUFFIX_BYTES: Final = {
    "B": 1,
    "K": 1000,
    "KB": 1000,
    "KiB": 1 << 10,
    "M": 1000**2,
    "MB": 1000**2,
    "MiB": MIB,
    "G": 1000**3,
    "GB": 1000**3,
    "GiB": GIB,
    "T": 1000**4,
    "TB": 1000**4,
    "TiB": 1 << 40,
}
_MEMORY: Final = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,9}))?([A-Za-z]+)")
_INTEGER: Final = re.compile(r"[0-9]{1,9}")

COMPUTE_PERCENT_MAX: Final = 100
WEIGHT_MAX: Final = 1000


def parse_memory(text: str) -> int:
    """Bytes of ``6GiB``, ``512MiB``, ``1.5GiB`` or ``6G`` (G is 10^9, GiB is 2^30).

    A unit is required, so that nobody asks for 6 bytes. Raises AmountError for anything else, for
    zero, and for a fraction that is not a whole number of bytes.
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None or match[3] not in _SUFFIX_BYTES:
        raise AmountError(f"not an amount of memory: {text!r}", "write for example 6GiB, 512MiB or 6G")
    whole, fraction, suffix = match[1], match[2] or "", match[3]
    scaled = int(whole + fraction) * _SUFFIX_BYTES[suffix]
    scale: int = 10 ** len(fraction)
    amount, rest = divmod(scaled, scale)
    if rest:
        raise AmountError(f"not a whole number of bytes: {text!r}", "use a smaller unit")
    if amount == 0:
        raise AmountError(f"an amount of memory must be above zero: {text!r}")
    return amount


def format_memory(amount: int) -> str:
    """The shortest exact binary form, such as ``6GiB`` or ``1536MiB``; bytes where none is exact."""
    for suffix in ("TiB", "GiB", "MiB", "KiB"):
        if amount and amount % _SUFFIX_BYTES[suffix] == 0:
            return f"{amount // _SUFFIX_BYTES[suffix]}{suffix}"
    return f"{amount}B"


def parse_percent(text: str) -> int:
    """1 to 100 from ``30`` or ``30%``. Raises AmountError otherwise."""
    body = text.strip().removesuffix("%")
    if not _INTEGER.fullmatch(body) or not 1 <= int(body) <= COMPUTE_PERCENT_MAX:
        raise AmountError(
            f"not a percentage of compute: {text!r}", "write a whole number from 1 to 100, such as 30 or 30%"
        )
    return int(body)


def parse_weight(text: str) -> int:
    """1 to 1000. Raises AmountError otherwise."""
    body = text.strip()
    if not _INTEGER.fullmatch(body) or not 1 <= int(body) <= WEIGHT_MAX:
        raise AmountError(f"not a weight: {text!r}", f"write a whole number from 1 to {WEIGHT_MAX}")
    return int(body)
