"""The kernel kills a container for the host's memory: nothing of it is left, with cgroup v1 or v2."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cgpu.model.units import MIB
from tests.e2e import image
from tests.e2e.conftest import SETTLE_S
from tests.e2e.engines import Docker, Engine, Runc
from tests.e2e.host import Host, eventually
from tests.e2e.node import Node
from tests.e2e.wanted import Wanted

# The first process itself is what grows; a second one has memory of the card.
SCRIPT = "sleep 1000 | /client/quota hold & until [ -e /tmp/go ]; do sleep 0.05; done; exec tail /dev/zero"
GROWS = Wanted(("sh", "-c", SCRIPT), {"CGPU_MEMORY": "1GiB"}, memory_bytes=256 * MIB)


@pytest.fixture(scope="module", params=["docker", "runc"])
def limiting_engine(request: pytest.FixtureRequest, limiting_host: Host, limiting_node: Node) -> Iterator[Engine]:
    """Engines that limit the host's memory there."""
    rootfs = limiting_host.folder / f"image-{request.param}"
    image.make_rootfs(rootfs)
    if request.param == "runc":
        yield Runc(limiting_host, limiting_node.runtime, rootfs)
        return
    with Docker(
        limiting_host, limiting_node.runtime, image.make_tar(rootfs, limiting_host.folder / "image.tar")
    ) as made:
        yield made


def test_the_kernel_kills_its_first_process(limiting_node: Node, limiting_engine: Engine):
    result = limiting_engine.start("grows", GROWS)
    assert result.returncode == 0, result.stderr
    eventually(lambda: limiting_node.used_bytes() > 0, "the container has memory of the card")
    assert limiting_engine.execute("grows", "touch", "/tmp/go").returncode == 0
    eventually(limiting_node.nothing_left, "nothing is left", SETTLE_S)
    if isinstance(limiting_engine, Docker):
        state = "{{.State.OOMKilled}} {{.State.ExitCode}}"
        eventually(lambda: limiting_engine.inspect("grows", state) == "true 137", "dockerd has heard of it")
    assert limiting_engine.remove("grows").returncode == 0
