"""Instructions of one driver call, counted by valgrind: what the shim adds, whatever else the machine does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.native.idle_driver import NEVER_NS, IdleDriver

CALLS: Final = 4096
TIMEOUT_S: Final = 100


def valgrind() -> str:
    """The program; without it the test is skipped on a person's machine, and fails in CI."""
    found = shutil.which("valgrind")
    if found is None:
        reason = "no valgrind to count instructions with (Debian: apt-get install valgrind)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return found


@dataclass
class Counter:
    """Counts calls over the idle driver, bare or in a tenant."""

    driver: IdleDriver
    valgrind: str = field(default_factory=valgrind)
    bare: dict[str, float] = field(default_factory=dict)
    runs: int = 0

    def added(self, call: str, *, live: int = 0, deadline_ns: int = NEVER_NS) -> float:
        """Instructions that the shim adds to one call, in a slot that ends then, beside so many live blocks."""
        if call not in self.bare:
            self.bare[call] = self._per_call(call, 0, self.driver.bare())
        return self._per_call(call, live, self.driver.tenant(deadline_ns)) - self.bare[call]

    def _per_call(self, call: str, live: int, environment: dict[str, str]) -> float:
        self.runs += 1
        output = self.driver.folder / f"run-{self.runs}"
        counting = [
            self.valgrind, "--tool=callgrind", "--separate-threads=yes", "--toggle-collect=counted",
            f"--callgrind-out-file={output}",
        ]  # fmt: skip
        command = [*counting, *self.driver.command(call, CALLS, live)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert result.returncode == 0, result.stderr
        # A file per thread; all but that of the counted function say 0.
        return sum(total_of(path) for path in output.parent.glob(f"{output.name}-*")) / CALLS


def total_of(output: Path) -> int:
    """The instructions of one thread."""
    total = re.search(r"^totals: (\d+)$", output.read_text(), re.MULTILINE)
    return int(total[1]) if total else 0
