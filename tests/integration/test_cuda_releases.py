"""Clients of CUDA 11, 12 and 13 are tenants of one card at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cgpu.model.units import GIB
from tests.integration.conftest import CGPU, Node, eventually
from tests.native import pypi_nvidia

CLIENT = Path(__file__).with_name("clients") / "cuda_release_client.py"
QUOTA_BYTES, OVER_BYTES, WITHIN_BYTES = 2 * GIB, 3 * GIB, GIB
SECONDS = 120.0


def paths(release: str) -> list[str]:
    """Where Python finds the release's bindings; those of 13 are installed."""
    if release == "13":
        return []
    folder = pypi_nvidia.fetch(pypi_nvidia.BINDINGS[release])
    if folder is None:
        pytest.skip(f"the bindings of CUDA {release} are not to be had here (index changed, or no network)")
    return [str(folder)]


def start(node: Node, release: str) -> subprocess.Popen[str]:
    searched = os.pathsep.join([*paths(release), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [*CGPU, "run", "--memory", "2GiB", "--", sys.executable, str(CLIENT), str(OVER_BYTES), str(WITHIN_BYTES)]
    return subprocess.Popen(
        command, env=node.environment | {"PYTHONPATH": searched}, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_clients_of_three_releases_share_a_card(node: Node):
    clients = {release: start(node, release) for release in ("11", "12", "13")}
    try:
        for release, client in clients.items():
            assert client.stdout
            line = client.stdout.readline()
            assert line, client.communicate()[1]
            assert json.loads(line) == {
                "release": int(release),
                "total_bytes": QUOTA_BYTES,
                "refused": ["CUDA_ERROR_OUT_OF_MEMORY"] * 2,
                "copied": [7] * 4,
            }
        held = {row.pid: row.memory_bytes for row in node.machine.status().cards[0].processes}
        assert all(WITHIN_BYTES < held[client.pid] <= QUOTA_BYTES for client in clients.values())
        for client in clients.values():
            assert client.communicate("\n", SECONDS) == ("", "")
            assert client.returncode == 0
        eventually(lambda: not node.machine.status().cards[0].processes)
    finally:
        for client in clients.values():
            client.kill()
            client.communicate()
