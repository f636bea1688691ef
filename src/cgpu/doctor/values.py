"""A value as it is written in a file, with the line that it stands in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DEPTH_MAX = 8
"""How deeply lists and mappings may nest: facts need three levels."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it stands."""

    kind: str
    """``str``, ``int``, ``float``, ``bool``, ``null``, ``list``, ``mapping``; ``other`` is a date or an odd number."""

    value: Any
    """Of a list Values, of a mapping Values by their keys; of ``float`` and ``other`` the text."""

    text: str = ""
    """A scalar as it is written."""

    line: int | None = None
    """Its first line, from 1 on; None where that is not known."""


def shown(text: str) -> str:
    """Foreign text for a message: short, and nothing in it moves a cursor."""
    return text if text.isprintable() and 0 < len(text) <= 60 else repr(text[:60])
