"""``cgpu doctor --cluster`` as a process, against a served API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import cgpu
from tests.integration.cluster_objects import ManyNodes, gpu_node, gpu_pod, plain_node
from tests.integration.conftest import CGPU, SECONDS
from tests.integration.fake_api import FakeApi
from tests.integration.fake_kubelet import Kubelet
from tests.unit.doctor import trees

NODES = 5_000
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "KUBECONFIG")
# The command, and then the most memory that its process ever had.
MEASURED = """
import sys
from pathlib import Path
from cgpu.cli.main import main
code = main(sys.argv[1:])
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")))
sys.exit(code)
"""


def doctor(
    api: FakeApi, folder: Path, *arguments: str, program: tuple[str, ...] = CGPU
) -> subprocess.CompletedProcess[str]:
    config = folder / "config"
    config.write_text(api.kubeconfig())
    environment = {name: value for name, value in os.environ.items() if name.upper() not in _PROXIES}
    environment["PYTHONPATH"] = str(Path(cgpu.__file__).parents[1])
    command = [*program, "doctor", "--cluster", "--kubeconfig", str(config), *arguments]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=SECONDS)


def test_the_worst_node_comes_first_and_what_a_node_object_lacks_is_not_observed(api: FakeApi, tmp_path: Path):
    crowded = [gpu_pod(f"p{number}", "crowded", "0") for number in range(21)]
    static = {"cgpu": "false"}
    api.nodes = [gpu_node("usual"), plain_node("cpu"), gpu_node("torn", static), gpu_node("crowded")]
    api.pods = crowded
    result = doctor(api, tmp_path, "--json")
    document = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (2, "")
    assert [node["node"] for node in document["nodes"]] == ["crowded", "torn", "usual"]
    assert [node["exit_code"] for node in document["nodes"]] == [2, 1, 3]
    usual = {check["name"]: check for check in document["nodes"][2]["checks"]}
    assert usual["driver"]["verdict"] == "not observed"
    assert "--probe" in usual["toolkit"]["advice"]


def test_a_probe_finds_what_a_node_object_lacks(api: FakeApi, tmp_path: Path):
    root = trees.build(trees.T4_PANIC, tmp_path)
    api.nodes, api.kubelet = [gpu_node("t4")], Kubelet(lambda _: root)
    result = doctor(api, tmp_path, "--probe", "--probe-image", "busybox:own")
    assert result.returncode == 2, result.stderr
    assert "t4: unsupported" in result.stdout
    assert "issue:kernel-panic" in result.stdout.splitlines()[1]
    assert api.pods == [], "the pods of probes are gone"


def test_a_selector_that_matches_nothing_could_not_check(api: FakeApi, tmp_path: Path):
    api.nodes = [plain_node("cpu")]
    result = doctor(api, tmp_path)
    assert result.returncode == 3
    assert "none that has a GPU was found" in result.stdout


def test_a_cluster_that_does_not_answer_could_not_be_checked(api: FakeApi, tmp_path: Path):
    api.allowed = lambda _: False
    result = doctor(api, tmp_path)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("cgpu: ")


@pytest.mark.timeout(180)
def test_five_thousand_nodes_are_reported_in_memory_that_does_not_grow(api: FakeApi, tmp_path: Path):
    api.nodes = ManyNodes(NODES)
    program = (sys.executable, "-c", MEASURED)
    output = tmp_path / "doctor.xml"
    result = doctor(api, tmp_path, "--format", "junit", "--output", str(output), program=program)
    assert result.returncode in (1, 2, 3), result.stderr
    suites = ET.parse(output).getroot().findall("testsuite")
    assert len({suite.get("name") for suite in suites}) == len(suites) == NODES * 9 // 10
    # Measured: 56 MiB, nearly all of it for reading the cluster. The report is 12 MB, the nodes' text 65 MB.
    assert int(result.stdout) < 96 << 10
