"""Run every benchmark and leave its figures, with the machine described, below bench/results.

python -m bench
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("escapes", "crashes", "overhead", "agent", "scale", "shares")


def main() -> int:
    """Run all of them; 1 when one of them has failed."""
    failed = []
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    for name in BENCHMARKS:
        print(f"== bench.{name}", flush=True)
        command = [sys.executable, "-m", f"bench.{name}", "--json", str(results / f"{name}.json")]
        if subprocess.run(command).returncode != 0:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
