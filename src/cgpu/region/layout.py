"""The layout of the region in Python: the same structures and names as ``native/include/region.h``.

A test compares every offset and size with the C compiler's. Nothing is decided here; who writes
which field is said in the header.
"""

from __future__ import annotations

import ctypes
from typing import Final

CGPU_REGION_MAJOR: Final = 1
CGPU_REGION_MINOR: Final = 0
CGPU_GRANTS_MAGIC: Final = 0x53544E4152475543
CGPU_USAGE_MAGIC: Final = 0x3045474153555543

CGPU_MAX_GPUS: Final = 16
CGPU_MAX_SLOTS: Final = 1023
CGPU_NO_SLOT: Final = 1023
CGPU_MAX_EXPORTS: Final = 1024
CGPU_EXPORT_IMPORTERS: Final = 6
CGPU_UNIT_BYTES: Final = 256

CGPU_TENANT_REFUSE_MANAGED: Final = 0x1
CGPU_GPU_PRESENT: Final = 0x1

CGPU_GRANT_CLOSED: Final = 0
CGPU_GRANT_OPEN: Final = 1
CGPU_GRANT_FREE: Final = 2

CGPU_DEMAND_WANT: Final = 0x1
CGPU_DEMAND_BUSY: Final = 0x2
CGPU_DEMAND_HOLD: Final = 0x4

CGPU_SLOT_FREE: Final = 0
CGPU_SLOT_LIVE: Final = 1

CGPU_GATE_BUSY: Final = 0x1
CGPU_GATE_WANT: Final = 0x2

CGPU_ACCOUNT_SEQ_BITS: Final = 18
CGPU_ACCOUNT_SLOT_BITS: Final = 10
CGPU_CHARGE_SEQ_BITS: Final = 27

_u8 = ctypes.c_uint8
_u32 = ctypes.c_uint32
_u64 = ctypes.c_uint64
_char = ctypes.c_char


class GrantsHeader(ctypes.LittleEndianStructure):
    """``struct cgpu_grants_header``."""

    _fields_ = (
        ("magic", _u64),
        ("major", _u32),
        ("minor", _u32),
        ("size_bytes", _u64),
        ("generation", _u64),
        ("heartbeat_ns", _u64),
        ("flags", _u32),
        ("gpu_count", _u32),
        ("tenant_id", _char * 128),
        ("tenant_name", _char * 64),
        ("reserved", _u8 * 272),
    )


class GrantsGpu(ctypes.LittleEndianStructure):
    """``struct cgpu_grants_gpu``."""

    _fields_ = (
        ("uuid", _u8 * 16),
        ("flags", _u32),
        ("nvml_index", _u32),
        ("quota_bytes", _u64),
        ("overhead_bytes", _u64),
        ("context_bytes", _u64),
        ("policy", _u32),
        ("compute_percent", _u32),
        ("weight", _u32),
        ("priority", _u32),
        ("grant", _u32),
        ("contenders", _u32),
        ("grant_deadline_ns", _u64),
        ("quantum_ns", _u64),
        ("share_ppm", _u32),
        ("share_offset_ppm", _u32),
        ("share_window_ns", _u64),
        ("utilisation_percent", _u32),
        ("memory_layer", _u32),
        ("busy_ns", _u64),
        ("total_bytes", _u64),
        ("waited_ns", _u64),
        ("turns", _u64),
        ("preempted", _u64),
        ("preempting", _u64),
        ("compute_limit_percent", _u32),
        ("demand", _u32),
        ("queue_ns", _u64),
        ("expected_ns", _u64),
        ("reserved", _u8 * 72),
    )


class GrantsSurplus(ctypes.LittleEndianStructure):
    """``struct cgpu_grants_surplus``."""

    _fields_ = (("surplus_bytes", _u64), ("charge_seq", _u64))


class UsageHeader(ctypes.LittleEndianStructure):
    """``struct cgpu_usage_header``."""

    _fields_ = (
        ("magic", _u64),
        ("major", _u32),
        ("minor", _u32),
        ("size_bytes", _u64),
        ("doorbell", _u32),
        ("slots_seen", _u32),
        ("reserved", _u8 * 480),
    )


class UsageGpu(ctypes.LittleEndianStructure):
    """``struct cgpu_usage_gpu``."""

    _fields_ = (
        ("account", _u64),
        ("oom_count", _u64),
        ("peak_bytes", _u64),
        ("denied_count", _u64),
        ("reserved1", _u8 * 32),
        ("doorbell", _u32),
        ("reserved2", _u32),
        ("worked_ns", _u64),
        ("long_ns", _u64),
        ("reserved", _u8 * 40),
    )


class UsageSlotHeader(ctypes.LittleEndianStructure):
    """``struct cgpu_usage_slot_header``."""

    _fields_ = (
        ("state", _u32),
        ("pid", _u32),
        ("start_ticks", _u64),
        ("pid_namespace", _u64),
        ("claim", _u64),
        ("shim_minor", _u32),
        ("driver_version", _u32),
        ("comm", _char * 16),
        ("reserved", _u8 * 8),
    )


class UsageSlotGpu(ctypes.LittleEndianStructure):
    """``struct cgpu_usage_slot_gpu``."""

    _fields_ = (
        ("charge", _u64),
        ("intent", _u64),
        ("gate", _u32),
        ("contexts", _u32),
        ("explicit_bytes", _u64),
        ("managed_bytes", _u64),
        ("launches", _u64),
        ("drained_ns", _u64),
        ("waited_ns", _u64),
    )


class UsageExport(ctypes.LittleEndianStructure):
    """``struct cgpu_usage_export``."""

    _fields_ = (("key", _u64), ("owner", _u64), ("importer", _u64 * CGPU_EXPORT_IMPORTERS))


class Grants(ctypes.LittleEndianStructure):
    """``struct cgpu_grants``: the whole grants file."""

    _fields_ = (
        ("header", GrantsHeader),
        ("gpu", GrantsGpu * CGPU_MAX_GPUS),
        ("surplus", (GrantsSurplus * CGPU_MAX_GPUS) * CGPU_MAX_SLOTS),
    )


class UsageSlot(ctypes.LittleEndianStructure):
    """``struct cgpu_usage_slot``."""

    _fields_ = (("header", UsageSlotHeader), ("gpu", UsageSlotGpu * CGPU_MAX_GPUS))


class Usage(ctypes.LittleEndianStructure):
    """``struct cgpu_usage``: the whole usage file."""

    _fields_ = (
        ("header", UsageHeader),
        ("gpu", UsageGpu * CGPU_MAX_GPUS),
        ("slot", UsageSlot * CGPU_MAX_SLOTS),
        ("exports", UsageExport * CGPU_MAX_EXPORTS),
    )


STRUCTURES: Final[dict[str, type[ctypes.LittleEndianStructure]]] = {
    "cgpu_grants_header": GrantsHeader,
    "cgpu_grants_gpu": GrantsGpu,
    "cgpu_grants_surplus": GrantsSurplus,
    "cgpu_usage_header": UsageHeader,
    "cgpu_usage_gpu": UsageGpu,
    "cgpu_usage_slot_header": UsageSlotHeader,
    "cgpu_usage_slot_gpu": UsageSlotGpu,
    "cgpu_usage_export": UsageExport,
    "cgpu_grants": Grants,
    "cgpu_usage_slot": UsageSlot,
    "cgpu_usage": Usage,
}
