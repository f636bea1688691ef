"""A process of a tenant as its region shows it, played by the test: what the shim would write."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from pathlib import Path

from cgpu.model.region_files import LOCKS, USAGE
from cgpu.region import layout
from cgpu.region.words import Account, Charge

_F_OFD_SETLK = 37
_FLOCK = struct.Struct("hhqqi4x")


class TenantProcess:
    """Owns one slot of a region: holds its lock, and charges memory by the protocol of ``region.h``."""

    def __init__(self, region: Path, slot: int, pid: int, start_ticks: int, pid_namespace: int = 4026531836) -> None:
        self.slot = slot
        self._lock: int | None = os.open(region / LOCKS, os.O_RDWR)
        fcntl.fcntl(self._lock, _F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, slot, 1, 0))
        with (region / USAGE).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(layout.Usage))
        self.usage = layout.Usage.from_buffer(self._map)
        self.usage.header.slots_seen = max(self.usage.header.slots_seen, slot + 1)
        header = self.usage.slot[slot].header
        header.pid, header.start_ticks, header.pid_namespace = pid, start_ticks, pid_namespace
        header.comm = b"python"
        header.claim += 1
        header.state = layout.CGPU_SLOT_LIVE

    def charge(self, size_bytes: int, row: int = 0, *, complete: bool = True, explicit: bool = True) -> None:
        """Charge, or return when negative. ``complete=False`` stops where the account has named the operation."""
        on_gpu = self.usage.slot[self.slot].gpu[row]
        units = size_bytes // layout.CGPU_UNIT_BYTES
        charge = Charge.unpack(on_gpu.charge)
        on_gpu.intent = Charge(units, charge.seq + 1).pack()
        account = Account.unpack(self.usage.gpu[row].account)
        self.usage.gpu[row].account = Account(account.used_units + units, self.slot, charge.seq + 1).pack()
        if complete:
            on_gpu.charge = Charge(charge.units + units, charge.seq + 1).pack()
        if explicit:
            on_gpu.explicit_bytes += size_bytes

    def context(self, count: int = 1, row: int = 0) -> None:
        """Say how many contexts live."""
        self.usage.slot[self.slot].gpu[row].contexts = count

    def die(self) -> None:
        """Let the lock go, as the kernel does at the end of a process; the slot's words stay."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def close(self) -> None:
        """End, and unmap."""
        self.die()
        del self.usage
        self._map.close()
