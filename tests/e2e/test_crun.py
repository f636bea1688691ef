"""crun below cgpu-runtime in place of runc: by itself, and as Podman starts it.

Podman's containers are on a host that may have cgroup v1: crun raises a limit of its own for the devices of cgroup v2,
which not every root may.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cgpu.model.units import GIB
from tests.e2e import image, tools
from tests.e2e.conftest import SETTLE_S, needed
from tests.e2e.engines import Engine, Podman, Runc
from tests.e2e.host import Host, eventually
from tests.e2e.node import Node, told
from tests.e2e.wanted import Wanted


@pytest.fixture
def crun() -> str:
    """The program."""
    with needed():
        return tools.program("crun")


@pytest.fixture
def over_crun(host: Host, node: Node, rootfs: Path, crun: str) -> Runc:
    """cgpu-runtime over crun, called as engines do."""
    return Runc(host, node.runtime_over(crun), rootfs)


@pytest.fixture
def podman_over_crun(limiting_host: Host, limiting_node: Node, rootfs: Path, crun: str) -> Podman:
    """Podman, cgpu-runtime, crun."""
    with needed():
        tools.program("podman")
    return Podman(limiting_host, limiting_node.runtime_over(crun), image.copy(rootfs, limiting_host.folder / "crun"))


def test_crun_by_itself(node: Node, over_crun: Runc):
    assert_lives_and_ends(node, over_crun)


def test_podman_over_crun(limiting_node: Node, podman_over_crun: Podman):
    assert_lives_and_ends(limiting_node, podman_over_crun)


def assert_lives_and_ends(node: Node, engine: Engine) -> None:
    """A container has its quota, a wrong wish is refused in our words, and no end leaves anything."""
    result = engine.run("quota", Wanted(("/client/quota", "fill"), {"CGPU_MEMORY": "1GiB"}))
    assert told(result)["total"] == GIB
    wrong = engine.run("wrong", Wanted(("echo", "started"), {"CGPU_MEMORY": "lots"}))
    assert wrong.returncode != 0
    assert "CGPU_MEMORY" in wrong.stderr
    engine.remove("wrong")
    holds = Wanted(("sh", "-c", "sleep 1000 | /client/quota hold"), {"CGPU_MEMORY": "1GiB"})
    for end in (engine.remove, engine.kill, lambda name: node.host.kill(engine.pid(name))):
        assert engine.start("ends", holds).returncode == 0
        eventually(lambda: node.used_bytes() > 0, "the container has memory of the card")
        end("ends")
        eventually(node.nothing_left, "nothing is left", SETTLE_S)
        engine.remove("ends")
