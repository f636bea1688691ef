"""Quantities as the Kubernetes API writes them. Pure.

Grammar: apimachinery's resource.Quantity; a number with a decimal or binary suffix, or an exponent.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

from cgpu.errors import AmountError

_FORM: Final = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]{1,3})|(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]))?"
)
_LENGTH_MAX: Final = 64
_SCALES: Final = {
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"))},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1000) ** -power for power, suffix in enumerate(("m", "u", "n"), start=1)},
}


def parse_quantity(text: str) -> int:
    """The whole number that a quantity stands for, such as 8589934592 for "8Gi".

    Raises AmountError for what is no quantity, is negative, or has a fraction ("500m").
    """
    value = _number(text)
    if value < 0 or value != value.to_integral_value():
        raise AmountError(f"not a whole number: {text!r}", "use a smaller unit")
    return int(value)


def quantity_value(text: str) -> int:
    """The smallest whole number not below a quantity: what the scheduler counts with (``Quantity.Value``).

    Raises AmountError for what is no quantity.
    """
    return int(_number(text).to_integral_value(ROUND_CEILING))


def _number(text: str) -> Decimal:
    match = _FORM.fullmatch(text) if len(text) <= _LENGTH_MAX else None
    if match is None:
        raise AmountError(f"not a quantity: {text[:_LENGTH_MAX]!r}", "write for example 8Gi or 30")
    number, exponent, suffix = match.groups()
    return Decimal(number + (exponent or "")) * _SCALES[suffix or ""]
