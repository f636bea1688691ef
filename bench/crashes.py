"""Crashes: what ends, stands still, fills up or is damaged hurts nobody else. On a simulated card, with a real agent.

    python -m bench.crashes [--kills N] [--starts N] [--agents N] [--stops N]
                            [--memory-kills N] [--no-damage] [--seed N] [--json FILE] [--markdown FILE]

Exit code 1 when a survivor's call has hung, a tenant has held more than its quota, a dead process's charge has stayed
for more than a second, a neighbour has lost more than half of its calls, or a fault was not named.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import crash_host, crash_regions, crash_storms, crash_table
from bench.crash_table import Result
from bench.machine import compile_client, describe_machine


def storms(program: Path, options: argparse.Namespace) -> Iterator[Result]:
    """All storms, one after the other."""
    counted: tuple[tuple[Callable[[crash_storms.Field, int], Result | None], int], ...] = (
        (crash_storms.kills, options.kills),
        (crash_storms.starts, options.starts),
        (crash_storms.stops, options.stops),
        (crash_storms.agents, options.agents),
        (crash_host.out_of_memory, options.memory_kills),
    )
    with crash_storms.field(program, options.seed) as ground:
        for strike, count in counted:
            if count and (result := strike(ground, count)):
                yield result
        if not options.no_damage:
            yield from (crash_regions.damaged(ground, name) for name in crash_regions.DAMAGES)
            yield from (crash_regions.scribbled(ground, pattern) for pattern in crash_regions.PATTERNS)
        yield crash_storms.exact(ground)
    if not options.no_damage and os.geteuid() == 0:
        yield from crash_host.without_room(program)


def main() -> int:
    """Strike, print, write; 1 when anything is not as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, metavar="N")
    parser.add_argument("--starts", type=int, default=200, metavar="N")
    parser.add_argument("--agents", type=int, default=200, metavar="N")
    parser.add_argument("--stops", type=int, default=200, metavar="N")
    parser.add_argument("--memory-kills", type=int, default=20, metavar="N", help="by the kernel, where it lets us")
    parser.add_argument("--no-damage", action="store_true", help="leave regions and the agent's folder alone")
    parser.add_argument("--seed", type=int, default=20261128, metavar="N", help="of the instants")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table, as in docs/crashes.md")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended
    rows: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="cgpu-crashes-") as folder:
        program = compile_client("crash", Path(folder))
        for row in storms(program, options):
            print(crash_table.text(row), flush=True)
            rows.append(row)
    if options.markdown:
        options.markdown.write_text(crash_table.markdown(rows))
    if options.json:
        options.json.write_text(json.dumps(crash_table.document(rows, describe_machine("simulated")), indent=2) + "\n")
    wrong = [row.storm for row in rows if row.wrong()]
    print(f"\n{len(rows)} storms, {sum(row.events for row in rows)} events, {len(wrong)} storms not as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
