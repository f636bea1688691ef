"""``cgpu runtime`` as a user runs it, and what the real engines read from the files it writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cgpu.adapters.native import RUNTIME, native_library

SECONDS = 60


def needed(program: str) -> str:
    found = shutil.which(program)
    if found is None and os.environ.get("CI") != "true":
        pytest.skip(f"{program} is not installed")
    assert found, f"{program} is not installed"
    return found


def runtime(folder: Path, action: str, engine: str, *more: str, code: int = 0) -> str:
    where = ("--engine", engine, "--config", str(folder / "config.toml"), "--runtime-path", str(folder / "lib"))
    command = [sys.executable, "-m", "cgpu", "runtime", action, *where, *more]
    result = subprocess.run(command, text=True, capture_output=True, timeout=SECONDS)
    assert result.returncode == code, result.stderr
    return result.stdout


@pytest.mark.parametrize("engine", ["docker", "podman", "containerd"])
def test_it_is_installed_told_and_taken_away(engine: str, tmp_path: Path):
    real = ("--real-runtime", shutil.which("true") or "")
    assert "not installed" in runtime(tmp_path, "status", engine, code=1)
    assert "would write" in runtime(tmp_path, "install", engine, "--dry-run", *real)
    assert not list(tmp_path.iterdir())
    assert "to make" in runtime(tmp_path, "install", engine, *real)
    assert "nothing to do" in runtime(tmp_path, "install", engine)  # the runtime below stays the one chosen
    status = json.loads(runtime(tmp_path, "status", engine, "--json"))
    assert status["sound"]
    assert status["settings"]["runtime"] == real[1]
    assert (tmp_path / "lib" / "cgpu-runtime").read_bytes() == native_library(RUNTIME).read_bytes()
    runtime(tmp_path, "uninstall", engine)
    assert not list(tmp_path.iterdir())


def test_containerd_reads_the_class_and_keeps_runc(tmp_path: Path):
    containerd = needed("containerd")
    runtime(tmp_path, "install", "containerd", "--real-runtime", shutil.which("true") or "")
    command = [containerd, "--config", str(tmp_path / "config.toml"), "config", "dump"]
    dump = subprocess.run(command, text=True, capture_output=True, timeout=SECONDS, check=True).stdout
    assert f'BinaryName = "{tmp_path}/lib/cgpu-runtime"' in dump.replace("'", '"')
    assert "containerd.runtimes.cgpu]" in dump
    assert "containerd.runtimes.runc]" in dump
