"""Our agent on a node where Alibaba's cGPU is active: it refuses, and says why."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

import cgpu
from tests.integration.conftest import CGPU, SECONDS, Node
from tests.integration.fake_api import FakeApi


def cgpu_on(root: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CGPU_")}
    environment |= {
        "CGPU_HOST_ROOT": str(root),
        "CGPU_RUNTIME_DIR": str(folder / "run"),
        "CGPU_LOCK_DIR": str(folder),
        "PYTHONPATH": str(Path(cgpu.__file__).parents[1]),
    }
    return subprocess.run([*CGPU, *arguments], env=environment, text=True, capture_output=True, timeout=SECONDS)


@pytest.fixture
def active(tmp_path: Path) -> Path:
    """The root of a node whose module is loaded."""
    (tmp_path / "root/proc/cgpu_km").mkdir(parents=True)
    (tmp_path / "root/proc/cgpu_km/version").write_text("1.5.20\n")
    return tmp_path / "root"


@pytest.mark.parametrize("arguments", [("agent",), ("run", "--memory", "1GiB", "--", "true")], ids=" ".join)
def test_the_agent_refuses_a_node_where_alibabas_cgpu_is_active(
    active: Path, tmp_path: Path, arguments: tuple[str, ...]
):
    result = cgpu_on(active, tmp_path, *arguments)
    assert result.returncode == 3, result.stderr
    assert "Alibaba's cGPU is active on this node (/proc/cgpu_km)" in result.stderr
    assert "cgpu doctor" in result.stderr
    assert not (tmp_path / "run/agent.sock").exists()


def test_in_a_cluster_the_agent_runs_on_to_serve_the_pods_that_are_there(active: Path, tmp_path: Path):
    """It makes no tenant and offers nothing; here it ends for want of a driver, and not before."""
    config = tmp_path / "config"
    config.write_text(FakeApi().kubeconfig())
    result = cgpu_on(active, tmp_path, "agent", "--kubernetes", f"--kubeconfig={config}")
    assert "Alibaba" not in result.stderr
    assert result.returncode == 5, result.stderr


def test_its_modules_alone_are_enough(tmp_path: Path):
    (tmp_path / "root/proc").mkdir(parents=True)
    (tmp_path / "root/proc/modules").write_text("km 77824 3 - Live 0x0\nnvidia 1 1 km, Live 0x0\n")
    result = cgpu_on(tmp_path / "root", tmp_path, "agent")
    assert (result.returncode, "the kernel module km" in result.stderr) == (3, True)


def test_a_node_without_it_is_not_refused_for_it(tmp_path: Path):
    (tmp_path / "root/proc").mkdir(parents=True)
    (tmp_path / "root/proc/modules").write_text("nvidia 1 0 - Live 0x0\n")
    refused = cgpu_on(tmp_path / "root", tmp_path, "run", "--memory", "1GiB", "--gpu", "97", "--", "true")
    assert "Alibaba" not in refused.stderr


def test_a_simulated_gpu_is_nobodys(active: Path, node: Node):
    result = node.cgpu("run", "--memory", "1GiB", "--", "true", env={**node.environment, "CGPU_HOST_ROOT": str(active)})
    assert result.returncode == 0, result.stderr
