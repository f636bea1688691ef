"""How long the node's driver takes to make a claim ready: one after the other, and many at once.

python -m bench.prepare --claims 200 --beside 40 --burst 100 --json FILE

The agent, its sockets and the API server are real; the cards are simulated, and there is no kubelet: this program
calls as one does. It runs as root, in namespaces of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any, Final

from bench.driver_node import DriverNode, control_plane
from bench.machine import describe_machine
from bench.memory import memory_of, pid_inside
from bench.percentiles import percentile
from bench.prepare_calls import TENANTS
from tests.e2e import tools

BOUND_MS: Final = 5.0
"""Of the median, one claim after the other."""


def main() -> int:
    """Measure and print; 1 when the median is above its bound."""
    parser = argparse.ArgumentParser(prog="python -m bench.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("--claims", type=int, default=200, metavar="N", help="one after the other")
    parser.add_argument("--beside", type=int, default=40, metavar="N", help="claims that stay prepared meanwhile")
    parser.add_argument("--burst", type=int, default=100, metavar="N", help="claims at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    try:
        tools.root_with_namespaces()
        document = run(options.claims, options.beside, options.burst)
    except tools.MissingToolError as error:
        print(f"bench.prepare: {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    for name in ("call", "get", "prepare", "prepare_processor", "unprepare", "burst_prepare", "burst_unprepare"):
        row = document[name]
        print(f"{name:18} median {row['median_ms']:7.2f} ms  p99 {row['p99_ms']:7.2f} ms  of {row['calls']}")
    print(f"agent: {document['agent']}; {document['burst_per_second']:.0f} claims a second in the burst")
    return 0 if document["prepare"]["median_ms"] <= BOUND_MS else 1


def run(claims: int, beside: int, burst: int) -> dict[str, Any]:
    """The figures. Raises MissingToolError."""
    cards = -(-(beside + max(burst, 1)) // TENANTS)
    with control_plane() as plane, DriverNode(plane.host, cards=cards, control_plane=plane) as node:
        assert node.agent
        agent = node.host.child(node.agent)
        told = node.host.run(
            sys.executable, "-m", "bench.prepare_calls", f"--kubeconfig={plane.admin}",
            f"--registration={node.registration}", f"--endpoint={node.socket}", f"--agent={pid_inside(agent)}",
            f"--claims={claims}", f"--beside={beside}", f"--burst={burst}",
            env=node.environment, check=True,
        ).stdout  # fmt: skip
        memory = memory_of(agent)
    times: dict[str, list[float]] = json.loads(told)
    (burst_ms,) = times.pop("burst")
    return {
        "machine": describe_machine("simulated T4") | {"load": list(os.getloadavg())},
        "beside": beside,
        "agent": memory.document(),
        "burst_per_second": burst / burst_ms * 1000,
        **{name: _row(values) for name, values in times.items()},
    }


def _row(values: list[float]) -> dict[str, float]:
    if not values:
        return {"calls": 0, "median_ms": 0.0, "p99_ms": 0.0}
    return {"calls": len(values), "median_ms": statistics.median(values), "p99_ms": percentile(values, 99)}


if __name__ == "__main__":
    sys.exit(main())
