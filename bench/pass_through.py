"""What cgpu-runtime costs a container that asks nothing of it: whole lives through runc alone and through cgpu-runtime.

Part of `python -m bench.containers`. By itself it lives through the containers of one bundle, in the namespaces in
which it is called: python -m bench.pass_through BUNDLE STATE PAIRS RUNC CGPU-RUNTIME FILE.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.engines import Runc
from tests.e2e.host import eventually
from tests.e2e.node import Node
from tests.e2e.tools import program
from tests.e2e.wanted import Wanted

LIMIT_MS: Final = 5.0
_SOURCE: Final = Path(__file__).parents[1]
_SECONDS: Final = 900.0


@dataclass(frozen=True)
class PassThrough:
    """Milliseconds of a life: create, start, state, kill, delete."""

    pairs: int
    direct_median: float
    through_median: float
    added_median: float
    """Of the differences of pairs."""
    added_processor_median: float
    """The same of processor time, which other work on the machine disturbs less."""


def pass_through(node: Node, runc: Runc, pairs: int) -> PassThrough:
    """Measure, on the node's host."""
    bundle = runc.bundle("passes", Wanted(("sleep", "1000"), {"VARIABLE": "1"}))
    log, out = node.host.folder / "lives.log", node.host.folder / "lives.json"
    arguments = [bundle, node.host.folder / "runc", pairs, program("runc"), runc.runtime, out]
    environment = {**node.environment, "PYTHONPATH": f"{_SOURCE}:{_SOURCE / 'src'}"}
    process = node.host.start(
        sys.executable, "-m", "bench.pass_through", *map(str, arguments), log=log, env=environment
    )
    eventually(lambda: process.poll() is not None, "all containers have lived", _SECONDS)
    if process.returncode != 0:
        raise RuntimeError(f"bench.pass_through: {log.read_text()[-500:]}")
    rows = json.loads(out.read_text())
    direct, through = ([row[name] for row in rows] for name in ("direct", "through"))
    added = [[b - a for a, b in zip(*lives, strict=True)] for lives in zip(direct, through, strict=True)]
    return PassThrough(
        pairs=pairs,
        direct_median=statistics.median(wall for wall, _ in direct),
        through_median=statistics.median(wall for wall, _ in through),
        added_median=statistics.median(wall for wall, _ in added),
        added_processor_median=statistics.median(processor for _, processor in added),
    )


def live(runtime: str, state: str, bundle: str) -> tuple[float, float]:
    """One container's life; milliseconds of the clock and of the processor."""
    calls = (
        ("create", "--bundle", bundle, "passes"), ("start", "passes"), ("state", "passes"), ("kill", "passes", "KILL"),
        ("delete", "--force", "passes"),
    )  # fmt: skip
    began, before = time.perf_counter(), _processor()
    for call in calls:
        subprocess.run(
            [runtime, f"--root={state}", *call], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
    return (time.perf_counter() - began) * 1000, (_processor() - before) * 1000


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Live through the pairs and write them as JSON; which of a pair comes first, changes."""
    bundle, state, pairs, direct, through, out = sys.argv[1:]
    rows = []
    for number in range(int(pairs)):
        order = [("direct", direct), ("through", through)]
        rows.append({name: live(runtime, state, bundle) for name, runtime in (order if number % 2 else order[::-1])})
    Path(out).write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
