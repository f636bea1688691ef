"""The facts of a cluster's GPU nodes, from an API that is served as Kubernetes serves it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cgpu
from cgpu.adapters import kube, kube_answers
from cgpu.adapters.cluster_facts import facts_of_cluster
from cgpu.doctor.facts import Facts
from cgpu.errors import ClusterError
from tests.integration.cluster_objects import ManyNodes, daemon_set, gpu_node, gpu_pod, plain_node
from tests.integration.fake_api import FakeApi, Fault, expired

NODES = 5_000


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between attempts are noted instead of waited for."""
    pauses: list[float] = []
    real = kube_answers.pause_before_retry

    def noted(attempt: int, retry_after_s: float | None, chance: float) -> float:
        pauses.append(real(attempt, retry_after_s, chance))
        return 0.0

    monkeypatch.setattr("cgpu.adapters.kube.pause_before_retry", noted)
    return pauses


def read(config: Path, selector: str | None = None) -> tuple[list[Facts], list[tuple[int, int | None]]]:
    told: list[tuple[int, int | None]] = []
    facts = list(facts_of_cluster(config, None, selector, None, lambda done, total: told.append((done, total))))
    return facts, told


def names(facts: list[Facts]) -> list[str]:
    return [one.value("node") for one in facts]


CHILD = """
import sys
from pathlib import Path
from cgpu.adapters.cluster_facts import facts_of_cluster

def peak_kib():
    # Not getrusage's: that counts what the parent had before exec.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

seen, told = set(), []
facts = facts_of_cluster(Path(sys.argv[1]), None, None, None, lambda done, total: told.append((done, total)))
for one in facts:
    assert one.value("node") not in seen
    seen.add(one.value("node"))
print(len(seen), peak_kib(), *told[-1], sum(total == int(sys.argv[2]) for _, total in told))
"""


def read_in_a_process(api: FakeApi, config: Path, count: int) -> int:
    """The peak memory, in KiB, of a process that reads so many nodes and has seen each once."""
    api.nodes = ManyNodes(count)
    environment = {**os.environ, "PYTHONPATH": str(Path(cgpu.__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(config), str(count)], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    seen, peak_kib, done, total, counted = map(int, ended.stdout.split())
    assert seen == count * 9 // 10
    assert (done, total, counted) == (count, count, count)
    return peak_kib


@pytest.mark.timeout(120)
def test_five_thousand_nodes_are_seen_once_in_memory_that_does_not_grow_with_them(api: FakeApi, config: Path):
    api.pods = [gpu_pod(f"pod-{index}", f"cn-hangzhou.10.{index % 20}.1", "0") for index in range(3_000)]
    few_kib, many_kib = (read_in_a_process(api, config, count) for count in (1_000, NODES))
    # Measured: 50 and 51 MiB, of which Python and lightkube are 32. The nodes' text is 60 MB: a
    # process that kept them, or their facts as JSON, would be beyond both bounds.
    assert many_kib < 80 << 10
    assert many_kib - few_kib < 10 << 10


def test_a_node_object_tells_what_it_can_and_why_not_the_rest(api: FakeApi, config: Path):
    api.nodes = [gpu_node("a"), plain_node("b")]
    api.pods = [gpu_pod("p", "a"), gpu_pod("q", "a", "0"), gpu_pod("r", "a", phase="Failed")]
    api.daemonsets = [
        daemon_set("cgpu-installer", {"ack.node.gpu.schedule": "cgpu"}),
        daemon_set("cgpu-core-installer", {"ack.node.gpu.schedule": "core_mem"}),
        daemon_set("unrelated"),
    ]
    [facts], told = read(config)
    assert facts.value("node") == "a"
    assert facts.value("kernel") == "5.10.134-16.3.al8.x86_64"
    assert facts.value("instance") == "ecs.gn6i-c4g1.xlarge"
    assert facts.value("pods_per_gpu") == {"0": 2}
    assert facts.value("daemonsets") == ["kube-system/cgpu-installer"]
    assert facts["cgpu"].value is None
    assert "--probe" in facts["cgpu"].how
    assert told == [(1, 2), (2, 2)]


def test_a_selector_chooses_nodes(api: FakeApi, config: Path):
    api.nodes = [gpu_node("a", {"pool": "x"}), gpu_node("b", {"pool": "y"}), gpu_node("c", {"pool": "x"})]
    facts, told = read(config, "pool=x")
    assert names(facts) == ["a", "c"]
    assert told == [(1, 2), (2, 2)]


def test_a_cluster_without_nodes_is_empty(config: Path):
    assert read(config) == ([], [])


@pytest.mark.parametrize("token", ["1000", ""], ids=["with a token to go on", "without"])
def test_a_list_that_expires_in_the_middle_loses_and_repeats_nothing(api: FakeApi, config: Path, token: str):
    api.nodes = ManyNodes(1_700)
    api.faults = [Fault("nodes.*continue=MTAwMA", 410, body=expired(token))]
    facts, told = read(config)
    assert len(names(facts)) == len(set(names(facts))) == 1_530
    assert told[-1][0] == 1_700


def test_a_list_that_expires_for_ever_is_an_error(api: FakeApi, config: Path):
    api.nodes = ManyNodes(1_700)
    api.faults = [Fault("nodes.*continue=", 410, times=99, body=expired())]
    with pytest.raises(ClusterError, match="410"):
        read(config)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again(api: FakeApi, config: Path, quick: list[float], status: int):
    api.nodes = [gpu_node("a")]
    api.faults = [Fault("/nodes", status, times=3)]
    assert names(read(config)[0]) == ["a"]
    assert len(quick) == 3
    assert quick == sorted(quick)


def test_the_pause_is_what_the_server_asks_for(api: FakeApi, config: Path, quick: list[float]):
    api.nodes = [gpu_node("a")]
    api.faults = [
        Fault("/nodes", 429, headers={"Retry-After": "7"}),
        Fault("/nodes", 429, headers={"Retry-After": "900"}),
    ]
    assert names(read(config)[0]) == ["a"]
    assert quick == [7.0, 30.0]


def test_what_does_not_pass_is_an_error_after_some_attempts(api: FakeApi, config: Path, quick: list[float]):
    api.faults = [Fault("/nodes", 503, times=99)]
    with pytest.raises(ClusterError, match="503"):
        read(config)
    assert len(quick) == 6


def test_nodes_that_may_not_be_listed_are_an_error_with_a_way_out(api: FakeApi, config: Path):
    api.allowed = lambda asked: asked.resource != "nodes"
    with pytest.raises(ClusterError, match="403") as caught:
        read(config)
    assert "doctor-rbac.yaml" in caught.value.remedy


@pytest.mark.parametrize(("resource", "fact"), [("pods", "pods_per_gpu"), ("daemonsets", "daemonsets")])
def test_what_else_may_not_be_listed_is_a_fact_that_is_not_known(api: FakeApi, config: Path, resource: str, fact: str):
    api.nodes = [gpu_node("a")]
    api.allowed = lambda asked: asked.resource != resource
    [facts], _ = read(config)
    assert facts["kernel"].known
    assert facts[fact].value is None
    assert "403" in facts[fact].how


@pytest.mark.parametrize(("count", "lists"), [(3, 3), (60, 1)])
def test_pods_are_asked_for_by_node_or_all_at_once_whichever_costs_less(
    api: FakeApi, config: Path, count: int, lists: int
):
    api.nodes = [gpu_node(f"n{index}") for index in range(count)]
    api.pods = [gpu_pod(f"p{index}", f"n{index % count}", str(index % 2)) for index in range(2 * count + 1)]
    facts, _ = read(config)
    assert sum(sum(one.value("pods_per_gpu").values()) for one in facts) == 2 * count + 1
    assert sum(asked.resource == "pods" for asked in api.asked) == lists


def test_what_is_no_api_is_an_error(api: FakeApi, config: Path):
    api.faults = [Fault("daemonsets", 200, body=b"<html>log in</html>")]
    with pytest.raises(ClusterError, match="not the Kubernetes API"):
        read(config)


def test_a_pods_texts_are_its_status_events_and_the_logs_there_are(api: FakeApi, config: Path):
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 10s"}
    pod = gpu_pod("p", "a")
    pod["status"]["containerStatuses"] = [
        {"name": "main", "state": {"running": {}}, "lastState": {"terminated": {"reason": "Error"}}},
        {"name": "side", "state": {"waiting": waiting}},
        {"name": "gone", "state": {"terminated": {"reason": "Completed"}}},
    ]
    api.pods = [pod]
    api.events = [
        {
            "metadata": {"name": f"e{index}", "namespace": "team-a"},
            "involvedObject": {"kind": "Pod", "name": name},
            "type": "Warning", "reason": "Failed", "message": f"message {index}",
            "lastTimestamp": "2026-01-01T00:00:00Z",
        }
        for index, name in enumerate(["p", "other", "p"])
    ]  # fmt: skip
    api.logs = {("p", "main", False): [b"now\n", b"x" * 200_000], ("p", "main", True): [b"before\n"]}
    with kube.connect(config, None) as cluster:
        texts = {what: list(chunks) for what, chunks in cluster.pod_texts("team-a", "p")}
    assert [*texts] == [
        "status",
        "events",
        "previous log of container main",
        "log of container main",
        "log of container gone",
    ]
    assert b"CrashLoopBackOff back-off 10s" in b"".join(texts["status"])
    assert b"".join(texts["events"]) == b"".join(
        f"2026-01-01T00:00:00Z Warning Failed message {index}\n".encode() for index in (0, 2)
    )
    assert b"".join(texts["log of container main"]) == b"now\n" + b"x" * 200_000
    assert max(map(len, texts["log of container main"])) <= 1 << 16
    assert texts["previous log of container main"] == [b"before\n"]
    assert texts["log of container gone"] == []


def test_a_pod_that_is_gone_still_has_its_events(api: FakeApi, config: Path):
    api.events = [
        {
            "metadata": {"name": "e", "namespace": "team-a"},
            "involvedObject": {"kind": "Pod", "name": "p"},
            "reason": "Failed",
            "message": "m",
        }
    ]
    with kube.connect(config, None) as cluster:
        assert [(what, b"".join(chunks)) for what, chunks in cluster.pod_texts("team-a", "p")] == [
            ("events", b"Failed m\n")
        ]
        with pytest.raises(ClusterError, match="not found"):
            list(cluster.pod_texts("team-a", "nobody"))
