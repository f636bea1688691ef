"""Packages of any suite and architecture of the Debian archive, unpacked into a cache folder.

They are fetched with a temporary apt source: nothing is installed and nothing is kept in the repository.
What the archive does not carry any more, or a machine without a Debian archive, gives None, and the tests
that ask say so.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "debian"
APT_TIMEOUT_S: Final = 300


def fetch(
    root: Path,
    suite: str,
    packages: Sequence[str],
    *,
    component: str = "main",
    architecture: str | None = None,
    only: str = "",
) -> Path | None:
    """Have packages of a suite unpacked below ``root``; that folder, or None.

    The first call downloads; later calls, of other processes too, find the folder. ``architecture`` is
    Debian's name of it, the machine's own when not given. ``only``: no more of the packages than this file.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name(f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.is_dir():
            return root
        work = root.with_name(f"{root.name}.new")
        shutil.rmtree(work, ignore_errors=True)
        try:
            _download(suite, component, architecture, packages, work)
            _unpack(packages, work, only)
        except (OSError, subprocess.SubprocessError):
            return None
        (work / "root").rename(root)
        shutil.rmtree(work)
        return root


def needed(root: Path | None, what: str) -> Path:
    """What was fetched. Skips where it is not to be had, and fails in continuous integration."""
    if root is not None:
        return root
    reason = f"{what} is not to be had from the Debian archive here (archive changed, or no network)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _download(suite: str, component: str, architecture: str | None, packages: Sequence[str], work: Path) -> None:
    for folder in ("sources", "lists/partial", "cache/archives/partial", "debs"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources" / "archive.sources").write_text(_source(suite, component))
    options = [
        f"-oDir::Etc::sourcelist={os.devnull}",
        f"-oDir::Etc::sourceparts={work / 'sources'}",
        f"-oDir::State::lists={work / 'lists'}",
        f"-oDir::State::status={work / 'status'}",
        f"-oDir::Cache={work / 'cache'}",
        "-oAPT::Sandbox::User=",  # the cache folder need not be readable for apt's own user
        "-oAcquire::Languages=none",
        "-qq",
    ]
    if architecture is not None:
        options += [f"-oAPT::Architecture={architecture}", f"-oAPT::Architectures={architecture}"]
    _run(["apt-get", *options, "update"], work)
    _run(["apt-get", *options, "download", *packages], work / "debs")


def _unpack(packages: Sequence[str], work: Path, only: str) -> None:
    archives = sorted((work / "debs").glob("*.deb"))
    if len(archives) < len(packages):
        raise FileNotFoundError(f"apt-get left {[path.name for path in archives]}")
    root = work / "root"
    root.mkdir()
    for archive in archives:
        content = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
        with content:
            command = ["tar", "-x", "-C", str(root), *([f"./{only}"] if only else [])]
            subprocess.run(command, stdin=content.stdout, check=True, capture_output=True, timeout=APT_TIMEOUT_S)
    for name in ("lib", "lib64"):  # that /lib is /usr/lib is the affair of a package that is not asked for
        if (root / "usr" / name).is_dir() and not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=APT_TIMEOUT_S)


def _source(suite: str, component: str) -> str:
    """The machine's own Debian source (mirror, key) with another suite and component."""
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in path.read_text().split("\n\n"):
            lines = [line for line in stanza.splitlines() if line.strip() and not line.startswith("#")]
            fields = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            if fields.get("uris", "").rstrip("/").endswith("/debian"):
                fields |= {"suites": suite, "components": component}
                return "".join(f"{key.title()}: {value}\n" for key, value in fields.items())
    raise FileNotFoundError("this machine has no deb822 source of the Debian archive")
