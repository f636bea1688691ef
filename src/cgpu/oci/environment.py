"""What a container asks for: cGPU's variables, our own, and the annotations that say the same.

Whoever creates the container writes them. They are read before it exists; what its processes do to their
environment later changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cgpu.errors import AmountError, VariableError
from cgpu.model.container import ANNOTATION_PREFIX
from cgpu.model.units import GIB, MIB, parse_memory, parse_percent, parse_weight
from cgpu.oci.amount import Part

ALL: Final = "all"
_MEMORY: Final = "ALIYUN_COM_GPU_MEM_CONTAINER"
_CARD_MEMORY: Final = "ALIYUN_COM_GPU_MEM_DEV"
_UNIT: Final = "ALIYUN_COM_GPU_MEM_UNIT"
_SLICED: Final = "ALIYUN_COM_GPU_VISIBLE_DEVICES"
NVIDIA_VISIBLE: Final = "NVIDIA_VISIBLE_DEVICES"

_INTEGER: Final = re.compile(r"[0-9]{1,9}")
_GPU: Final = re.compile(r"[0-9]{1,3}|GPU-[0-9A-Za-z-]{1,60}")
_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/@:-]{0,61}[A-Za-z0-9])?")
_FLAGS: Final = {"1": True, "true": True, "0": False, "false": False}
_UNITS: Final = {"GiB": GIB, "MiB": MIB}
_OWN: Final = "CGPU_"


@dataclass(frozen=True, slots=True)
class Request:
    """A share of each of the sliced GPUs, and perhaps whole GPUs beside them."""

    memory: int | Part  # of each sliced GPU: bytes, or cGPU's part
    sliced: tuple[str, ...]  # indices and UUIDs, or ("all",)
    native: tuple[str, ...] = ()  # indices and UUIDs that stay as they are
    compute_percent: int | None = None
    compute_limit_percent: int | None = None
    weight: int = 1
    priority: int = 0
    name: str = ""  # of the tenant; empty: its id
    require_layer: str = ""  # empty: whatever the node has
    refuse_managed: bool = False
    sets_visible: bool = True  # whether NVIDIA_VISIBLE_DEVICES is ours to set


def variables(environment: Iterable[str]) -> dict[str, str]:
    """The variables of a list of ``NAME=value``.

    Where a name comes twice its last value counts: runc and crun set one after the other, so that is the
    value which the container's first process finds.
    """
    found = {}
    for entry in environment:
        name, separator, value = entry.partition("=")
        if separator:
            found[name] = value
    return found


def request_of(environment: Iterable[str], annotations: Mapping[str, str]) -> Request | None:
    """What the container asks for; None when it asks for nothing, or not to be touched (``CGPU_DISABLE``).

    Raises VariableError, which names the variable or annotation, for a malformed value, for two that
    contradict each other, and for a share without memory.
    """
    values = variables(environment)
    own = _Own(values, annotations)
    if own.one("DISABLE", _flag, False):
        return None
    memory = own.one("MEMORY", parse_memory, None, (_MEMORY, lambda _: _part(values)))
    if memory is None:
        own.forbid_without_memory()
        return None
    sliced, native = _gpus(values, own)
    if not sliced:
        return None
    return Request(
        memory=memory,
        sliced=sliced,
        native=native,
        compute_percent=own.one("COMPUTE", parse_percent, None),
        compute_limit_percent=own.one("COMPUTE_LIMIT", parse_percent, None),
        weight=own.one("WEIGHT", parse_weight, 1, ("ALIYUN_COM_GPU_SCHD_WEIGHT", parse_weight)),
        priority=int(own.one("PRIORITY", _flag, False, ("ALIYUN_COM_GPU_HIGH_PRIO", _flag))),
        name=own.one("NAME", _name, ""),
        require_layer=own.one("REQUIRE_LAYER", _layer, ""),
        refuse_managed=own.one("REFUSE_MANAGED", _flag, False),
        sets_visible=values.get(NVIDIA_VISIBLE) != "void",
    )


_KNOWN: Final = (
    "MEMORY", "COMPUTE", "COMPUTE_LIMIT", "WEIGHT", "PRIORITY", "GPU", "NAME", "REQUIRE_LAYER", "REFUSE_MANAGED",
)  # fmt: skip
_Parser = Callable[[str], Any]


class _Own:
    """Our variables and annotations, each of which may be said by another variable too."""

    def __init__(self, values: Mapping[str, str], annotations: Mapping[str, str]) -> None:
        self._values = values
        self._annotations = annotations

    def one(self, name: str, parser: _Parser, default: Any, other: tuple[str, _Parser] | None = None) -> Any:
        """The value that is said, however many say it."""
        said = [(source, _parsed(source, text, parser)) for source, text in self._texts(name)]
        if other is not None and other[0] in self._values:
            said.append((other[0], _parsed(other[0], self._values[other[0]], other[1])))
        for source, value in said[1:]:
            if value != said[0][1]:
                raise VariableError(f"{said[0][0]} and {source} contradict each other", "keep one of them")
        return said[0][1] if said else default

    def forbid_without_memory(self) -> None:
        """Whoever wants compute or sets a condition wants a share: without memory that is a mistake."""
        for name in _KNOWN:
            for source, _ in self._texts(name):
                raise VariableError(
                    f"{source} is set, but neither {_OWN}MEMORY nor {_MEMORY} is", f"set {_OWN}MEMORY=6GiB, for example"
                )

    def _texts(self, name: str) -> list[tuple[str, str]]:
        variable, annotation = _OWN + name, ANNOTATION_PREFIX + name.lower().replace("_", "-")
        texts = [(variable, self._values.get(variable)), (annotation, self._annotations.get(annotation))]
        return [(source, text) for source, text in texts if text is not None]


def _gpus(values: Mapping[str, str], own: _Own) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sliced GPUs and the native ones."""
    nvidia = values.get(NVIDIA_VISIBLE)
    sliced: tuple[str, ...] | None = own.one("GPU", _list, None, (_SLICED, _list))
    if sliced is None:
        if nvidia is None:
            return ("0",), ()
        return (() if nvidia == "none" else _parsed(NVIDIA_VISIBLE, nvidia, _list)), ()
    # `all` is in many images and names no card: it gives nobody a whole one.
    if nvidia in (None, "", ALL, "none", "void"):
        return sliced, ()
    native: tuple[str, ...] = _parsed(NVIDIA_VISIBLE, nvidia, _list)
    return sliced, tuple(gpu for gpu in native if gpu not in sliced)


def _parsed(source: str, text: str, parser: _Parser) -> Any:
    try:
        return parser(text)
    except AmountError as error:
        raise VariableError(f"{source}: {error.message}", error.remedy) from error
    except ValueError as error:
        raise VariableError(f"{source}: {text!r} is not {error}") from error


def _part(values: Mapping[str, str]) -> Part:
    unit = values.get(_UNIT, "GiB")
    if unit not in _UNITS:
        raise VariableError(f"{_UNIT}: {unit!r} is not GiB or MiB")
    container = _parsed(_MEMORY, values[_MEMORY], _count)
    card = _parsed(_CARD_MEMORY, values[_CARD_MEMORY], _count) if _CARD_MEMORY in values else None
    if card is not None and container > card:
        raise VariableError(
            f"{_MEMORY}: {container} is more than the {card} of {_CARD_MEMORY}",
            "a container has at most the whole card",
        )
    return Part(container, card, _UNITS[unit])


# Parsers: a ValueError says what the text should have been.


def _count(text: str) -> int:
    if _INTEGER.fullmatch(text) is None or int(text) == 0:
        raise ValueError("a whole number above 0")
    return int(text)


def _flag(text: str) -> bool:
    if text not in _FLAGS:
        raise ValueError("1, true, 0 or false")
    return _FLAGS[text]


def _list(text: str) -> tuple[str, ...]:
    if text == ALL:
        return (ALL,)
    gpus = tuple(dict.fromkeys(text.split(",")))
    if any(_GPU.fullmatch(gpu) is None for gpu in gpus):
        raise ValueError("a list of GPUs, such as 0,1 or GPU-<uuid>, or all")
    return gpus


def _name(text: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise ValueError("a name of at most 63 letters, digits and ._/@:-")
    return text


def _layer(text: str) -> str:
    if text not in ("driver", "shim"):
        raise ValueError("driver or shim")
    return text
