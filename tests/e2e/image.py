"""A container's root file system from the machine's own files: busybox, the C library, our clients."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from cgpu.adapters.native import SHIM, SIMULATED_CUDA, SIMULATED_NVML, native_library
from native import build
from tests.e2e.tools import program
from tests.e2e.wanted import Volume
from tests.native.c_compiler import compile_c

CLIENTS: Final = Path(__file__).with_name("clients")
NAME: Final = "docker.io/local/cgpu-e2e:1"
PATH: Final = "/usr/local/bin:/bin"
_LOAD: Final = build.ROOT / "bench" / "clients" / "load.c"
_APPLETS: Final = (
    "sh", "ash", "cat", "ls", "rm", "mv", "mkdir", "mount", "umount", "echo", "sleep", "id", "env", "true", "false",
    "cp", "ln", "dd", "touch", "chmod", "kill", "ps", "stat", "grep", "test", "tail", "find", "readlink", "head",
    "chroot",
)  # fmt: skip
_FOLDERS: Final = (
    "bin",
    "dev",
    "etc",
    "proc",
    "root",
    "sys",
    "tmp",
    "usr/local/bin",
    "usr/lib",
    "var",
    "client",
    "sim",
    "machine",
)
_USERS: Final = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/tmp:/bin/sh\n"


def make_rootfs(folder: Path) -> Path:
    """Make the root file system; its folder."""
    for name in _FOLDERS:
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    (folder / "etc/passwd").write_text(_USERS)
    (folder / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    shutil.copy(program("busybox"), folder / "bin/busybox")
    for applet in _APPLETS:
        (folder / "bin" / applet).symlink_to("busybox")
    for source in (CLIENTS / "quota.c", _LOAD):
        client = compile_c(folder / "client" / source.stem, [source], libraries=["-pthread"])
        copy_libraries(client, folder)
    for library in (SHIM, SIMULATED_CUDA, SIMULATED_NVML):  # an image has the whole C library
        copy_libraries(native_library(library), folder)
    return folder


def make_tar(rootfs: Path, target: Path) -> Path:
    """The root file system as a tar, which `docker import` and `podman import` take."""
    subprocess.run(["tar", "-C", str(rootfs), "-cf", str(target), "."], check=True)
    return target


def copy(rootfs: Path, target: Path) -> Path:
    """A container's own copy, in place of an older one of that name."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(rootfs, target, symlinks=True)
    return target


def as_of_musl(folder: Path) -> tuple[Volume, ...]:
    """What makes a container of this image one of musl: its loader, and none of glibc. busybox runs without either."""
    for name in ("lib", "lib64"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    shutil.copy(program("busybox"), folder / "lib" / f"ld-musl-{os.uname().machine}.so.1")
    return tuple(Volume(folder / name, f"/{name}") for name in ("lib", "lib64"))


def give(rootfs: Path, user: int) -> None:
    """Make a container's own copy that user's."""
    for path in (rootfs, *rootfs.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def copy_libraries(executable: Path, rootfs: Path) -> None:
    """Copy what the dynamic linker loads for a program, itself included, to the same places."""
    listed = subprocess.run(["ldd", str(executable)], capture_output=True, text=True, check=True).stdout
    for word in listed.split():
        if word.startswith("/"):
            target = rootfs / word[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(word).resolve(), target)
