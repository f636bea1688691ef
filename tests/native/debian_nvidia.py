"""NVIDIA's own user-space programs for tests: libcuda and nvidia-smi from Debian's non-free component.

They are fetched with a temporary apt source into a cache folder, unpacked, and loaded by path; nothing
is installed and nothing is kept in the repository. In 2026 the suites carry drivers 535 (bookworm, CUDA
12.2), 550 (trixie, 12.4) and 555 (experimental, 12.5). A suite that the archive no longer
carries, or a machine that has no Debian archive, gives None, and the tests that ask say so.

Run as a program it fetches every suite and prints what it got.
"""

from __future__ import annotations

from pathlib import Path

from tests.native import debian_archive

SUITES = ("bookworm", "trixie", "experimental")
PACKAGES = ("libcuda1", "nvidia-smi")
DRIVER = (*PACKAGES, "libnvidia-ml1", "libnvidia-ptxjitcompiler1")  # what else a container is given of it
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "debian-nvidia"


def fetch(suite: str, packages: tuple[str, ...] = PACKAGES) -> Path | None:
    """The folder into which packages of a Debian suite, libcuda1 among them, are unpacked, or None.

    The first call downloads about 30 MB; later calls, of other processes too, find the folder.
    """
    name = suite if packages == PACKAGES else "-".join((suite, *packages))
    return debian_archive.fetch(CACHE / name, suite, packages, component="non-free")


def nvidia_smi(root: Path) -> Path:
    """The nvidia-smi program below a folder that fetch returned."""
    return _one(root, "nvidia-smi")


def libcuda(root: Path) -> Path:
    """The versioned libcuda (libcuda.so.550.163.01) below a folder that fetch returned."""
    return _one(root, "libcuda.so.[0-9]*.*")


def libnvidia_ml(root: Path) -> Path:
    """The versioned libnvidia-ml below a folder for which fetch was asked for its package."""
    return _one(root, "libnvidia-ml.so.[0-9]*.*")


def version(root: Path) -> str:
    """The driver version, such as "550.163.01", from the file name of libcuda."""
    return libcuda(root).name.removeprefix("libcuda.so.")


def _one(root: Path, pattern: str) -> Path:
    files = [path for path in sorted(root.rglob(pattern)) if path.is_file() and not path.is_symlink()]
    if not files:
        raise FileNotFoundError(f"no {pattern} below {root}")
    return files[0]


if __name__ == "__main__":
    for name in SUITES:
        found = fetch(name)
        print(name, version(found) if found else "not to be had")
