"""What the shim costs per driver call: the same client over the bare driver and as a tenant.

    python -m bench.overhead [--sim t4 | --real] [--rounds 5] [--json FILE]

Prints a table and, with --json, writes the figures with a description of the machine. On the
simulated GPU the figures of the driver itself mean nothing for a real card; the difference is the
shim's own cost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from bench.machine import CGPU, compile_client, describe_machine, simulated_env


def run(command: list[str], env: dict[str, str]) -> dict[str, float]:
    """The figures of one process of the client."""
    figures: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    )
    return figures


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Figure by figure."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


@contextlib.contextmanager
def a_tenant_that_waits(env: dict[str, str]) -> Iterator[None]:
    """Keeps an agent running: the simulated driver's calls cost more with every process on the machine."""
    command = [*CGPU, "run", "--memory", "256MiB", "--", "sh", "-c", "echo ready; read line"]
    with subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waiting:
        if waiting.stdout is None or waiting.stdout.readline() != "ready\n":
            raise SystemExit("overhead.py: no tenant could be started")
        yield
        waiting.communicate("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sim", default="t4", metavar="PROFILE")
    which.add_argument("--real", action="store_true", help="measure on the real card")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    spin = str(files("cgpu.sim") / "spin.ptx")
    with tempfile.TemporaryDirectory() as folder:
        client = [str(compile_client("overhead", Path(folder))), spin]
        env = dict(os.environ) if options.real else simulated_env(f"{folder}/machine", options.sim)
        run(client, env)
        with a_tenant_that_waits(env):
            # Taking turns, so that what drifts (the machine, the card's own state) meets both alike.
            pairs = [
                (run(client, env), run([*CGPU, "run", "--memory", "4GiB", "--", *client], env))
                for _ in range(options.rounds)
            ]
    bare, tenant = (median(list(runs)) for runs in zip(*pairs, strict=True))
    kind = "real" if options.real else "simulated"
    print(f"{'call':26}{'bare ns':>12}{'tenant ns':>12}{'added ns':>12}   ({kind} GPU)")
    for key, value in bare.items():
        print(f"{key.removesuffix('_ns'):26}{value:12.1f}{tenant[key]:12.1f}{tenant[key] - value:12.1f}")
    if options.json:
        options.json.write_text(
            json.dumps({"machine": describe_machine(kind), "bare": bare, "tenant": tenant}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
