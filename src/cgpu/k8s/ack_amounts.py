"""What a container asks for in ACK's resources. Pure.

`aliyun.com/gpu-mem` counts whole GiB; `aliyun.com/gpu-core.percentage` is a percentage of one card in
steps of 5 (Alibaba Cloud Container Service for Kubernetes, "enable GPU sharing" and "computing power").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cgpu.errors import AmountError
from cgpu.k8s import names
from cgpu.k8s.quantity import parse_quantity
from cgpu.model.units import WEIGHT_MAX, parse_weight

Object = Mapping[str, Any]
CARDS_MAX: Final = 32
"""Devices of one claim, by the API server."""

_GIB_MAX: Final = 1 << 20
_STEP: Final = 5
_WHOLE: Final = 100
_PRIORITIES: Final = {"0": False, "false": False, "1": True, "true": True}
_ENV_WEIGHT: Final = "ALIYUN_COM_GPU_SCHD_WEIGHT"
_ENV_PRIORITY: Final = "ALIYUN_COM_GPU_HIGH_PRIO"


@dataclass(frozen=True, slots=True)
class Ask:
    """Of one container; its memory is that of all its cards together."""

    memory_gib: int
    compute_percent: int | None = None


def ask_of(container: Object) -> Ask | None:
    """What a container asks for; None: nothing. Raises AmountError."""
    memory = _amount(container, names.ACK_MEMORY)
    compute = _amount(container, names.ACK_COMPUTE)
    where = _where(container)
    if memory > _GIB_MAX:
        raise AmountError(f"{where}: {names.ACK_MEMORY} is {memory}", "it counts GiB: write 8 for 8 GiB, not 8Gi")
    if compute and not (_STEP <= compute <= _WHOLE and compute % _STEP == 0):
        raise AmountError(
            f"{where}: {names.ACK_COMPUTE} is {compute}", f"it is a multiple of {_STEP} from {_STEP} to {_WHOLE}"
        )
    if compute and not memory:
        # A claim without memory takes the card's whole memory, which nobody means who asks for a part of its time.
        raise AmountError(
            f"{where}: {names.ACK_COMPUTE} is there without {names.ACK_MEMORY}", f"add {names.ACK_MEMORY}, in GiB"
        )
    return Ask(memory, compute or None) if memory else None


def cards_of(labels: Mapping[str, str]) -> int:
    """Over how many cards a pod's memory is divided. Raises AmountError."""
    text = labels.get(names.ACK_COUNT, "1")
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= CARDS_MAX):
        raise AmountError(f"label {names.ACK_COUNT} is {text!r}", f"it is a whole number from 1 to {CARDS_MAX}")
    return int(text)


@dataclass(frozen=True, slots=True)
class Favours:
    """What a share gets before others."""

    weight: int = 1
    high_priority: bool = False

    @property
    def are_none(self) -> bool:
        """Whether nobody needs to allow them."""
        return self == Favours()


def annotated_favours(annotations: Mapping[str, str]) -> Favours | None:
    """What a pod's annotations ask for; None: they do not. Raises AmountError."""
    if names.WEIGHT not in annotations and names.PRIORITY not in annotations:
        return None
    return _favours(
        annotations.get(names.WEIGHT, "1"), annotations.get(names.PRIORITY, "0"), "annotation", names.WEIGHT
    )


def environment_favours(container: Object) -> Favours:
    """What a container's environment asks for, as cGPU has it. Raises AmountError."""
    rows = [(row["name"], str(row.get("value") or "")) for row in container.get("env") or ()]
    given = {name: value for name, value in rows if "$(" not in value}  # what another variable says is not known here
    where = f"{_where(container)}:"
    return _favours(given.get(_ENV_WEIGHT) or "1", given.get(_ENV_PRIORITY) or "0", where, _ENV_WEIGHT)


def _favours(weight: str, priority: str, where: str, name: str) -> Favours:
    if priority not in _PRIORITIES:
        raise AmountError(f"{where} priority is {priority!r}", "it is 0 (normal) or 1 (high)")
    try:
        return Favours(parse_weight(weight), _PRIORITIES[priority])
    except AmountError as error:
        raise AmountError(f"{where} {name} is {weight!r}", f"it is a whole number from 1 to {WEIGHT_MAX}") from error


def _amount(container: Object, resource: str) -> int:
    """A resource of a container, 0 where it has none. Limit and request of such a resource are always equal."""
    resources = container.get("resources") or {}
    given = {
        str(resources[part][resource]) for part in ("limits", "requests") if resource in (resources.get(part) or {})
    }
    try:
        amounts = {parse_quantity(text) for text in given}
    except AmountError as error:
        raise AmountError(
            f"{_where(container)}: {resource} is {' and '.join(sorted(given))}", "it is a whole number, such as 8"
        ) from error
    if len(amounts) > 1:
        raise AmountError(
            f"{_where(container)}: {resource} has the limit and request {' and '.join(map(str, sorted(amounts)))}",
            "give the limit alone, or the same number for both",
        )
    return next(iter(amounts), 0)


def _where(container: Object) -> str:
    return f"container {container.get('name', '')}"
