"""Run every benchmark and leave its figures, with the machine described, below bench/results.

python -m bench [--real]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = ("overhead", "shares")


def main() -> None:
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    for name in BENCHMARKS:
        print(f"== bench.{name}", flush=True)
        command = [sys.executable, "-m", f"bench.{name}", "--json", str(results / f"{name}.json")]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
