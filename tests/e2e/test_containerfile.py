"""deploy/Containerfile makes an image that runs, over a Debian that debootstrap has made; no registry is asked."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from native import build
from tests.e2e import tools
from tests.e2e.conftest import needed

SUITE: Final = "bookworm"
BASE: Final = "localhost/debian:bookworm"
NAME: Final = "localhost/cgpu:test"
_BUILD_S: Final = 1200
_CACHE: Final = Path.home() / ".cache" / "cgpu-tests"
_TRUST: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_OF_THE_MACHINE: Final = ("Acquire::Check-", "Acquire::http")  # apt's settings of clocks and proxies
_TRUST_IN_BASE: Final = "etc/registry-ca.crt"  # a package of the image writes the usual file anew


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_BUILD_S)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stdout[-2000:]}{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="session")
def base() -> Path:
    """A tar of Debian's smallest installation, made once, which reaches the registries as this machine does."""
    with needed():
        tools.root_with_namespaces()
        program = tools.program("debootstrap")
    settings = [line for line in run("apt-config", "dump").splitlines() if line.startswith(_OF_THE_MACHINE)]
    trust = _TRUST.read_bytes() if _TRUST.exists() else b""
    digest = hashlib.sha256("\n".join(settings).encode() + trust).hexdigest()[:16]
    kept = _CACHE / f"debian-{SUITE}-{digest}.tar"
    if kept.exists():
        return kept
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
        root = Path(folder) / "root"
        run(program, "--variant=minbase", SUITE, str(root))
        shutil.rmtree(root / "var/cache/apt/archives")
        (root / "etc/apt/apt.conf.d/00machine").write_text("\n".join(settings) + "\n")
        if trust:
            (root / _TRUST_IN_BASE).write_bytes(trust)
            (root / "etc/pip.conf").write_text(f"[global]\ncert = /{_TRUST_IN_BASE}\n")
        made = Path(folder) / "base.tar"
        run("tar", "-C", str(root), "-cf", str(made), ".")
        made.rename(kept)
    return kept


def make_wheel(folder: Path) -> None:
    command = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder))
    subprocess.run(command, cwd=build.ROOT, check=True, capture_output=True, timeout=_BUILD_S)


class Images:
    """A store of images of our own, and buildah on it."""

    def __init__(self, folder: Path) -> None:
        with needed():
            program = tools.program("buildah")
        self._command = (program, f"--root={folder / 'storage'}", f"--runroot={folder / 'run'}")

    def __call__(self, *arguments: str) -> str:
        return run(*self._command, *arguments)


@pytest.fixture(scope="session")
def images(base: Path) -> Iterator[Images]:
    """With the image in it."""
    folder = Path(tempfile.mkdtemp(prefix="cgpu-images-"))
    made = Images(folder)
    try:
        container = made("from", "scratch").strip()
        made("add", "--quiet", container, str(base), "/")
        made("commit", "--quiet", "--rm", container, BASE)
        make_wheel(folder / "context/dist")
        made(
            "build", "--isolation=chroot", "--network=host", "--pull=never", "--layers=false", "--timestamp=0",
            f"--build-arg=BASE={BASE}", "--build-arg=REVISION=abc", f"--file={build.ROOT / 'deploy/Containerfile'}",
            f"--tag={NAME}", str(folder / "context"),
        )  # fmt: skip
        yield made
    finally:
        made("rm", "--all")
        made("rmi", "--all", "--force")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def container(images: Images) -> str:
    return images("from", "--pull=never", NAME).strip()


def inside(images: Images, container: str, *command: str) -> str:
    return images("run", "--isolation=chroot", container, "--", *command)


pytestmark = pytest.mark.timeout(2 * _BUILD_S)


def test_what_is_in_it_runs_as_a_user_without_rights(images: Images, container: str):
    version = tomllib.loads((build.ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version in inside(images, container, "cgpu", "--version")
    assert "--own-certificate-dir" in inside(images, container, "python3", "-m", "cgpu", "k8s", "webhook", "--help")
    assert inside(images, container, "id", "-u").strip() == "65534"
    assert "kind: DaemonSet" in inside(images, container, "cgpu", "k8s", "manifests")
    for module in ("cgpu.k8s.webhook", "cgpu.k8s.node", "cgpu.adapters.webhook_certificates"):
        inside(images, container, "python3", "-W", "error", "-c", f"import {module}")
    imports = "from cgpu.adapters import native as n; print(*map(n.native_library, (n.SHIM, n.RUNTIME)))"
    for library in inside(images, container, "python3", "-c", imports).split():
        inside(images, container, "test", "-r", library)


def test_neither_a_compiler_nor_an_installer_is_in_it(images: Images, container: str):
    mount = Path(images("mount", container).strip())
    for name in ("cc", "gcc", "pip", "pip3", "zig"):
        assert not [place for place in ("usr/bin", "opt/cgpu/bin") if (mount / place / name).exists()]
    assert not list(mount.glob("opt/cgpu/lib/python*/site-packages/ziglang"))
    assert not list((mount / "var/lib/apt/lists").iterdir())
    images("umount", container)


def test_its_labels_say_what_it_is(images: Images):
    document: dict[str, Any] = json.loads(images("inspect", "--type=image", NAME))
    config = document["OCIv1"]["config"]
    version = tomllib.loads((build.ROOT / "pyproject.toml").read_text())["project"]["version"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.revision"] == "abc"
    assert config["Entrypoint"] == ["python3", "-m", "cgpu"]
    assert config["User"] == "65534:65534"
