"""Fuzz for as long as wanted: ``python -m tests.fuzz --seconds 600 [TARGET...]``.

Targets of C are called by their name (``image``), those of Python with ``py-`` before it (``py-log``). Findings go to
``build/fuzz/crashes``; a finding that is mended becomes a file below ``tests/fuzz/corpus``. The exit status is 1 when
there are any.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from native import build
from tests.fuzz import c_fuzzer, python_fuzzer
from tests.fuzz.outcome import Outcome
from tests.fuzz.python_targets import TARGETS

_PYTHON = {f"py-{target.name}": target for target in TARGETS}
_CRASHES = build.ROOT / "build" / "fuzz" / "crashes"


def run(name: str, seconds: float, seed: int) -> Outcome:
    """One target, for that long."""
    crashes = _CRASHES / name
    if name in _PYTHON:
        return python_fuzzer.fuzz(_PYTHON[name], seconds, crashes, seed=seed)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        program = c_fuzzer.build_target(name, Path(folder))
        return c_fuzzer.fuzz(name, program, seconds, crashes, seed=seed, grow=True)


def main() -> int:
    """Parse the command line and fuzz one target after the other."""
    known = [*c_fuzzer.TARGETS, *_PYTHON]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default: 60)")
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF, help="default: another each time")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(known)}; default: all")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(known):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    found = False
    for name in options.targets or known:
        outcome = run(name, options.seconds, options.seed)
        print(f"{outcome} (seed {options.seed})", flush=True)
        found = found or outcome.crash is not None
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
