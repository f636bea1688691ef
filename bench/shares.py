"""How a card's time is divided: asked against got, from the card's own truth.

    python -m bench.shares [--only PATTERN] [--fast] [--seconds 10] [--json FILE] [--picture FILE.svg]

The cells are those of bench/shares.toml; a full run takes some 35 minutes, 45 at most, --fast less than one.
Exit code 1 when a cell is outside its bound. On the simulated GPU only: on a real card the truth
needs the kernels' own time stamps (`make test-gpu`).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench import shares_picture, verdict
from bench.cells import Cell, Table, TableError, read_table, reference_rounds, rounds, settle_seconds
from bench.lane import Lane
from bench.machine import compile_client, describe_machine
from bench.measure import Measurement
from bench.verdict import Attempt, Result
from cgpu.sim.profiles import load_profile

DATA: Final = Path(__file__).with_name("shares.toml")
ROUND_SECONDS: Final = 0.4  # to change shares, begin and end


def planned_seconds(table: Table) -> float:
    """How long the table takes if nothing is measured twice."""
    cells = [
        settle_seconds(((cell.load, cell.tenants.count) for cell in together), table.settle_seconds)
        + table.window_seconds + ROUND_SECONDS
        for together in rounds(table.cells, table.lanes)
    ]  # fmt: skip
    references = [
        settle_seconds(((reference.load, reference.count) for reference in together), table.settle_seconds)
        + table.reference_seconds + ROUND_SECONDS
        for together in reference_rounds(table.cells, table.lanes)
    ]  # fmt: skip
    return sum(cells) + sum(references)


def measure(table: Table, program: Path, deadline: float) -> Iterator[Result]:
    """Measure all cells, each until it is within its bound or has had its attempts."""
    with ExitStack() as started:
        width = max(map(len, (*rounds(table.cells, table.lanes), *reference_rounds(table.cells, table.lanes))))
        lanes = [started.enter_context(Lane.temporary(program, table.profile)) for _ in range(width)]
        measurement = Measurement(table, lanes)
        measurement.driver(table.cells)
        ended = False
        for together in reference_rounds(table.cells, table.lanes):
            if together[0].tenants and not ended:
                end_bare(lanes)
                ended = True
            measurement.refer(together)
        end_bare(lanes)
        for cells in rounds(table.cells, table.lanes):
            for cell, attempt in zip(cells, measurement.measure(cells), strict=True):
                attempts = [attempt]
                while again(attempts, table.attempts) and time.monotonic() < deadline:
                    attempts.append(measure_alone(measurement, cell))
                references = {wanted: measurement.references[wanted] for wanted in cell.references}
                yield Result(cell, tuple(attempts), references)


def end_bare(lanes: list[Lane]) -> None:
    """What comes is measured without the clients that went round cgpu."""
    for lane in lanes:
        lane.end_bare()


def again(attempts: list[Attempt], most: int) -> bool:
    """Whether a cell is worth another attempt: what was refused is refused again."""
    last = attempts[-1]
    judged = last.window is not None or last.latency_us is not None
    return not last.ok and judged and len(attempts) < most


def measure_alone(measurement: Measurement, cell: Cell) -> Attempt:
    """Once more, with the host to itself, and the reference before and after: a host is not the same every minute."""
    reference = cell.reference
    if reference is None or not reference.tenants:
        return measurement.measure((cell,))[0]
    before = measurement.refer((reference,))[0]
    attempt = measurement.measure((cell,))[0]
    if attempt.window is None:
        return attempt
    measurement.references[reference] = (before + measurement.refer((reference,))[0]) / 2
    return verdict.judge(cell, attempt.window, measurement.references, attempt.stalled)


def document(table: Table, results: list[Result], seconds: float) -> dict[str, Any]:
    """The JSON document."""
    return {
        "machine": describe_machine(f"{load_profile(table.profile).card}, simulated GPU"),
        "simulated": True,
        "window_seconds": table.window_seconds,
        "machines_side_by_side": table.lanes,
        "took_seconds": seconds,
        "rows": [verdict.document(result) for result in results],
    }


def main() -> int:
    """Measure, print the table, write what is asked for."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended
    try:
        table = chosen(options)
    except TableError as error:
        raise SystemExit(f"bench.shares: {DATA.name}: {error}") from error
    if not table.cells:
        raise SystemExit("bench.shares: no cell has such a name; they are GROUP/SET/KERNEL/KIND/SYNC of shares.toml")
    began = time.monotonic()
    print(f"{len(table.cells)} cells on up to {table.lanes} simulated machines: {planned_seconds(table) / 60:.1f} min")
    print(verdict.HEADER + "   (simulated GPU)", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for result in measure(table, compile_client("load", Path(folder)), began + table.budget_seconds):
            results.append(result)
            print(verdict.row(result), flush=True)
    values = document(table, results, time.monotonic() - began)
    missed = [result.cell.name for result in results if not result.last.ok]
    print(f"{len(results)} cells, {len(missed)} outside their bound, {values['took_seconds'] / 60:.1f} min")
    if options.json:
        options.json.write_text(json.dumps(values, indent=2) + "\n")
    if options.picture:
        options.picture.write_text(shares_picture.draw(values, table.peers))
    return 1 if missed else 0


def arguments() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.shares", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="PATTERN", help="cells whose name holds it; * stands for anything")
    parser.add_argument("--fast", action="store_true", help="a few cells with short windows and wider bounds")
    parser.add_argument("--seconds", type=float, help="length of a window")
    parser.add_argument("--lanes", type=int, help="simulated machines side by side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw asked against got, as SVG")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> Table:
    """The table with what was asked for instead of the file's own."""
    table = read_table(DATA.read_text(), fast=options.fast)
    if options.only:
        table = table.only(options.only)
    return replace(
        table,
        window_seconds=options.seconds or table.window_seconds,
        lanes=options.lanes or table.lanes,
    )


if __name__ == "__main__":
    sys.exit(main())
