"""`kubectl inspect cgpu` against a served API: what it reads, how much memory that takes, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cgpu
from cgpu.cli.kubectl_inspect import main
from tests.integration.cluster_objects import ManyNodes, gpu_node
from tests.integration.fake_api import FakeApi
from tests.unit.k8s.cluster_objects import claim, node, pod, request, result, slices_of

Json = dict[str, Any]
NODES = 5_000
PEAK_MIB = 170
"""Of which Python and its packages are 35; 40,000 cards and 20,000 claims are the rest."""


@pytest.fixture
def config(api: FakeApi, tmp_path: Path) -> str:
    file = tmp_path / "config"
    file.write_text(api.kubeconfig())
    return f"--kubeconfig={file}"


@pytest.fixture
def shared(api: FakeApi) -> FakeApi:
    api.nodes = [node("node-a"), node("node-b"), gpu_node("other")]
    api.resourceslices = [*slices_of("node-a"), *slices_of("node-b", 1)]
    api.resourceclaims = [
        claim("a", result("node-a", 0, "8Gi"), pods=["web"]),
        claim("b", result("node-b", 0, "3Gi"), pods=["train"]),
        claim("c", requests=[request(memory="9Gi")]),
        claim("d", requests=[{"name": "x", "exactly": {"deviceClassName": "gpu.nvidia.com"}}]),
    ]
    api.pods = [pod("waiting", {"gpu": "c"}, nodeName=""), pod("elsewhere", {"gpu": "d"}, nodeName="")]
    return api


def test_a_node_that_is_named(shared: FakeApi, config: str, capsys: pytest.CaptureFixture[str]):
    assert main([config, "node-b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["node-b", "10.0.0.1", "3/15", "3/15"]
    assert lines[-2:] == ["Pending GPU Memory In Cluster:", "9 (1 pod)"]
    assert "node-a" not in " ".join(lines)
    assert any(",spec.nodeName=node-b" in asked.query.get("fieldSelector", "") for asked in shared.asked)


def test_details_and_json(shared: FakeApi, config: str, capsys: pytest.CaptureFixture[str]):
    assert main([config, "-d", "node-a", "node-b"]) == 0
    assert "web          team       8                0\n" in capsys.readouterr().out
    assert main([config, "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["nodes"]] == ["node-a", "node-b"]
    assert [row["pod"] for row in found["pending"]] == ["waiting"]


def test_a_node_that_shares_nothing(shared: FakeApi, config: str, capsys: pytest.CaptureFixture[str]):
    assert main([config, "other"]) == 3
    assert "other: no such node shares its GPUs" in capsys.readouterr().err


def test_an_api_that_does_not_answer_is_3_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "config"
    file.write_text(FakeApi(port=1).kubeconfig())
    assert main([f"--kubeconfig={file}"]) == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("kubectl-inspect-cgpu: the Kubernetes API at http://127.0.0.1:1 does not answer")
    assert main([f"--kubeconfig={tmp_path}/none"]) == 3


def test_a_malformed_request_is_2(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["-o", "yaml"])
    assert ended.value.code == 2
    assert "usage: kubectl inspect cgpu" in capsys.readouterr().err


_MEASURED = """
import sys
from pathlib import Path
from cgpu.cli.kubectl_inspect import main
code = main(sys.argv[1:])
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) >> 10 for line in status if line.startswith("VmHWM:")), file=sys.stderr)
sys.exit(code)
"""


def _renamed(model: Json, name: str) -> Json:
    spec = {**model["spec"], "nodeName": name, "pool": {**model["spec"]["pool"], "name": name}}
    return {**model, "metadata": {"name": name}, "spec": spec}


def test_a_large_cluster_takes_bounded_memory(api: FakeApi, config: str):
    api.nodes = ManyNodes(NODES, NODES)
    names = [item["metadata"]["name"] for item in api.nodes]
    (model,) = slices_of("any", 8)
    api.resourceslices = [_renamed(model, name) for name in names]
    api.resourceclaims = [
        claim(f"c{number}", result(name, number % 8), pods=[f"pod-{number}"])
        for number, name in enumerate(name for name in names for _ in range(4))
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(cgpu.__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, "-c", _MEASURED, config], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == NODES + 4
    assert int(ended.stderr.split()[-1]) < PEAK_MIB
