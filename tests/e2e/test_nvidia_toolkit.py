"""NVIDIA's container toolkit beside cgpu-runtime: its runtime above ours, and below."""

from __future__ import annotations

from pathlib import Path

import pytest

from cgpu.model.units import GIB
from tests.e2e import tools
from tests.e2e.conftest import needed
from tests.e2e.engines import Runc
from tests.e2e.host import Host
from tests.e2e.node import Node, told
from tests.e2e.wanted import Wanted

_CONFIG = """
[nvidia-container-runtime]
runtimes = ["{runtime}"]
mode = "{mode}"
"""


@pytest.fixture(scope="session")
def toolkit() -> Path:
    """NVIDIA's runtime."""
    with needed():
        return tools.nvidia_runtime()


@pytest.mark.parametrize("mode", ["auto", "cdi", "legacy"])
def test_nvidias_runtime_above_ours_starts_a_tenant(node: Node, host: Host, rootfs: Path, toolkit: Path, mode: str):
    above = nvidia(host.folder / f"above-{mode}", toolkit, node.runtime, mode)
    assert_is_a_tenant(Runc(host, str(above), rootfs), f"above-{mode}")


def test_nvidias_runtime_below_ours_starts_a_tenant(node: Node, host: Host, rootfs: Path, toolkit: Path):
    below = nvidia(host.folder / "below", toolkit, tools.program("runc"), "auto")
    assert_is_a_tenant(Runc(host, node.runtime_over(below), rootfs), "below")


def nvidia(folder: Path, toolkit: Path, runtime: str, mode: str) -> Path:
    """NVIDIA's runtime with a configuration of its own, over that runtime."""
    config = folder / "nvidia-container-runtime" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(_CONFIG.format(runtime=runtime, mode=mode))
    started = folder / "runtime"
    started.write_text(f'#!/bin/sh\nXDG_CONFIG_HOME={folder} exec {toolkit} "$@"\n')
    started.chmod(0o755)
    return started


def assert_is_a_tenant(runc: Runc, name: str) -> None:
    """A container through that runtime has its quota."""
    result = runc.run(name, Wanted(("/client/quota", "fill"), {"CGPU_MEMORY": "1GiB"}))
    assert told(result)["total"] == GIB
