"""What the shim adds to single calls: CPU time over a driver whose calls do next to nothing."""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgpu.adapters.native import SHIM, native_library
from tests.native.idle_driver import HOUR_NS, NEVER_NS, IdleDriver

TIMES: Final = 100_000
LAUNCHES: Final = 1_000_000  # 10 ns each: enough that being preempted once does not count
SHARED_TIMES: Final = 20_000
PROCESSES: Final = (1, 10, 100)
LAUNCH_NS, ALLOC_FREE_NS, INFO_NS = 8.0, 150.0, 60.0


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    name: str
    bare: float
    tenant: float
    most_added: float | None
    unit: str = "ns"

    @property
    def added(self) -> float:
        """What a tenant pays."""
        return self.tenant - self.bare

    @property
    def met(self) -> bool | None:
        """Whether it is within its bound, where it has one."""
        return None if self.most_added is None else self.added <= self.most_added

    def far_off(self, asked: float, noise: float) -> bool:
        """Whether it is ten times what is asked, beyond the part of the bare figure that differs by itself."""
        return self.added > 10 * asked + noise * self.bare


@dataclass(frozen=True)
class Call:
    """A call to measure."""

    name: str
    call: str
    most_added: float | None
    live: int = 0
    ends: bool = False


CALLS: Final = (
    Call("launch, default stream", "launch", LAUNCH_NS),
    Call("launch, stream of its own", "launch_stream", LAUNCH_NS),
    Call("launch, slot with an end", "launch", LAUNCH_NS, ends=True),
    Call("launch, 16 kernels in turn", "launch_mixed", LAUNCH_NS),
    Call("allocate and free", "alloc_free", ALLOC_FREE_NS),
    Call("the same, 1,000 live blocks", "alloc_free", ALLOC_FREE_NS, live=1_000),
    Call("the same, 100,000 live blocks", "alloc_free", ALLOC_FREE_NS, live=100_000),
    Call("cuMemGetInfo", "mem_get_info", INFO_NS),
)


def measure(folder: Path, rounds: int) -> list[Figure]:
    """Every call, bare and as a tenant in turn; medians of CPU time. Then with many processes at once."""
    driver = IdleDriver.create(folder, native_library(SHIM))
    return _each(driver, rounds) + [_shared(driver, processes) for processes in PROCESSES]


def each(folder: Path, rounds: int) -> list[Figure]:
    """Every call, by one process."""
    return _each(IdleDriver.create(folder, native_library(SHIM)), rounds)


def _each(driver: IdleDriver, rounds: int) -> list[Figure]:
    return [_one(driver, call, rounds) for call in CALLS]


def _one(driver: IdleDriver, call: Call, rounds: int) -> Figure:
    times = LAUNCHES if call.call.startswith("launch") else TIMES
    command = driver.command(call.call, times, call.live)
    pairs = []
    for _ in range(rounds):
        tenant = driver.tenant(time.monotonic_ns() + HOUR_NS if call.ends else NEVER_NS)
        pairs.append((_run(command, driver.bare()), _run(command, tenant)))
    bare, added = zip(*pairs, strict=True)
    return Figure(call.name, statistics.median(bare), statistics.median(added), call.most_added)


def _shared(driver: IdleDriver, processes: int) -> Figure:
    """So many processes at once, bare and then of one tenant: what they pay each, on average."""
    command = driver.command("alloc_free", SHARED_TIMES)
    bare, tenant = (_together(command, environment, processes) for environment in (driver.bare(), driver.tenant()))
    return Figure(f"allocate and free, {processes} processes at once", bare, tenant, ALLOC_FREE_NS)


def _together(command: list[str], environment: dict[str, str], processes: int) -> float:
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("overhead.py: a client failed")
    return statistics.fmean(map(float, said))


def _run(command: list[str], environment: dict[str, str]) -> float:
    return float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)
