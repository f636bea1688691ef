"""What a process has of this machine: memory, and time of its processors; by the kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """In KiB. ``pss`` counts a page that n processes share as the n-th part of one."""

    rss: int
    pss: int

    def document(self) -> dict[str, float]:
        """In MiB, for results."""
        return {"rss_mib": round(self.rss / 1024, 1), "pss_mib": round(self.pss / 1024, 1)}


def memory_of(pid: int) -> Memory:
    """Of a process of this machine. Raises OSError when it is gone."""
    rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    values = {row[0].rstrip(":"): int(row[1]) for row in rows}
    return Memory(values["Rss"], values["Pss"])


def processor_ns(pid: int) -> int:
    """The processor time that all threads of a process have had which run now."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def processor_s(pid: int) -> float:
    """The processor time that a process has had, with that of threads that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pid_inside(pid: int) -> int:
    """What a process of this machine is called in its own pid namespace."""
    rows = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return next(int(row[-1]) for row in rows if row[0] == "NSpid:")
