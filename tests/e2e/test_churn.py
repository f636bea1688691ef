"""Many containers at a time: no deadlock, nothing left, and the 21st on a card always refused."""

from __future__ import annotations

import pytest

from bench.containers import churn
from bench.pass_through import LIMIT_MS, pass_through
from tests.e2e import image
from tests.e2e.engines import Docker, Runc
from tests.e2e.host import Host
from tests.e2e.node import Node
from tests.integration.attempts import Watch, until_right


def test_creates_and_destroys_of_a_full_card(node: Node, host: Host, runc: Runc):
    rootfs = image.copy(runc.rootfs, host.folder / "shared")
    shared = Runc(host, runc.runtime, rootfs, copies=False)
    figures = churn(node, "runc", shared, containers=60, parallel=20)
    assert figures.faults == []
    assert (figures.containers, figures.refused) == (60, 3)


def test_creates_and_destroys_through_docker(node: Node, docker: Docker):
    figures = churn(node, "docker", docker, containers=6, parallel=6)
    assert figures.faults == []
    assert figures.containers == 6


@pytest.mark.timing
def test_a_container_without_a_share_pays_next_to_nothing_in_its_whole_life(node: Node, host: Host, runc: Runc):
    rootfs = image.copy(runc.rootfs, host.folder / "passes")

    def attempt(_: int, watch: Watch) -> str:
        with watch():
            cost = pass_through(node, Runc(host, runc.runtime, rootfs, copies=False), pairs=30)
        return "" if cost.added_median < LIMIT_MS else f"{cost.added_median:.2f} ms added"

    until_right(attempt)
