"""libcgpu_simctl.so through ctypes: the only way from Python into a simulated machine."""

from __future__ import annotations

import ctypes
import enum
import functools
from pathlib import Path
from typing import Final

from cgpu.adapters.native import SIMULATION_CONTROL, native_library
from cgpu.errors import StateError

_ERROR_BYTES: Final = 1024
_STATUS_BYTES: Final = 64 << 10


class Fault(enum.IntEnum):
    """Faults on demand; the values are those of ``enum sg_fault`` in native/simgpu/card.h."""

    OOM = 0
    """Value: how many of the next allocations fail for want of physical memory."""
    LOST = 1
    """Value: 1 falls off the bus (Xid 79, which ends all its contexts), 0 is back."""
    XID = 2
    """Value: the Xid's number."""
    SLOW = 3
    """Value: nanoseconds that each allocation, context creation and NVML query takes more."""


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(native_library(SIMULATION_CONTROL)))
    error = (ctypes.c_char_p, ctypes.c_size_t)
    path, card, number = ctypes.c_char_p, ctypes.c_int, ctypes.c_uint64
    library.simctl_create.argtypes = (path, path, ctypes.c_char_p, ctypes.c_int, *error)
    library.simctl_status_json.argtypes = (path, ctypes.c_char_p, ctypes.c_size_t, *error)
    library.simctl_fault.argtypes = (path, card, ctypes.c_int, number, *error)
    library.simctl_limit.argtypes = (path, card, ctypes.c_char_p, number, number, *error)
    return library


def _call(name: str, folder: Path, *arguments: object) -> int:
    cause = ctypes.create_string_buffer(_ERROR_BYTES)
    result = int(getattr(_library(), name)(bytes(folder), *arguments, cause, _ERROR_BYTES))
    if result < 0:
        raise StateError(f"simulated machine: {cause.value.decode(errors='replace')}")
    return result


def create(folder: Path, profile: Path, driver: str | None, cards: int | None) -> None:
    """Make a machine, unless the folder holds one."""
    _call("simctl_create", folder, bytes(profile), (driver or "").encode(), cards or 0)


def status_json(folder: Path) -> str:
    """The machine's state as a JSON document."""
    room = _STATUS_BYTES
    while True:
        text = ctypes.create_string_buffer(room)
        length = _call("simctl_status_json", folder, text, room)
        if length < room:
            return text.value.decode(errors="replace")
        room = 2 * length


def set_fault(folder: Path, card: int, fault: Fault, value: int) -> None:
    """Make a fault happen, or end it."""
    _call("simctl_fault", folder, card, int(fault), value)


def set_limit(folder: Path, card: int, cgroup: str, hard_bytes: int, soft_bytes: int) -> None:
    """Limit the device memory of a cgroup; 0 is none."""
    _call("simctl_limit", folder, card, cgroup.encode(), hard_bytes, soft_bytes)
