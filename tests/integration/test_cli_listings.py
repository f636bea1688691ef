"""The listings of the command line, for people and as JSON, on a simulated GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from cgpu.agent.documentation import GPU, TENANT
from cgpu.agent.schema import check
from cgpu.model.units import GIB
from tests.integration.attempts import Watch, until_right
from tests.integration.conftest import SECONDS, Node, told


@pytest.fixture
def busy(node: Node) -> Node:
    """A node with two tenants, one of which has filled its quota."""
    node.start_agent()
    told(client := node.start_client("fill", memory="2GiB", options=("--name", "full", "--compute", "30")))
    told(client)
    node.client.put("/v1/tenants/idle", {"shares": [{"gpu": "0", "memory_bytes": GIB}]})
    return node


def test_ps(busy: Node):
    tenants = busy.json("ps")
    for tenant in tenants:
        check(tenant, TENANT)
    full = next(tenant for tenant in tenants if tenant["name"] == "full")
    assert full["simulated"]
    assert full["shares"][0]["oom_count"] >= 1
    assert len(full["shares"][0]["processes"]) == 1
    text = busy.cgpu("ps").stdout
    assert "30% (recorded, not enforced)" in text
    assert "shim/slots" in text
    assert "simulated" in text


def test_smi_on_the_host(busy: Node):
    document = busy.json("smi")
    check(document["gpus"][0], GPU)
    text = busy.cgpu("smi").stdout
    assert "Tesla T4" in text
    assert "[simulated]" in text
    assert "/2048MiB" in text
    assert "python" in text


def test_info_with_and_without_an_agent(busy: Node):
    info = busy.json("info")
    assert info["simulated"]
    assert info["agent"]["tenants"] == 2
    assert [gpu["name"] for gpu in info["gpus"]] == ["Tesla T4"]
    assert "2 tenants" in busy.cgpu("info").stdout


def test_info_on_an_empty_node(node: Node):
    result = node.cgpu("info")
    assert result.returncode == 0
    assert "no agent answers" in result.stdout
    assert "[simulated]" in result.stdout


def test_policy(busy: Node):
    assert busy.json("policy")[0]["policy"] == 1
    assert "2 weighted" in busy.cgpu("policy", "weighted").stdout
    assert busy.json("policy", "5")[0]["compute_layer"] == "none"
    assert busy.json("policy", "default", "--overcommit", "--max-inst", "3")[0]["overcommit"]
    fixed = busy.json("policy", "3", "--prio-ratio", "60", "--quantum", "20", "--share-slots")[0]
    assert (fixed["policy"], fixed["prio_ratio"], fixed["quantum_ms"], fixed["share_slots"]) == (3, 60, 20, True)
    assert busy.json("policy", "default")[0]["prio_ratio"] == 60  # what is not named stays
    assert busy.cgpu("policy", "--prio-ratio", "100").returncode == 2
    assert busy.cgpu("policy", "nonsense").returncode == 2
    assert busy.cgpu("policy", "--gpu", "7").returncode == 3


def test_set(busy: Node):
    assert busy.json("set", "idle", "--weight", "3")["shares"][0]["weight"] == 3
    for given, seen in (("30", 30), ("none", None)):
        share = busy.json("set", "idle", "--compute", given, "--compute-limit", given)["shares"][0]
        assert (share["compute_percent"], share["compute_limit_percent"]) == (seen, seen)
    assert busy.json("ps")[0]["shares"][0]["policy"] == 2
    assert busy.cgpu("set", "idle").returncode == 2
    assert busy.cgpu("set", "nobody", "--weight", "2").returncode == 3
    assert busy.cgpu("set", "idle", "--memory", "90GiB").returncode == 3


def test_sim(make_node: Callable[..., Node]):
    node = make_node("a10", cards=2)
    folder = str(node.machine.folder)
    status = node.json("sim", "status", "--state", folder)
    assert status["simulated"]
    assert [card["name"] for card in status["cards"]] == ["NVIDIA A10", "NVIDIA A10"]
    assert "[simulated]" in node.cgpu("sim", "status").stdout
    exports = node.cgpu("sim", "env", folder).stdout
    assert f"export CGPU_SIM_STATE={folder}" in exports
    assert node.json("sim", "env", folder)["CGPU_SIM_STATE"] == folder
    assert node.cgpu("sim", "fault", folder, "xid", "79", "--card", "1").returncode == 0
    assert node.json("sim", "status", folder)["cards"][1]["last_xid"] == 79
    assert node.cgpu("sim", "fault", folder, "xid", "-1").returncode == 2
    assert node.cgpu("sim", "status", f"{folder}/none").returncode == 6
    assert node.cgpu("sim", "create", "nonsense", "--state", folder + "2").returncode == 2
    assert node.cgpu("sim", "create", "t4", "--state", folder + "2").returncode == 0
    assert node.cgpu("sim", "remove", folder + "2").returncode == 0
    assert node.cgpu("sim", "status", folder + "2").returncode == 6


@pytest.mark.timing
def test_the_demo_keeps_what_it_promises(node: Node):
    def attempt(_: int, watch: Watch) -> str:
        with watch():
            result = node.cgpu("demo", "--sim", "--seconds", "8", "--json")
        document = json.loads(result.stdout)
        assert document["simulated"]
        assert [row["name"] for row in document["tenants"]] == ["small", "medium", "large", "greedy", "killed"]
        assert (result.returncode == 0) == document["kept"]
        return "" if document["kept"] else str(document["tenants"])

    until_right(attempt)


@pytest.mark.parametrize(
    "verb", ["run", "ps", "top", "smi", "set", "policy", "account", "info", "agent", "sim", "demo"]
)
def test_every_verb_has_help_with_examples(node: Node, verb: str):
    result = node.cgpu(verb, "--help")
    assert result.returncode == 0
    assert f"cgpu {verb}" in result.stdout.split("examples:")[1]


def test_a_reader_that_goes_away_is_no_traceback(busy: Node):
    script = f"{sys.executable} -m cgpu ps --json | head -c 1"
    result = subprocess.run(["sh", "-c", script], env=busy.environment, capture_output=True, text=True, timeout=SECONDS)
    assert (result.stdout, result.stderr) == ("[", "")
