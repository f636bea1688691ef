"""The hook that looks at a claim's image, as a runtime runs it: its words reach whoever starts the container."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cgpu.adapters.native import RUNTIME, native_library
from tests.e2e import image
from tests.e2e.bundle import config
from tests.e2e.host import Host
from tests.e2e.tools import program
from tests.e2e.wanted import Result, Volume, Wanted

LOADER = "lib64/ld-linux-x86-64.so.2"


def run(host: Host, rootfs: Path, name: str, *volumes: Volume, remove: str = "") -> Result:
    """Run `echo` in a container of that image, perhaps without one of its files, with the hook."""
    folder = host.folder / "bundles" / name
    folder.mkdir(parents=True)
    own = image.copy(rootfs, folder / "rootfs")
    if remove:
        (own / remove).unlink()
        shutil.copy(own / "bin/busybox", own / "lib/ld-musl-x86_64.so.1")
    made = config(name, own, Wanted(("echo", "started"), volumes=volumes), cgroup_namespace=True)
    hook = str(native_library(RUNTIME))
    made["hooks"] = {"createRuntime": [{"path": hook, "args": [hook, "hook", "claim"], "timeout": 15}]}
    (folder / "config.json").write_text(json.dumps(made))
    return host.run(program("runc"), "run", "--bundle", str(folder), name)


def test_an_image_with_glibc_starts(host: Host, rootfs: Path):
    assert run(host, rootfs, "with-glibc").stdout == "started\n"


def test_one_without_is_refused_in_the_runtimes_own_words(host: Host, rootfs: Path):
    result = run(host, rootfs, "without-glibc", remove=LOADER)
    assert result.returncode != 0
    assert "started" not in result.stdout
    assert "cgpu: the shim cannot be loaded in this image" in result.stderr
    assert "its C library is musl" in result.stderr


def test_a_loader_that_is_mounted_counts(host: Host, rootfs: Path):
    """The hook looks at the container with its mounts, before the container's root is entered."""
    glibc = Volume(Path(f"/{LOADER}").resolve(), f"/{LOADER}")
    assert run(host, rootfs, "mounted-glibc", glibc, remove=LOADER).stdout == "started\n"
