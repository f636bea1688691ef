"""The truth about a simulated machine, as values. Times are nanoseconds, sizes bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """What one process has, or had, of one card."""

    pid: int
    """In the reader's PID namespace; 0 when it is not visible there, or has ended."""
    own_pid: int
    """As the process itself sees it."""
    start_ticks: int
    memory_bytes: int
    """What it holds, the memory of its contexts included."""
    busy_ns: int
    """Time on the compute engine."""
    copy_ns: int
    kernels: int
    live_contexts: int
    comm: str
    cgroup: str


@dataclass(frozen=True, slots=True)
class CgroupUse:
    """What the living and the ended processes of exactly one cgroup have, or had, of one card."""

    cgroup: str
    memory_bytes: int
    busy_ns: int
    copy_ns: int
    kernels: int
    hard_bytes: int
    """The limit on it and those below it; 0: none."""
    soft_bytes: int
    live_processes: int


@dataclass(frozen=True, slots=True)
class CardStatus:
    """One card."""

    index: int
    name: str
    uuid: str
    """As NVML writes it: ``GPU-`` and 36 characters."""
    total_bytes: int
    reserved_bytes: int
    """The driver's own part of ``total_bytes``; the rest is used or free."""
    used_bytes: int
    free_bytes: int
    busy_ns: int
    """Time in which some process was on the compute engine; the rest since the creation is idle."""
    idle_ns: int
    copy_ns: int
    utilisation_percent: int
    """Busy share of the last second."""
    xid_count: int
    last_xid: int
    lost: bool
    processes: tuple[ProcessUse, ...]
    finished: tuple[ProcessUse, ...]
    """Ended processes, newest first, as far as they are remembered (512 rows per machine)."""
    cgroups: tuple[CgroupUse, ...]


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """One simulated machine."""

    driver_version: str
    cuda_version: int
    """As ``cuDriverGetVersion`` gives it: 12040 is 12.4."""
    recoveries: int
    """How often the machine's lock was taken over from a process that died with it."""
    time_ns: int
    """CLOCK_MONOTONIC when this was told."""
    cards: tuple[CardStatus, ...]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the document of the native library."""
        values = json.loads(text)
        cards = tuple(_card(card) for card in values["cards"])
        return cls(**_known(cls, values, cards=cards))


def _known(kind: type, values: dict[str, Any], **replaced: object) -> dict[str, Any]:
    return {field.name: replaced.get(field.name, values.get(field.name)) for field in fields(kind)}


def _card(values: dict[str, Any]) -> CardStatus:
    rows: dict[str, object] = {
        "processes": tuple(ProcessUse(**row) for row in values["processes"]),
        "finished": tuple(ProcessUse(**row) for row in values["finished"]),
        "cgroups": tuple(CgroupUse(**row) for row in values["cgroups"]),
    }
    return CardStatus(**_known(CardStatus, values, **rows))
