"""Creates and destroys containers by the thousand, 20 at a time on one card, and looks for what is left.

python -m bench.containers --runc 2000 --docker 200 --parallel 20 --pass-through 100

In each round as many containers as a card takes are started at once, one more has to be refused with the
documented error, and all are destroyed at once. The last is what cgpu-runtime costs containers that ask
nothing of it. Runs as root on a simulated GPU, in namespaces of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from bench.machine import describe_machine
from bench.pass_through import LIMIT_MS, PassThrough, pass_through
from tests.e2e import image, tools
from tests.e2e.engines import Docker, Engine, Runc
from tests.e2e.host import Host, eventually
from tests.e2e.node import Node
from tests.e2e.wanted import Result, Wanted

TENANTS_MAX: Final = 20
SETTLE_S: Final = 20.0
GROWTH_KIB: Final = 8192
"""More of the agent's memory would be a leak: 4 KiB for each of 2,000 containers."""
SHARED: Final = Path("/dev/shm")
CONTAINER: Final = Wanted(("sleep", "1000"), {"CGPU_MEMORY": "100MiB"})


@dataclass
class Figures:
    """What a run through one engine has shown. Times in seconds."""

    engine: str
    containers: int = 0
    refused: int = 0
    seconds: float = 0.0
    create_median: float = 0.0
    create_p99: float = 0.0
    destroy_median: float = 0.0
    destroy_p99: float = 0.0
    descriptors: tuple[int, int] = (0, 0)
    """Open in the agent, after the first round and after the last."""
    resident_kib: tuple[int, int] = (0, 0)
    """The agent's memory, likewise."""
    faults: list[str] = field(default_factory=list)
    """What went wrong: failures, an error that is not the documented one, things left behind."""


def main() -> int:
    """Run and print; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.containers", description=__doc__.splitlines()[0])
    parser.add_argument("--runc", type=int, default=2000, metavar="N", help="containers through cgpu-runtime and runc")
    parser.add_argument("--docker", type=int, default=200, metavar="N", help="containers through Docker")
    parser.add_argument("--parallel", type=int, default=TENANTS_MAX, metavar="N", help="at a time, at most 20")
    parser.add_argument("--pass-through", type=int, default=100, metavar="N", help="pairs of lives without a share")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    try:
        tools.root_with_namespaces()
        with Host() as host, Node(host) as node:
            cost = cost_of_passing(node, options.pass_through)
            figures = run(node, options.runc, options.docker, options.parallel)
    except tools.MissingToolError as error:
        print(f"bench.containers: {error}", file=sys.stderr)
        return 1
    if cost:
        print(
            f"without a share: {cost.through_median:.1f} ms a life, {cost.direct_median:.1f} ms through runc alone; "
            f"added {cost.added_median:.2f} ms ({cost.added_processor_median:.2f} ms of processor), {cost.pairs} pairs"
        )
    for row in figures:
        report(row)
    if options.json:
        document = {
            "machine": describe_machine("simulated T4"),
            "figures": [asdict(row) for row in figures],
            "pass_through": asdict(cost) if cost else None,
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    slow = cost is not None and cost.added_median > LIMIT_MS
    return 1 if slow or any(row.faults for row in figures) else 0


def cost_of_passing(node: Node, pairs: int) -> PassThrough | None:
    """What containers without a share pay; None for no pairs."""
    if not pairs:
        return None
    rootfs = image.make_rootfs(node.host.folder / "image-passes")
    return pass_through(node, Runc(node.host, node.runtime, rootfs, copies=False), pairs)


def run(node: Node, runc: int, docker: int, parallel: int) -> list[Figures]:
    """The churn through each engine that is asked for."""
    rootfs = image.make_rootfs(node.host.folder / "image")
    figures = []
    if runc:
        figures.append(churn(node, "runc", Runc(node.host, node.runtime, rootfs, copies=False), runc, parallel))
    if docker:
        tar = image.make_tar(rootfs, node.host.folder / "image.tar")
        with Docker(node.host, node.runtime, tar) as engine:
            figures.append(churn(node, "docker", engine, docker, parallel))
    return figures


def churn(node: Node, name: str, engine: Engine, containers: int, parallel: int) -> Figures:
    """Rounds of creating and destroying until there were so many containers."""
    figures = Figures(name)
    created: list[float] = []
    destroyed: list[float] = []
    engine.start("warm", CONTAINER)  # what the agent makes once, it keeps
    engine.remove("warm")
    eventually(node.nothing_left, "nothing is left of the first", SETTLE_S)
    before, agent, began = left(node), (0, 0), time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        while figures.containers < containers:
            names = [f"c{figures.containers + number}" for number in range(min(parallel, containers))]
            for result, seconds in pool.map(timed(lambda one: engine.start(one, CONTAINER)), names):
                created.append(seconds)
                if result.returncode != 0:
                    figures.faults.append(f"create: {result.stderr.strip()[-300:]}")
            one_more(node, engine, len(names), figures)
            for result, seconds in pool.map(timed(engine.remove), names):
                destroyed.append(seconds)
                if result.returncode != 0:
                    figures.faults.append(f"destroy: {result.stderr.strip()[-300:]}")
            figures.containers += len(names)
            if agent == (0, 0):  # its memory is that of so many at once from now on
                eventually(node.nothing_left, "nothing is left of the first round", SETTLE_S)
                agent = of_agent(node)
    figures.seconds = time.monotonic() - began
    figures.create_median, figures.create_p99 = spread(created)
    figures.destroy_median, figures.destroy_p99 = spread(destroyed)
    try:
        eventually(lambda: node.nothing_left() and left(node) <= before, "nothing is left", SETTLE_S)
        eventually(lambda: of_agent(node)[0] <= agent[0], "the agent has closed what it opened", SETTLE_S)
    except AssertionError as error:
        figures.faults.append(f"{error}: {sorted(left(node) - before)}, tenants {len(node.tenants())}")
    after = of_agent(node)
    figures.descriptors, figures.resident_kib = (agent[0], after[0]), (agent[1], after[1])
    if after[1] - agent[1] > GROWTH_KIB:
        figures.faults.append(f"the agent has grown from {agent[1]} to {after[1]} KiB")
    return figures


def one_more(node: Node, engine: Engine, running: int, figures: Figures) -> None:
    """With the card full, the next container has to be refused in the documented words."""
    if running < TENANTS_MAX:
        return
    refusal = engine.run("one-more", CONTAINER)
    engine.remove("one-more")
    uuid = node.machine.status().cards[0].uuid
    words = f"Error occurs when creating cGPU instance: unknown: GPU {uuid} already has {TENANTS_MAX} tenants"
    if refusal.returncode != 0 and words in refusal.stderr:
        figures.refused += 1
    else:
        figures.faults.append(f"the 21st: {refusal.returncode} {refusal.stderr.strip()[-300:]}")


def left(node: Node) -> set[str]:
    """What containers may leave on a host: files of the agent's, shared memory, mounts, cgroups."""
    files = {str(path) for folder in (node.settings.runtime_dir, SHARED) for path in folder.rglob("*")}
    files = {path for path in files if not path.endswith(("-wal", "-shm", "-journal", ".new"))}  # SQLite's, and writes
    mounts = set(node.host.run("cat", "/proc/mounts").stdout.splitlines())
    return files | mounts | node.host.engines_cgroups()


def of_agent(node: Node) -> tuple[int, int]:
    """The agent's open descriptors, and its resident memory in KiB."""
    assert node.agent is not None
    process = Path("/proc") / str(node.host.child(node.agent))
    status = (process / "status").read_text().splitlines()
    resident = next(line for line in status if line.startswith("VmRSS:"))
    return len(list((process / "fd").iterdir())), int(resident.split()[1])


def timed(call: Callable[[str], Result]) -> Callable[[str], tuple[Result, float]]:
    """The call, and how many seconds it took."""

    def measured(name: str) -> tuple[Result, float]:
        began = time.monotonic()
        result = call(name)
        return result, time.monotonic() - began

    return measured


def spread(seconds: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    return statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]


def report(row: Figures) -> None:
    """Print the figures of an engine."""
    print(
        f"{row.engine}: {row.containers} containers in {row.seconds:.0f} s; create {row.create_median:.3f} s "
        f"(99 %: {row.create_p99:.3f} s), destroy {row.destroy_median:.3f} s (99 %: {row.destroy_p99:.3f} s); "
        f"the 21st refused {row.refused} times; agent: {row.descriptors[0]} then {row.descriptors[1]} descriptors, "
        f"{row.resident_kib[0]} then {row.resident_kib[1]} KiB; {len(row.faults)} faults"
    )
    for fault in row.faults[:20]:
        print(f"  {fault}")


if __name__ == "__main__":
    sys.exit(main())
