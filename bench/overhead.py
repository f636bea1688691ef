"""What cgpu costs a program: single calls, starts, whole calls over the driver. README has the table.

    python -m bench.overhead [--sim t4 | --real] [--rounds 5] [--json FILE] [--markdown FILE]

Single calls are made over a driver that does next to nothing (tests/native/clients/idle_driver.c), and what counts
is the CPU time of the calling thread: what the shim adds is then nearly all that there is, and a machine that does
other things disturbs it little. Starts and whole calls run on the simulated GPU, or the real one, with an agent
running. On the simulated GPU the driver's own figures mean nothing for a real card; the difference is the shim's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from bench import calls, starts
from bench.calls import Figure
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


def markdown(figures: Sequence[Figure]) -> str:
    """The table."""
    rows = ["| | bare | as a tenant | added | at most |", "|---|---|---|---|---|"]
    for each in figures:
        bound = "" if each.most_added is None else f"{each.most_added:g} {each.unit}{'' if each.met else ': missed'}"
        values = (f"{value:.1f} {each.unit}" for value in (each.bare, each.tenant, each.added))
        rows.append(f"| {each.name} | {' | '.join(values)} | {bound} |")
    return "\n".join(rows) + "\n"


def over_the_driver(folder: Path, env: dict[str, str], rounds: int) -> list[Figure]:
    """Starts, and whole calls, with an agent running."""
    client = [str(compile_client("overhead", folder)), str(files("cgpu.sim") / "spin.ptx")]
    run(client, env)
    with starts.a_tenant_that_waits(env):
        # Taking turns, so that what drifts (the machine, the card's own state) meets both alike.
        pairs = [(run(client, env), run([*CGPU, "run", "--memory", "4GiB", "--", *client], env)) for _ in range(rounds)]
        bare, tenant = (median(list(runs)) for runs in zip(*pairs, strict=True))
        started = starts.measure(folder, env, (bare.pop("init_ns"), tenant.pop("init_ns")), rounds)
    whole = [Figure(f"whole {key.removesuffix('_ns')}", value, tenant[key], None) for key, value in bare.items()]
    return started + whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sim", default="t4", metavar="PROFILE")
    which.add_argument("--real", action="store_true", help="measure on the real card")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    kind = "real" if options.real else "simulated"
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        env = dict(os.environ) if options.real else simulated_env(f"{folder}/machine", options.sim)
        figures = calls.measure(Path(folder), options.rounds)
        figures += over_the_driver(Path(folder), env, options.rounds)
    text = markdown(figures)
    print(text, end="")
    if options.markdown:
        options.markdown.write_text(text)
    if options.json:
        machine = describe_machine(kind) | {"load_before": load_before}
        rows = [asdict(each) | {"added": each.added, "met": each.met} for each in figures]
        options.json.write_text(json.dumps({"machine": machine, "figures": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
