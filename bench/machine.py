"""What benchmarks share: the command, a client in C, a simulated machine, and a description of this one."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from native.build import NATIVE, nvidia_include

CGPU = [sys.executable, "-m", "cgpu"]
CLIENTS = Path(__file__).with_name("clients")


def compile_client(name: str, folder: Path) -> Path:
    """Build clients/NAME.c with zig, so that no compiler need be installed."""
    target = folder / name
    include = ["-isystem", str(nvidia_include()), f"-I{NATIVE / 'include'}"]
    command = [sys.executable, "-m", "ziglang", "cc", "-O2", *include, str(CLIENTS / f"{name}.c"), "-o", str(target)]
    subprocess.run([*command, "-ldl", "-pthread"], check=True)
    return target


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
