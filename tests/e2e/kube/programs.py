"""Kubernetes' programs and Helm, built from their Go modules when first asked for.

    python -m tests.e2e.kube.programs [1.37]    build what is missing, and say so

They are kept outside the tree, below ~/.cache/cgpu-tests, each set in a folder that is named by what it
was built from; a second run finds it there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.tools import MissingToolError, containerd, go, root_with_namespaces

BUILD: Final = Path(__file__).with_name("build")
DEFAULT: Final = "1.37"
HELM: Final = "helm.sh/helm/v4/cmd/helm@v4.3.1"
KWOK: Final = "sigs.k8s.io/kwok/cmd/kwok@v0.8.0"
"""Plays kubelets; for the benchmark."""

_BUILD_TIMEOUT_S: Final = 3600
_CONTROL_PLANE: Final = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_CACHE: Final = Path.home() / ".cache" / "cgpu-tests"


@dataclass(frozen=True)
class Release:
    """A release of Kubernetes that the tests can run on."""

    version: str
    module_file: str  # in BUILD/kubernetes; its sums are beside it


RELEASES: Final[Mapping[str, Release]] = {
    "1.37": Release("v1.37.2", "go.mod"),
    "1.36": Release("v1.36.3", "go.1.36.mod"),
}


def kubernetes(minor: str) -> Path:
    """The folder with the control plane, kubelet and kube-proxy of a release, such as "1.37".

    Raises MissingToolError.
    """
    release = RELEASES[minor]
    sources = BUILD / "kubernetes"
    sums = sources / release.module_file.replace(".mod", ".sum")
    inputs = [sources / release.module_file, sums, *sorted(sources.glob("*/main.go"))]
    prefix = "-X k8s.io/component-base/version"
    major, _, number = minor.partition(".")
    stamp = (
        f"-s -w {prefix}.gitVersion={release.version} {prefix}.gitMajor={major} {prefix}.gitMinor={number}"
        f" {prefix}.gitTreeState=clean"
    )

    def build(folder: Path) -> None:
        for name in ("control-plane", "kubelet", "kube-proxy"):
            _go(
                ["build", f"-modfile={release.module_file}", "-ldflags", stamp, "-o", str(folder / name), f"./{name}"],
                sources,
                f"{name} of Kubernetes {release.version}",
            )
        for name in _CONTROL_PLANE:
            (folder / name).symlink_to("control-plane")

    return _kept(f"kubernetes-{release.version}", inputs, build)


def etcd() -> Path:
    """The program etcd. Raises MissingToolError."""
    sources = BUILD / "etcd"

    def build(folder: Path) -> None:
        _go(["build", "-ldflags", "-s -w", "-o", str(folder / "etcd"), "."], sources, "etcd")

    return _kept("etcd", [sources / name for name in ("go.mod", "go.sum", "main.go")], build) / "etcd"


def helm() -> Path:
    """The program Helm. Raises MissingToolError."""
    return _installed("helm", HELM)


def kwok() -> Path:
    """The program kwok. Raises MissingToolError."""
    return _installed("kwok", KWOK)


def _installed(name: str, module: str) -> Path:
    version = module.rpartition("@")[2]
    folder = _CACHE / f"{name}-{version}"
    if not (folder / name).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _go(["install", "-ldflags", "-s -w", module], folder, f"{name} {version}", GOBIN=str(folder))
    return folder / name


def _kept(name: str, inputs: list[Path], build: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()[:16]
    folder = _CACHE / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    _CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=_CACHE))
    try:
        build(unfinished)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _go(arguments: list[str], folder: Path, what: str, **environment: str) -> None:
    print(f"building {what}", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        result = subprocess.run(
            [go(), *arguments],
            cwd=folder,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-trimpath -buildvcs=false", **environment},
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:  # Go keeps what it has compiled
        raise MissingToolError(f"{what} is not built after {_BUILD_TIMEOUT_S} s: begin again, it goes on") from error
    if result.returncode != 0:
        raise MissingToolError(f"{what} cannot be built: {result.stderr[-1000:]}")
    print(f"built {what} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def main() -> None:
    """Build everything that the tests use, or say why not."""
    minor = sys.argv[1] if len(sys.argv) > 1 else DEFAULT
    if minor not in RELEASES:
        sys.exit(f"programs.py: Kubernetes {minor} is not known here; there are {', '.join(RELEASES)}")
    try:
        root_with_namespaces()
        for program in (etcd(), kubernetes(minor), helm(), kwok(), containerd()):
            print(program)
    except MissingToolError as error:  # the tests say what that means for them
        print(f"Kubernetes is not built: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
