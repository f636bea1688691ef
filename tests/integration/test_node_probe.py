"""Probe pods: what they bring, what goes wrong, and that none is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import cgpu
from cgpu.adapters import kube
from cgpu.adapters.cluster_facts import ProbeOptions, facts_of_cluster
from cgpu.adapters.node_probe import has_owner_ended, owner_of
from cgpu.doctor.facts import Facts
from cgpu.doctor.probe_pod import NAME, NAME_LABEL, OWNER_LABEL, RUN_LABEL
from cgpu.doctor.probes import probe_node
from tests.integration import fake_kubelet
from tests.integration.cluster_objects import gpu_node, plain_node
from tests.integration.fake_api import Asked, FakeApi, Fault, until
from tests.integration.fake_kubelet import Kubelet
from tests.unit.doctor import trees

REPOSITORY = Path(__file__).parents[2]
PATIENT = ProbeOptions(seconds=60)
QUICK = ProbeOptions(seconds=5)  # where one never ends; beside it another needs a tenth of that


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr("cgpu.adapters.kube.pause_before_retry", lambda *_: 0.0)


@pytest.fixture(scope="module")
def node_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = trees.build(trees.T4_PANIC, tmp_path_factory.mktemp("node"))
    shutil.rmtree(root / ".cgpu-probe")  # a node has none
    return root


@pytest.fixture
def api(node_root: Path) -> Iterator[FakeApi]:
    with FakeApi(kubelet=Kubelet(lambda _: node_root)).served() as served:
        yield served


def silent(done: int, total: int | None) -> None:
    pass


def probed(config: Path, options: ProbeOptions = PATIENT) -> dict[str, Facts]:
    return {facts.value("node"): facts for facts in facts_of_cluster(config, None, None, options, silent)}


def test_a_probe_brings_what_a_look_at_the_node_itself_finds(api: FakeApi, config: Path, node_root: Path):
    api.nodes = [gpu_node("a"), plain_node("b")]
    found = probed(config)
    assert [*found] == ["a"]
    here = probe_node(node_root, runner=None)
    for name in here:
        if here[name].known and name not in ("node", "labels", "instance"):
            assert found["a"].value(name) == here.value(name), name
    assert found["a"].value("cgpu") == "1.5.7"
    assert found["a"].value("node") == "a"
    assert found["a"].value("instance") == "ecs.gn6i-c4g1.xlarge"
    assert api.pods == []


def test_no_more_pods_at_once_than_was_said(api: FakeApi, config: Path):
    api.nodes = [gpu_node(f"n{index}") for index in range(25)]
    told: list[tuple[int, int | None]] = []
    options = ProbeOptions(at_once=4, seconds=30)
    facts = list(facts_of_cluster(config, None, None, options, lambda done, total: told.append((done, total))))
    assert sorted(one.value("node") for one in facts) == sorted(f"n{index}" for index in range(25))
    assert all(one.value("cgpu") == "1.5.7" for one in facts)
    assert 1 <= api.most_pods <= 4
    assert told == [(done, 25) for done in range(1, 26)]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (fake_kubelet.image_missing, "ImagePullBackOff"),
        (fake_kubelet.no_room, "OutOfpods"),
        (fake_kubelet.never_starts, "did not end in"),
        (fake_kubelet.cut_log, "cut off"),
        (fake_kubelet.deleted, "deleted its pod"),
    ],
)
def test_a_node_whose_probe_fails_keeps_its_other_facts(
    api: FakeApi, config: Path, node_root: Path, fault: Callable[[dict[str, Any], FakeApi], None], reason: str
):
    api.nodes = [gpu_node("bad"), gpu_node("good")]
    api.kubelet = Kubelet(lambda _: node_root, {"bad": fault})
    found = probed(config, QUICK if fault is fake_kubelet.never_starts else PATIENT)
    assert found["good"].value("cgpu") == "1.5.7"
    assert found["bad"].value("kernel") == "5.10.134-16.3.al8.x86_64"
    assert found["bad"].value("cgpu") is None
    assert reason in found["bad"]["cgpu"].how
    assert api.pods == []


def test_a_namespace_that_forbids_such_pods_is_the_reason(api: FakeApi, config: Path):
    api.nodes = [gpu_node("a")]
    body = b'{"message": "violates PodSecurity \\"restricted:latest\\": hostPath volumes"}'
    api.faults = [Fault("POST /api/v1/namespaces/doctors/pods", 403, body=body)]
    how = probed(config)["a"]["cgpu"].how
    assert "violates PodSecurity" in how
    assert "namespace doctors" in how


def test_a_pod_whose_creation_was_answered_by_nobody_is_found_and_deleted(api: FakeApi, config: Path):
    api.nodes = [gpu_node("a")]
    api.faults = [Fault("POST", 504, late=True)]
    assert probed(config)["a"].value("cgpu") == "1.5.7"
    assert api.pods == []
    api.faults = [Fault("POST", 504, times=99, late=True)]
    assert "504" in probed(config)["a"]["cgpu"].how
    assert api.pods == []


def test_leaving_early_deletes_the_pods(api: FakeApi, config: Path, node_root: Path):
    api.nodes = [gpu_node(f"n{index}") for index in range(8)]
    api.kubelet = Kubelet(lambda _: node_root, {f"n{index}": fake_kubelet.never_starts for index in range(1, 8)})
    facts = facts_of_cluster(config, None, None, ProbeOptions(at_once=4, seconds=60), silent)
    assert next(facts).value("node") == "n0"
    begin = time.monotonic()
    facts.close()  # type: ignore[attr-defined]  # a generator
    assert time.monotonic() - begin < 30  # without waiting for the pods' ends
    assert api.pods == []


CHILD = """
import sys
from pathlib import Path
from cgpu.adapters.cluster_facts import ProbeOptions, facts_of_cluster
for facts in facts_of_cluster(Path(sys.argv[1]), None, None, ProbeOptions(seconds=60), lambda *_: None):
    print(facts.value("node"))
"""


def child(config: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(cgpu.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(config)], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_doctor_that_is_interrupted_leaves_no_pod(api: FakeApi, config: Path, number: signal.Signals):
    api.nodes = [gpu_node(f"n{index}") for index in range(30)]
    api.kubelet = Kubelet(lambda _: Path("/nowhere"), {f"n{index}": fake_kubelet.never_starts for index in range(30)})
    with child(config) as process:
        until(lambda: len(api.pods) == 10)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert api.pods == []


def test_what_a_killed_doctor_left_is_deleted_at_the_next_start(api: FakeApi, config: Path, node_root: Path):
    api.nodes = [gpu_node("a")]
    api.kubelet = Kubelet(lambda _: node_root, {"a": fake_kubelet.never_starts})
    with child(config) as process:
        until(lambda: len(api.pods) == 1)
        process.kill()
    assert len(api.pods) == 1
    api.kubelet = Kubelet(lambda _: node_root)
    assert probed(config)["a"].value("cgpu") == "1.5.7"
    assert api.pods == []


def test_pods_of_a_doctor_that_still_runs_and_of_others_stay(api: FakeApi, config: Path):
    def pod(name: str, labels: dict[str, str], created: str) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "doctors", "labels": labels, "creationTimestamp": created}
        return {"metadata": metadata, "status": {"phase": "Running"}}

    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    other = {NAME_LABEL: NAME, RUN_LABEL: "11111111", OWNER_LABEL: owner_of(os.getpid())}
    elsewhere = {**other, OWNER_LABEL: "0123456789ab-1-1"}
    api.pods = [
        pod("running", other, now),
        pod("elsewhere", elsewhere, now),
        pod("elsewhere-old", elsewhere, "2020-01-01T00:00:00Z"),
        pod("users", {"app": "x"}, "2020-01-01T00:00:00Z"),
    ]
    probed(config)
    assert [one["metadata"]["name"] for one in api.pods] == ["running", "elsewhere", "users"]


def test_an_owner_has_ended_when_its_process_has():
    assert not has_owner_ended(owner_of(os.getpid()))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = owner_of(process.pid)
        assert not has_owner_ended(owner)
    assert has_owner_ended(owner)
    assert not has_owner_ended("unknown")
    assert not has_owner_ended("0123456789ab-1-1")


# --- permissions


def roles() -> list[dict[str, Any]]:
    documents = yaml.safe_load_all((REPOSITORY / "deploy" / "doctor-rbac.yaml").read_text())
    return [document for document in documents if document["kind"] in ("Role", "ClusterRole")]


def grants(names: set[str]) -> set[tuple[str, str, str]]:
    """(verb, resource, namespace or "" for all) of the roles of these names."""
    return {
        (verb, resource, role["metadata"].get("namespace", ""))
        for role in roles()
        if role["metadata"]["name"] in names
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


def within(granted: set[tuple[str, str, str]]) -> Callable[[Asked], bool]:
    return lambda asked: bool({(asked.verb, asked.resource, where) for where in ("", asked.namespace)} & granted)


def used(api: FakeApi, namespace: str) -> set[tuple[str, str, str]]:
    return {(one.verb, one.resource, namespace if one.namespace == namespace else "") for one in api.asked}


@pytest.mark.parametrize(("names", "probe"), [({"cgpu-doctor"}, None), ({"cgpu-doctor", "cgpu-doctor-probe"}, PATIENT)])
def test_the_permissions_that_are_shipped_are_enough_and_each_is_used(
    api: FakeApi, config: Path, names: set[str], probe: ProbeOptions | None
):
    granted = grants(names)
    api.nodes, api.allowed = [gpu_node("a")], within(granted)
    options = probe and ProbeOptions(namespace="cgpu-doctor", seconds=60)
    [facts] = facts_of_cluster(config, None, None, options, silent)
    assert facts["pods_per_gpu"].known
    assert facts["daemonsets"].known
    assert facts["cgpu"].known == (probe is not None)
    assert api.pods == []
    assert used(api, "cgpu-doctor") == granted


def test_the_permissions_to_explain_a_pod_are_enough_and_each_is_used(api: FakeApi, config: Path):
    granted = grants({"cgpu-explain"})
    api.allowed = within(granted)
    metadata = {"name": "p", "namespace": "team-a"}
    status = {"containerStatuses": [{"name": "main", "state": {"running": {}}}]}
    api.pods, api.logs = [{"metadata": metadata, "status": status}], {("p", "main", False): [b"x"]}
    with kube.connect(config, None) as cluster:
        texts = {what: list(chunks) for what, chunks in cluster.pod_texts("team-a", "p")}
    assert texts["log of container main"] == [b"x"]
    assert {(verb, resource) for verb, resource, _ in granted} == {(one.verb, one.resource) for one in api.asked}
