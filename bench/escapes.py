"""Every way to more of a card's memory than a share allows: tried, and compared with the card's own truth.

    python -m bench.escapes [--sim t4 | --real] [--no-containers] [--json FILE] [--markdown FILE]

Functions by every route under `cgpu run`; everything else there and, as root on a simulated card, in containers
without and with the driver's own limits. Exit code 1 when the card has held more than a share, or more than anybody
was charged, by a way that the library level has to stop. On the real card nobody else may use GPU 0.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path

from bench import escape_rows, escape_table, escape_tricks
from bench.escape_places import Bare, Programs, containers
from bench.escape_table import Attempt
from bench.machine import describe_machine
from tests.e2e.tools import MissingToolError


def under_cgpu_run(programs: Programs, profile: str | None) -> list[Attempt]:
    """All that is tried with the bare command."""
    with Bare(programs, profile) as place:
        rows = list(escape_rows.try_all(place, escape_rows.Routes(place)))
        return [*rows, *escape_tricks.try_all(place, programs, profile is not None)]


def in_containers(programs: Programs) -> list[Attempt]:
    """The tricks in containers. Raises MissingToolError."""
    with containers(programs) as places:
        return [attempt for place in places for attempt in escape_tricks.try_all(place, programs)]


def main() -> int:
    """Try, print, write; 1 when anything has escaped that must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--sim", default="t4", metavar="PROFILE")
    which.add_argument("--real", action="store_true", help="on the real card")
    parser.add_argument("--no-containers", action="store_true", help="under `cgpu run` only")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables, as in docs/escapes.md")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended
    profile = None if options.real else options.sim
    with tempfile.TemporaryDirectory(prefix="cgpu-escapes-") as folder:
        programs = Programs.make(Path(folder, "programs"), simulated=profile is not None)
        attempts = under_cgpu_run(programs, profile)
        if profile and not options.no_containers:
            try:
                attempts += in_containers(programs)
            except MissingToolError as error:
                print(f"bench.escapes: no containers: {error}", file=sys.stderr)
    print(escape_table.text(attempts))
    escaped = escape_table.escapes(attempts)
    listed = sum(row.escaped for row in attempts) - len(escaped)
    print(f"\n{len(attempts)} attempts, {len(escaped)} escapes at library level, {listed} below it")
    if options.markdown:
        options.markdown.write_text(escape_table.markdown(attempts))
    if options.json:
        machine = describe_machine("real" if options.real else "simulated")
        options.json.write_text(json.dumps(escape_table.document(attempts, machine), indent=2) + "\n")
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
