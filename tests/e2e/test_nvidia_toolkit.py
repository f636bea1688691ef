"""NVIDIA's container toolkit beside cgpu-runtime: its runtime above ours."""

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
    folder = host.folder / f"toolkit-{mode}"
    config = folder / "nvidia-container-runtime" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(_CONFIG.format(runtime=node.runtime, mode=mode))
    above = folder / "runtime"
    above.write_text(f'#!/bin/sh\nXDG_CONFIG_HOME={folder} exec {toolkit} "$@"\n')
    above.chmod(0o755)
    runc = Runc(host, str(above), rootfs)
    result = runc.run(f"toolkit-{mode}", Wanted(("/client/quota", "fill"), {"CGPU_MEMORY": "1GiB"}))
    assert told(result)["total"] == GIB
