"""What a quota costs the creation of a claim, in namespaces with few claims and with many.

python -m bench.quota --claims 10 1000 5000 --json FILE

Two webhooks and the API server are real. It runs as root, in namespaces of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.driver_node import control_plane
from bench.machine import describe_machine
from bench.memory import memory_of
from bench.percentiles import percentile
from tests.e2e import tools
from tests.e2e.kube.webhooks import PREPARE, Webhooks

_HOUR_S: Final = 3600.0


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.quota", description=__doc__.splitlines()[0])
    parser.add_argument("--claims", type=int, nargs="+", default=[10, 1000, 5000], metavar="N", help="in a namespace")
    parser.add_argument("--more", type=int, default=50, metavar="N", help="claims that are created then, and timed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    try:
        tools.root_with_namespaces()
        document = run(options.claims, options.more)
    except tools.MissingToolError as error:
        print(f"bench.quota: {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    for row in document["rows"]:
        print(f"{row['claims']:6} claims: one more in {row['median_ms']:.1f} ms (median), {row['p99_ms']:.1f} ms (p99)")
    print(f"webhooks: {document['webhooks']}")
    return 0


def run(sizes: Sequence[int], more: int) -> dict[str, Any]:
    """The figures. Raises MissingToolError."""
    with control_plane(prepare=PREPARE) as plane, Webhooks(plane) as webhooks:
        rows = []
        for claims in sizes:
            log = plane.host.folder / "quota.log"
            command = (sys.executable, "-m", "bench.quota_calls", f"--kubeconfig={plane.admin}")
            process = plane.host.start(
                *command, f"--claims={claims}", f"--more={more}", log=log, env=webhooks.environment
            )
            status, text = process.wait(_HOUR_S), log.read_text()
            assert status == 0, text[-3000:]
            log.unlink()
            times = json.loads(text)
            rows.append({"claims": claims, "median_ms": statistics.median(times), "p99_ms": percentile(times, 99)})
        memory = [memory_of(plane.host.child(process)).document() for process in webhooks.replicas.values()]
    machine = describe_machine("none") | {"load": list(os.getloadavg())}
    return {"machine": machine, "rows": rows, "webhooks": memory}


if __name__ == "__main__":
    sys.exit(main())
