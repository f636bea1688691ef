"""What a container is given of NVIDIA's driver suffices to load it: NVIDIA's own libraries, which find no card here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cgpu.adapters.cdi.driver_files import DriverTree
from tests.e2e import image
from tests.e2e.bundle import config
from tests.e2e.host import Host
from tests.e2e.tools import program
from tests.e2e.wanted import Result, Wanted
from tests.native import debian_nvidia
from tests.native.c_compiler import compile_c

NO_DEVICE = 100
# Both names, since programs ask for either; and the driver's own version, which needs no card.
CLIENT = """
#include <dlfcn.h>
#include <stdio.h>
int main(void) {
  void *cuda = dlopen("libcuda.so.1", RTLD_NOW), *same = dlopen("libcuda.so", RTLD_NOW);
  void *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
  if (!cuda || !nvml) return printf("%s\\n", dlerror()), 1;
  int version = 0;
  ((int (*)(int *))dlsym(cuda, "cuDriverGetVersion"))(&version);
  printf("%d %d %d %s\\n", ((int (*)(unsigned))dlsym(cuda, "cuInit"))(0), cuda == same, version,
         dlsym(nvml, "nvmlInit_v2") ? "nvml" : "");
  return 0;
}
"""


@pytest.fixture(params=debian_nvidia.SUITES)
def tree(request: pytest.FixtureRequest) -> DriverTree:
    """A driver of Debian's, unpacked: with the links that its alternatives make when it is installed."""
    root = debian_nvidia.fetch(request.param, debian_nvidia.DRIVER)
    if root is None:
        pytest.skip(f"Debian's {request.param} has no libcuda1 for this machine")
    return DriverTree(root, root)


def run(host: Host, rootfs: Path, tree: DriverTree, version: str, name: str, *command: str) -> Result:
    """Run a command in a container that has the driver's files as a claim's CDI device mounts them."""
    folder = host.folder / "bundles" / name
    folder.mkdir(parents=True)
    made = config(name, image.copy(rootfs, folder / "rootfs"), Wanted(command), cgroup_namespace=True)
    made["mounts"] += [
        {"destination": mount.destination, "type": "bind", "source": str(mount.source), "options": list(mount.options)}
        for mount in tree.mounts(version)
    ]
    (folder / "config.json").write_text(json.dumps(made))
    return host.run(program("runc"), "run", "--bundle", str(folder), name)


def test_a_container_loads_the_driver_and_is_told_that_there_is_no_card(host: Host, rootfs: Path, tree: DriverTree):
    version = debian_nvidia.version(tree.here)
    client = host.folder / "loads"
    if not client.exists():
        source = client.with_suffix(".c")
        source.write_text(CLIENT)
        compile_c(client, [source], libraries=["-ldl"])
    copy = image.copy(rootfs, host.folder / f"with-client-{version}")
    (copy / "client" / "loads").write_bytes(client.read_bytes())
    (copy / "client" / "loads").chmod(0o755)
    image.copy_libraries(debian_nvidia.libcuda(tree.here), copy)  # an image has the whole C library
    result = run(host, copy, tree, version, f"loads-{version}", "/client/loads")
    assert result.returncode == 0, result.stdout + result.stderr
    status, is_same, cuda, nvml = result.stdout.split()
    assert (int(status), is_same, nvml) == (NO_DEVICE, "1", "nvml")
    assert int(cuda) >= 12000


def test_at_least_one_driver_was_to_be_had():
    had = [suite for suite in debian_nvidia.SUITES if debian_nvidia.fetch(suite, debian_nvidia.DRIVER)]
    if not had and os.environ.get("CI") != "true":
        pytest.skip("no Debian archive here")
    assert had, subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout[:2000]
