"""NVIDIA's wheels of older CUDA releases, which cannot be installed beside each other: unpacked into a cache.

Run as a program it fetches all of them and prints what it got.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

CACHE: Final = Path.home() / ".cache" / "cgpu-tests" / "wheels"
PIP_TIMEOUT_S: Final = 300
BINDINGS: Final = {"11": "cuda-bindings==11.8.7", "12": "cuda-bindings==12.9.10"}
"""The Python bindings of CUDA 11 and 12; those of 13 are installed."""
RUNTIMES: Final = {"11": "nvidia-cuda-runtime-cu11==11.8.89", "12": "nvidia-cuda-runtime-cu12==12.9.79"}
"""The same of libcudart."""


def fetch(requirement: str) -> Path | None:
    """The folder into which a package's wheel for this Python and machine is unpacked, or None.

    The first call downloads up to 9 MB; later calls, of other processes too, find the folder.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    name = requirement.replace("==", "-")
    folder, work = CACHE / name, CACHE / f"{name}.new"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        shutil.rmtree(work, ignore_errors=True)
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            "--only-binary=:all:", f"--dest={work / 'wheel'}", requirement,
        ]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=PIP_TIMEOUT_S)
            (wheel,) = (work / "wheel").glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(work / "unpacked")
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
        (work / "unpacked").rename(folder)
        shutil.rmtree(work)
        return folder


if __name__ == "__main__":
    for wanted in (*BINDINGS.values(), *RUNTIMES.values()):
        print(wanted, fetch(wanted) or "not to be had")
