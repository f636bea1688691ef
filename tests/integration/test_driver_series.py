"""The agent and `cgpu run` on drivers whose NVML has only its own series' functions."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cgpu.adapters.native import SIMULATED_NVML
from cgpu.model.units import GIB
from cgpu.sim.machine import SimMachine
from native import build
from tests.integration.conftest import CLIENT, Node, eventually, told
from tests.native import driver_series

HELD_BYTES, QUOTA_BYTES = GIB, 2 * GIB
# The oldest, whose NVML lists processes by older functions than from 510 on, and the newest.
SERIES = (460, 620)


@dataclass
class SeriesNode(Node):
    """A node on which cgpu is installed beside the driver of a series."""

    installation: Path = Path()

    @property
    def environment(self) -> dict[str, str]:
        """As of any node, with that driver's libraries."""
        inherited = super().environment
        libraries = self.installation / "cgpu" / "_native" / "sim"
        rest = inherited["LD_LIBRARY_PATH"].split(":")[1:]
        return inherited | {
            "LD_LIBRARY_PATH": ":".join([str(libraries), *rest]),
            "PYTHONPATH": os.pathsep.join([str(self.installation), inherited["PYTHONPATH"]]),
        }


@pytest.fixture
def make_series(tmp_path: Path, make_node: Callable[..., Node]) -> Iterator[Callable[[int], SeriesNode]]:
    """Makes a node of a series."""
    nodes: list[SeriesNode] = []

    def make(branch: int) -> SeriesNode:
        folder = make_node().folder / "series"  # short, and goes with the other's folder
        folder.mkdir()
        installation = driver_series.make_installation(tmp_path / "installation", build.DEFAULT_OUT, branch)
        machine = SimMachine.create(folder / "machine", driver=f"{branch}.10.01")
        nodes.append(SeriesNode(folder, machine, installation=installation))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


@pytest.mark.parametrize("branch", SERIES)
def test_an_agent_knows_what_the_card_holds(branch: int, make_series: Callable[[int], SeriesNode]) -> None:
    """Quota, refusal and work by `cgpu run`; the agent has the driver's own word about each process."""
    node = make_series(branch)
    client = node.start_client("spin", "--hold", str(HELD_BYTES), options=("--name", "a"))
    assert told(client)["total_bytes"] == QUOTA_BYTES
    (process,) = node.share("a")["processes"]
    assert process["host_pid"] == client.pid
    assert process["memory_bytes"] == node.machine.status().cards[0].processes[0].memory_bytes > HELD_BYTES
    assert told(client)["done_ns"] >= 0

    refused = node.cgpu("run", "--memory", "1GiB", "--", *CLIENT, "fill", stdin=subprocess.DEVNULL)
    assert json.loads(refused.stdout.splitlines()[1])["out_of_memory"], refused.stderr

    client.kill()
    eventually(lambda: not node.machine.status().cards[0].processes)
    eventually(lambda: not node.callers_tenants())


def test_what_runs_is_not_guessed(make_series: Callable[[int], SeriesNode]) -> None:
    """An NVML that lists processes in no form that is known: the card counts as one that does not answer."""
    node = make_series(460)
    driver_series.hide(
        node.installation / "cgpu" / "_native" / SIMULATED_NVML, {"nvmlDeviceGetComputeRunningProcesses_v2"}
    )
    node.start_agent()
    (card,) = node.client.get("/v1/gpus")
    assert card["fault"].startswith("this driver's NVML has no nvmlDeviceGetComputeRunningProcesses_v2")
