"""The native arbiter: one thread per GPU that gives turns to tenants (``native/arbiter/arbiter.h``)."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cgpu.adapters.native import ARBITER, native_library
from cgpu.errors import RegionError, StateError
from cgpu.model.region_files import GRANTS, LOCKS, USAGE
from cgpu.model.tenant import Gpu, GpuPolicy, Policy, Share

_NS_PER_MS: Final = 1_000_000


class _Share(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_uint32),
        ("compute_percent", ctypes.c_uint32),
        ("compute_limit_percent", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


class _Settings(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("max_inst", ctypes.c_uint32),
        ("prio_ratio", ctypes.c_uint32),
        ("share_slots", ctypes.c_uint32),
        ("quantum_ns", ctypes.c_uint64),
    )


_COUNTERS: Final = ("tenants", "turns", "overruns", "wakeups", "charged_ns", "cpu_ns")


class _Counters(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in _COUNTERS)


class NativeArbiter:
    """Starts an arbiter for each GPU that has tenants. Calls come from the agent, under its lock."""

    def __init__(self) -> None:
        """Load the library. Raises StateError when it is not installed."""
        self._library = _load()
        self._threads: dict[str, ctypes.c_void_p] = {}  # by GPU UUID
        self._policies: dict[str, tuple[Policy, GpuPolicy]] = {}  # in force, with its settings
        self._ids: dict[tuple[str, Path], int] = {}
        self._next_id = 1

    def start(self) -> None:
        """Nothing: a GPU's thread starts with its first tenant."""

    def stop(self) -> None:
        """End all threads. The tenants then keep to their shares by themselves."""
        for thread in self._threads.values():
            self._library.cgpu_arbiter_stop(thread)
        self._threads, self._ids = {}, {}

    def add_tenant(self, gpu: Gpu, region: Path, row: int, share: Share) -> None:
        """Let a tenant take part on one GPU; idempotent. Raises RegionError for files that are no region."""
        if (gpu.uuid, region) in self._ids:
            return
        thread = self._thread(gpu)
        usage = os.open(region / USAGE, os.O_RDONLY | os.O_CLOEXEC)
        grants = os.open(region / GRANTS, os.O_RDWR | os.O_CLOEXEC)
        locks = os.open(region / LOCKS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            number = self._next_id
            _check(
                "add", self._library.cgpu_arbiter_add(thread, number, usage, grants, row, _native_share(share)), region
            )
            _check("watch", self._library.cgpu_arbiter_watch(thread, number, locks), region)
        finally:
            for descriptor in (usage, grants, locks):
                os.close(descriptor)
        self._next_id += 1
        self._ids[gpu.uuid, region] = number

    def update_tenant(self, gpu: Gpu, region: Path, share: Share) -> None:
        """Another weight, percentage or priority, from the next turn on."""
        number = self._ids.get((gpu.uuid, region))
        if number is not None:
            _check(
                "update",
                self._library.cgpu_arbiter_update(self._threads[gpu.uuid], number, _native_share(share)),
                region,
            )

    def remove_tenant(self, gpu: Gpu, region: Path) -> None:
        """The tenant leaves the GPU; idempotent. Its leftover processes run freely from then on."""
        number = self._ids.pop((gpu.uuid, region), None)
        if number is not None:
            _check("remove", self._library.cgpu_arbiter_remove(self._threads[gpu.uuid], number), region)

    def set_policy(self, gpu: Gpu, policy: Policy, settings: GpuPolicy) -> None:
        """How this GPU's time is divided from the next turn on."""
        if self._policies.get(gpu.uuid) == (policy, settings):
            return
        self._policies[gpu.uuid] = (policy, settings)
        if gpu.uuid in self._threads:
            native = _native_settings(policy, settings)
            _check("set_policy", self._library.cgpu_arbiter_set_policy(self._threads[gpu.uuid], native))

    def counters(self, gpu: Gpu) -> Mapping[str, int]:
        """Turns given, time charged and the like since the GPU's thread started; empty before."""
        if gpu.uuid not in self._threads:
            return {}
        counters = _Counters()
        self._library.cgpu_arbiter_counters(self._threads[gpu.uuid], ctypes.byref(counters))
        return {name: int(getattr(counters, name)) for name in _COUNTERS}

    def reclaim(self, region: Path, slots: Sequence[int], opened: tuple[int, int]) -> None:
        """Return what dead processes had charged; one that is not dead after all is left alone.

        ``opened``: descriptors of the region's usage and locks files, whose names may be gone. Takes a tenth of a
        second at most, whatever the tenant does to its file meanwhile. Raises RegionError.
        """
        usage, locks = (f"/proc/self/fd/{descriptor}".encode() for descriptor in opened)
        numbers = (ctypes.c_uint * len(slots))(*slots)
        result = self._library.cgpu_arbiter_reclaim(usage, locks, numbers, len(slots))
        if result != -errno.EAGAIN:
            _check("reclaim", -result, region)

    def _thread(self, gpu: Gpu) -> ctypes.c_void_p:
        if gpu.uuid not in self._threads:
            thread = ctypes.c_void_p()
            native = _native_settings(*self._policies.get(gpu.uuid, (Policy.PREEMPTIVE, GpuPolicy())))
            _check("start", self._library.cgpu_arbiter_start(native, ctypes.byref(thread)))
            self._threads[gpu.uuid] = thread
        return self._threads[gpu.uuid]


def _native_share(share: Share) -> Any:
    return ctypes.byref(
        _Share(share.weight, share.compute_percent or 0, share.compute_limit_percent or 0, share.priority)
    )


def _native_settings(policy: Policy, settings: GpuPolicy) -> Any:
    return ctypes.byref(
        _Settings(
            int(policy),
            settings.max_inst,
            settings.prio_ratio,
            settings.share_slots,
            settings.quantum_ms * _NS_PER_MS,
        )
    )


def _check(what: str, error: int, region: Path | None = None) -> None:
    if error == 0:
        return
    message = f"arbiter {what}: {os.strerror(error)}"
    raise RegionError(f"region {region}: {message}") if region is not None else StateError(message)


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(native_library(ARBITER)))
    handle, number, word = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32
    share = ctypes.c_void_p
    library.cgpu_arbiter_start.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
    library.cgpu_arbiter_stop.argtypes = (handle,)
    library.cgpu_arbiter_stop.restype = None
    library.cgpu_arbiter_add.argtypes = (handle, number, ctypes.c_int, ctypes.c_int, word, share)
    library.cgpu_arbiter_watch.argtypes = (handle, number, ctypes.c_int)
    library.cgpu_arbiter_remove.argtypes = (handle, number)
    library.cgpu_arbiter_update.argtypes = (handle, number, share)
    library.cgpu_arbiter_set_policy.argtypes = (handle, ctypes.c_void_p)
    library.cgpu_arbiter_counters.argtypes = (handle, ctypes.c_void_p)
    library.cgpu_arbiter_counters.restype = None
    slots = ctypes.POINTER(ctypes.c_uint)
    library.cgpu_arbiter_reclaim.argtypes = (ctypes.c_char_p, ctypes.c_char_p, slots, ctypes.c_uint)
    return library
