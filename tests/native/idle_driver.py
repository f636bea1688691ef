"""A driver whose calls do next to nothing (clients/idle_driver.c), a client that makes one call many times
(clients/count_calls.c), and tenants whose slot is open and stays so: what the shim adds is all that there is.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.native.c_compiler import compile_c
from tests.native.memory_tenant import TenantRegion

CLIENTS: Final = Path(__file__).with_name("clients")
QUOTA_BYTES: Final = 1 << 42
CARD_UUID: Final = f"GPU-{uuid.UUID(bytes=bytes([1] * 16))}"
HOUR_NS: Final = 3600 * 10**9
NEVER_NS: Final = 2**64 - 1
QUANTUM_NS: Final = 20_000_000
OPEN: Final = 1


@dataclass
class IdleDriver:
    """The driver and its client, compiled, and the tenants' folders."""

    folder: Path
    shim: Path
    tenants: int = 0

    @classmethod
    def create(cls, folder: Path, shim: Path) -> Self:
        """Compile both."""
        compile_c(folder / "count_calls", [CLIENTS / "count_calls.c"], flags=["-O2"])
        flags = ["-O2", "-Wl,-soname,libcuda.so.1"]
        compile_c(folder / "libcuda.so.1", [CLIENTS / "idle_driver.c"], flags=flags, shared=True)
        return cls(folder, shim)

    def command(self, call: str, times: int, live: int = 0) -> list[str]:
        """What makes the call so many times beside so many live blocks, and prints its CPU time in nanoseconds."""
        return [str(self.folder / "count_calls"), call, str(times), str(live)]

    def bare(self) -> dict[str, str]:
        """The environment of a process of no tenant."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")}
        return inherited | {"LD_LIBRARY_PATH": str(self.folder)}

    def tenant(self, deadline_ns: int = NEVER_NS) -> dict[str, str]:
        """The environment of the processes of a new tenant, in a slot that ends then."""
        self.tenants += 1
        region = TenantRegion.create(self.folder / f"tenant-{self.tenants}", CARD_UUID, QUOTA_BYTES)
        region.grants.header.heartbeat_ns = time.monotonic_ns() + HOUR_NS
        row = region.grants.gpu[0]
        row.quantum_ns, row.queue_ns, row.contenders = QUANTUM_NS, QUANTUM_NS // 2, 1
        row.grant_deadline_ns = deadline_ns
        row.grant = 1 << 2 | OPEN
        return self.bare() | {"LD_PRELOAD": str(self.shim), "CGPU_REGION": str(region.folder)}
