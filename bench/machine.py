"""What benchmarks share: the command, a simulated machine to run on, and a description of this one."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

CGPU = [sys.executable, "-m", "cgpu"]


def simulated_env(state: str, profile: str) -> dict[str, str]:
    """Make a simulated machine; the environment in which a client finds it, as `cgpu sim env` prints it."""
    subprocess.run([*CGPU, "sim", "create", "--state", state, profile], check=True, capture_output=True)
    command = [*CGPU, "sim", "env", "--state", state, "--json"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {**os.environ, **json.loads(text)}


def describe_machine(gpu: str) -> dict[str, object]:
    """The machine that figures were taken on."""
    return {
        "system": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "gpu": gpu,
    }
