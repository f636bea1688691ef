"""Text for people: tables, sizes, and the words for policies and layers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from cgpu.model.tenant import Policy
from cgpu.model.units import MIB

SIMULATED: Final = "simulated"
_NS_PER_S: Final = 1e9


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces between."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def as_json(value: object) -> str:
    """The machine-readable form."""
    return json.dumps(value, indent=2)


def mebibytes(amount: int) -> str:
    """As nvidia-smi writes memory."""
    return f"{amount // MIB}MiB"


def seconds(time_ns: int) -> str:
    """A duration, to the millisecond."""
    return f"{time_ns / _NS_PER_S:.3f}s"


def policy_name(number: int) -> str:
    """Such as ``2 weighted``."""
    return f"{number} {Policy(number).name.lower()}"


def compute(share: dict[str, Any]) -> str:
    """The percentage asked for, and whether it holds."""
    percent = share["compute_percent"]
    if percent is None:
        return "-"
    return f"{percent}%" if share["compute_enforced"] else f"{percent}% (recorded, not enforced)"


def layers(share: dict[str, Any]) -> str:
    """What enforces memory and time: ``shim/slots``."""
    return f"{share['memory_layer']}/{share['compute_layer']}"


def gpu_index(share: dict[str, Any]) -> str:
    """NVML's index, or what is known of a card that is gone."""
    return share["gpu_uuid"] if share["gpu_index"] is None else str(share["gpu_index"])
