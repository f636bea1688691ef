"""NVIDIA's own user-space programs for tests: libcuda and nvidia-smi from Debian's non-free component.

They are fetched with a temporary apt source into a cache folder, unpacked, and loaded by path; nothing
is installed and nothing is kept in the repository. In 2026 the suites carry drivers 535 (bookworm, CUDA
12.2), 550 (trixie, 12.4) and 555 (experimental, 12.5). A suite that the archive no longer
carries, or a machine that has no Debian archive, gives None, and the tests that ask say so.

Run as a program it fetches every suite and prints what it got.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

SUITES = ("bookworm", "trixie", "experimental")
PACKAGES = ("libcuda1", "nvidia-smi")
DRIVER = (*PACKAGES, "libnvidia-ml1", "libnvidia-ptxjitcompiler1")  # what else a container is given of it
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "debian-nvidia"
APT_TIMEOUT_S = 300


def fetch(suite: str, packages: tuple[str, ...] = PACKAGES) -> Path | None:
    """The folder into which packages of a Debian suite, libcuda1 among them, are unpacked, or None.

    The first call downloads about 30 MB; later calls, of other processes too, find the folder.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    name = suite if packages == PACKAGES else "-".join((suite, *packages))
    root = CACHE / name
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.is_dir():
            return root
        work = CACHE / f"{name}.new"
        shutil.rmtree(work, ignore_errors=True)
        try:
            _download(suite, packages, work)
            _unpack(packages, work)
        except (OSError, subprocess.SubprocessError):
            return None
        (work / "root").rename(root)
        shutil.rmtree(work)
        return root


def nvidia_smi(root: Path) -> Path:
    """The nvidia-smi program below a folder that fetch returned."""
    return _one(root, "nvidia-smi")


def libcuda(root: Path) -> Path:
    """The versioned libcuda (libcuda.so.550.163.01) below a folder that fetch returned."""
    return _one(root, "libcuda.so.[0-9]*.*")


def version(root: Path) -> str:
    """The driver version, such as "550.163.01", from the file name of libcuda."""
    return libcuda(root).name.removeprefix("libcuda.so.")


def _one(root: Path, pattern: str) -> Path:
    files = [path for path in sorted(root.rglob(pattern)) if path.is_file() and not path.is_symlink()]
    if not files:
        raise FileNotFoundError(f"no {pattern} below {root}")
    return files[0]


def _download(suite: str, packages: tuple[str, ...], work: Path) -> None:
    for folder in ("sources", "lists/partial", "cache/archives/partial", "debs"):
        (work / folder).mkdir(parents=True)
    (work / "sources" / "nvidia.sources").write_text(_source(suite))
    options = [
        f"-oDir::Etc::sourcelist={os.devnull}",
        f"-oDir::Etc::sourceparts={work / 'sources'}",
        f"-oDir::State::lists={work / 'lists'}",
        f"-oDir::Cache={work / 'cache'}",
        "-oAPT::Sandbox::User=",  # the cache folder need not be readable for apt's own user
        "-qq",
    ]
    _run(["apt-get", *options, "update"], work)
    _run(["apt-get", *options, "download", *packages], work / "debs")


def _unpack(packages: tuple[str, ...], work: Path) -> None:
    archives = sorted((work / "debs").glob("*.deb"))
    if len(archives) < len(packages):
        raise FileNotFoundError(f"apt-get left {[path.name for path in archives]}")
    for archive in archives:
        _run(["dpkg-deb", "-x", str(archive), str(work / "root")], work)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=APT_TIMEOUT_S)


def _source(suite: str) -> str:
    """The machine's own Debian source (mirror, key) with another suite and component."""
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in path.read_text().split("\n\n"):
            lines = [line for line in stanza.splitlines() if line.strip() and not line.startswith("#")]
            fields = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            if fields.get("uris", "").rstrip("/").endswith("/debian"):
                fields |= {"suites": suite, "components": "non-free"}
                return "".join(f"{key.title()}: {value}\n" for key, value in fields.items())
    raise FileNotFoundError("this machine has no deb822 source of the Debian archive")


if __name__ == "__main__":
    for name in SUITES:
        found = fetch(name)
        print(name, version(found) if found else "not to be had")
