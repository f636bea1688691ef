"""API servers on which a gate is off: what is offered there can still be relied on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.e2e import tools
from tests.e2e.conftest import needed
from tests.e2e.host import Host, eventually
from tests.e2e.kube import network, programs
from tests.e2e.kube.control_plane import ControlPlane
from tests.e2e.node import SOURCE
from tests.e2e.tools import SEARCHED


@pytest.fixture
def host() -> Iterator[Host]:
    with needed():
        tools.root_with_namespaces()
        tools.program("ip")
        programs.kubernetes(programs.DEFAULT)
        programs.etcd()
    with Host() as made:
        network.connect([made])
        yield made


@contextmanager
def control_plane(host: Host, *off: str) -> Iterator[ControlPlane]:
    """With these gates off in the API server."""
    built, etcd = programs.kubernetes(programs.DEFAULT), programs.etcd()
    gates = "--feature-gates=" + ",".join(f"{gate}=false" for gate in off)
    with ControlPlane(host, network.node_address(0), built, etcd, [gates]) as plane:
        yield plane


def test_where_taints_are_dropped_a_card_that_is_not_well_is_not_offered(host: Host):
    with control_plane(host, "DRADeviceTaints", "DRADeviceTaintRules") as plane:
        label = {"ack.node.gpu.schedule": "cgpu"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bare", "labels": label}}
        plane.kubectl("create", "-f", "-", text_in=json.dumps(node))
        root = host.folder / "bare"
        root.mkdir()
        (root / "lost").touch()

        def devices() -> list[dict[str, Any]]:
            rows = json.loads(plane.kubectl("get", "resourceslices", "-o=json"))["items"]
            return [device for row in rows for device in row["spec"].get("devices", ())]

        log = host.folder / "bare.log"
        process = host.start(
            sys.executable, "-m", "tests.e2e.kube.bare_publisher", str(plane.admin), "bare", str(root),
            log=log, env={"PATH": SEARCHED, "PYTHONPATH": f"{SOURCE}:{SOURCE.parent}", "HOME": "/root"},
        )  # fmt: skip
        try:
            eventually(lambda: "DRADeviceTaints is off" in log.read_text(), "it is said")
            eventually(lambda: [one["attributes"]["index"]["int"] for one in devices()] == [0], "one card is offered")
        finally:
            host.stop(process)
