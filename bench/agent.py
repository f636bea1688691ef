"""What the agent itself takes: memory, and CPU time of all its threads, idle and beside twenty busy tenants.

    python -m bench.agent [--seconds 20] [--tenants 20] [--json FILE]

On the simulated GPU. Kernels of 1 ms, and no tenant waits for its own. Exit code 1 when a figure is above its
bound. On a machine that does other things the agent gets less time than it asks for: look at `load_before`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.lane import Lane
from bench.machine import compile_client, describe_machine
from bench.memory import memory_of, processor_ns

KERNEL_NS: Final = 1_000_000
SETTLE_SECONDS: Final = 5.0
PSS_MIB, IDLE_PERCENT, BUSY_PERCENT = 60.0, 0.2, 1.0


@dataclass(frozen=True)
class Use:
    """What a process took over a while."""

    name: str
    cpu_percent: float
    """Of one core, all threads."""
    pss_mib: float
    """At the end."""
    most_cpu_percent: float

    @property
    def met(self) -> bool:
        """Whether both are within their bounds."""
        return self.cpu_percent <= self.most_cpu_percent and self.pss_mib <= PSS_MIB


def watch(name: str, pid: int, seconds: float, most_cpu_percent: float) -> Use:
    """One stretch of time."""
    time.sleep(SETTLE_SECONDS)
    began_ns, before_ns = time.monotonic_ns(), processor_ns(pid)
    time.sleep(seconds)
    used_ns, elapsed_ns = processor_ns(pid) - before_ns, time.monotonic_ns() - began_ns
    return Use(name, 100 * used_ns / elapsed_ns, memory_of(pid).pss / 1024, most_cpu_percent)


def measure(tenants: int, seconds: float) -> list[Use]:
    """Idle without tenants and with them, and while they are busy."""
    with tempfile.TemporaryDirectory() as folder, Lane.temporary(compile_client("load", Path(folder)), "t4") as lane:
        uses = [watch("idle, no tenant", lane.agent_pid, seconds, IDLE_PERCENT)]
        loads = lane.tenants(tenants)
        uses.append(watch(f"idle, {tenants} tenants", lane.agent_pid, seconds, IDLE_PERCENT))
        for load in loads:
            load.run("plain", KERNEL_NS, 0)
        uses.append(watch(f"{tenants} busy tenants", lane.agent_pid, seconds, BUSY_PERCENT))
    return uses


def main() -> int:
    """Measure and print; 1 when something is above its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tenants", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    uses = measure(options.tenants, options.seconds)
    print("| agent | CPU of one core | at most | PSS | at most |\n|---|---|---|---|---|")
    for use in uses:
        cpu = f"{use.cpu_percent:.2f} % | {use.most_cpu_percent:g} %"
        memory = f"{use.pss_mib:.1f} MiB | {PSS_MIB:g} MiB"
        print(f"| {use.name} | {cpu} | {memory} |")
    if options.json:
        machine = describe_machine("simulated") | {"load_before": load_before}
        rows = [asdict(use) | {"met": use.met} for use in uses]
        options.json.write_text(json.dumps({"machine": machine, "uses": rows}, indent=2) + "\n")
    return 0 if all(use.met for use in uses) else 1


if __name__ == "__main__":
    sys.exit(main())
