"""What a card holds for whom, asked outside all tenants: the simulated card's own books, or the real driver's NVML."""

from __future__ import annotations

import time
from typing import Final

from cgpu.adapters.nvml import NvmlNode
from cgpu.sim.machine import SimMachine

_POLL_SECONDS: Final = 0.002


class CardTruth:
    """Card 0. On a real one, processes that were on it before (a desktop's) are not seen."""

    def __init__(self, machine: SimMachine | None) -> None:
        """``machine`` None: the real card. Raises DriverError where there is none."""
        self._machine = machine
        self._nvml = None if machine else NvmlNode()
        on_it = self._nvml.processes(self._nvml.gpus()[0]) if self._nvml else ()
        self._strangers = {row.host_pid for row in on_it}

    def close(self) -> None:
        """Release NVML."""
        if self._nvml:
            self._nvml.close()

    @property
    def uuid(self) -> str:
        """The card's."""
        if self._machine:
            return self._machine.status().cards[0].uuid
        assert self._nvml
        return self._nvml.gpus()[0].uuid

    def by_pid(self) -> dict[int, int]:
        """Bytes that the card holds for each process. Ends the program where the driver does not say how many."""
        if self._machine:
            return {row.pid: row.memory_bytes for row in self._machine.status().cards[0].processes}
        assert self._nvml
        held: dict[int, int] = {}
        for row in self._nvml.processes(self._nvml.gpus()[0]):
            if row.host_pid in self._strangers:
                continue
            if row.memory_bytes is None:
                raise SystemExit("bench: this driver does not say how much memory a process holds")
            held[row.host_pid] = row.memory_bytes
        return held

    def total_bytes(self) -> int:
        """For everybody."""
        return sum(self.by_pid().values())

    def wait_released(self, pid: int, seconds: float) -> float:
        """Wait until the card holds nothing for a process, so long at most; the monotonic clock then."""
        deadline = time.monotonic() + seconds
        while self.by_pid().get(pid) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return time.monotonic()
