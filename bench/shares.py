"""How a card's time is divided: asked against got, from the card's own truth.

    python -m bench.shares [--sim t4] [--seconds 10] [--json FILE]

Backlogged tenants with equal weights and 1:2:4, kernels of 0.1 ms and 5 ms. Simulated only: on a
real card the truth needs the kernels' own time stamps (`make test-gpu`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.machine import CGPU, describe_machine, simulated_env

CLIENT = [sys.executable, "-m", "cgpu.sim.demo_client", "spin", "--kernel-ns"]
WARM_UP_SECONDS = 2.0  # costs are learnt, the first turns taken


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    weights: tuple[int, ...]
    kernel_ns: int

    @property
    def name(self) -> str:
        """Such as ``1:2:4, 5 ms``."""
        equal = len(set(self.weights)) == 1
        weights = f"{len(self.weights)} equal" if equal else ":".join(map(str, self.weights))
        return f"{weights}, {self.kernel_ns / 1e6:g} ms"


CELLS = [Cell(weights, kernel) for weights in ((1, 1), (1, 2, 4), (1,) * 8) for kernel in (100_000, 5_000_000)]


@contextlib.contextmanager
def tenants(cell: Cell, env: dict[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start the cell's tenants, wait until all hold memory, and end them afterwards."""
    started = [
        subprocess.Popen(
            [*CGPU, "run", "--memory", "512MiB", "--weight", str(weight), "--", *CLIENT, str(cell.kernel_ns)],
            env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for weight in cell.weights
    ]  # fmt: skip
    try:
        for process in started:
            if process.stdout is None or "ready" not in process.stdout.readline():
                raise SystemExit(f"shares.py: a tenant of {cell.name} did not start")
        yield started
    finally:
        for process in started:
            process.communicate()


def busy_ns(env: dict[str, str]) -> tuple[int, int, dict[int, int]]:
    """The card's clock, its busy time, and that of each process."""
    text = subprocess.run(
        [*CGPU, "sim", "status", "--json"], check=True, capture_output=True, text=True, env=env
    ).stdout
    status = json.loads(text)
    card = status["cards"][0]
    return status["time_ns"], card["busy_ns"], {row["pid"]: row["busy_ns"] for row in card["processes"]}


def measure(cell: Cell, seconds: float, env: dict[str, str]) -> dict[str, object]:
    """Shares of the card's busy time in percent, asked and got."""
    with tenants(cell, env) as started:
        time.sleep(WARM_UP_SECONDS)
        start_ns, start_busy, start = busy_ns(env)
        time.sleep(seconds)
        end_ns, end_busy, end = busy_ns(env)
    got = [end[process.pid] - start[process.pid] for process in started]
    asked = [100 * weight / sum(cell.weights) for weight in cell.weights]
    shares = [100 * part / sum(got) for part in got]
    return {
        "cell": cell.name,
        "asked_percent": asked,
        "got_percent": shares,
        "worst_error_points": max(abs(a - g) for a, g in zip(asked, shares, strict=True)),
        "busy_percent": 100 * (end_busy - start_busy) / (end_ns - start_ns),
    }


def main() -> None:
    """Measure every cell and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sim", default="t4", metavar="PROFILE")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{'tenants, kernel':18}{'worst error':>14}{'card busy':>12}   (simulated GPU)")
    with tempfile.TemporaryDirectory() as folder:
        env = simulated_env(f"{folder}/machine", options.sim)
        for cell in CELLS:
            row = measure(cell, options.seconds, env)
            rows.append({**row, **asdict(cell)})
            print(f"{cell.name:18}{row['worst_error_points']:>11.2f} pp{row['busy_percent']:>10.1f} %", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine("simulated"), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
