"""The image of cgpu, from this source tree, this Python and its packages; no network is asked.

What `pip install 'cgpu[kubernetes]'` puts into an image is copied from the tests' environment, and the
interpreter with its libraries from the machine.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cgpu
from native import build
from tests.e2e.kube import images
from tests.e2e.tools import program

NAME: Final = "docker.io/local/cgpu:1"
_EXTRA: Final = "kubernetes"
_PACKAGES: Final = "opt/cgpu"
_NOT_COPIED: Final = shutil.ignore_patterns("__pycache__", "test", "tests", "idlelib", "tkinter", "ensurepip", "*.a")
_LIBRARY: Final = re.compile(r"(/\S+\.so\S*)")


def make(folder: Path) -> Path:
    """The image as an archive in that folder."""
    rootfs = folder / "cgpu"
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "run", "var", "root", _PACKAGES):
        (rootfs / name).mkdir(parents=True)
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / "var/run").symlink_to("/run")
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    (rootfs / "etc/group").write_text("root:x:0:\nnobody:x:65534:\n")
    shutil.copy(program("busybox"), rootfs / "bin/busybox")
    (rootfs / "bin/sh").symlink_to("busybox")
    _copy_interpreter(rootfs)
    _copy_packages(rootfs / _PACKAGES)
    _copy_libraries(rootfs)
    return images.archive(
        rootfs,
        NAME,
        folder / "cgpu.tar",
        environment={"PATH": "/bin", "PYTHONPATH": f"/{_PACKAGES}", "PYTHONDONTWRITEBYTECODE": "1"},
        entrypoint=["/bin/python3", "-m", "cgpu"],
    )


def _copy_interpreter(rootfs: Path) -> None:
    executable = Path(sys.executable).resolve()
    standard = Path(sysconfig.get_path("stdlib"))
    for path in (executable, standard):
        (rootfs / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(executable, rootfs / executable.relative_to("/"))
    ignored = shutil.ignore_patterns("site-packages", "dist-packages")
    shutil.copytree(
        standard,
        rootfs / standard.relative_to("/"),
        symlinks=True,
        ignore=lambda place, names: {*_NOT_COPIED(place, names), *ignored(place, names)},
    )
    (rootfs / "bin/python3").symlink_to(executable)


def _copy_packages(target: Path) -> None:
    shutil.copytree(Path(cgpu.__file__).parent, target / "cgpu", ignore=_NOT_COPIED)
    for name in _needed():
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if file.parts[0] == ".." or "__pycache__" in file.parts or not source.is_file():
                continue
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / file)


def _needed() -> list[str]:
    """The packages that cgpu needs in a cluster, and what those need."""
    project = tomllib.loads((build.ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][_EXTRA]]
    found: dict[str, None] = {}
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        if name not in found:
            found[name] = None
            wanted += _required(name, requirement.extras)
    return list(found)


def _required(name: str, extras: Iterable[str]) -> Iterator[str]:
    for text in importlib.metadata.distribution(name).requires or ():
        marker = Requirement(text).marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield text


def _copy_libraries(rootfs: Path) -> None:
    """What the dynamic linker loads for the interpreter and for every library that is there, to the same places."""
    objects = [path for path in rootfs.rglob("*") if path.is_file() and not path.is_symlink() and _is_dynamic(path)]
    listed = subprocess.run(["ldd", *map(str, objects)], capture_output=True, text=True, check=False).stdout
    for text in set(_LIBRARY.findall(listed)):
        target = rootfs / text[1:]
        if not text.startswith(str(rootfs)) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(text).resolve(), target)


def _is_dynamic(path: Path) -> bool:
    named = ".so" in path.name or os.access(path, os.X_OK)
    with path.open("rb") as file:
        return named and file.read(4) == b"\x7fELF"
