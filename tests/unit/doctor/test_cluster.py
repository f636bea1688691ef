"""What a Node, pods and DaemonSets tell of a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from cgpu.doctor.cluster import (
    DaemonSet,
    PodCounts,
    asks_for_gpu_memory,
    daemon_sets_fact,
    facts_of_node,
    gpu_daemon_set,
    gpus_of_pod,
    is_gpu_node,
    shares_gpus,
    with_probe,
    without_probe,
)
from cgpu.doctor.facts import Fact, Facts
from tests.integration.cluster_objects import daemon_set, gpu_node, gpu_pod, plain_node

DRIVER = "nvidia.com/cuda.driver-version"
OLD = "nvidia.com/cuda.driver"


def bare(labels: Mapping[str, str] | None = None, capacity: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {"metadata": {"name": "n", "labels": dict(labels or {})}, "status": {"capacity": dict(capacity or {})}}


@pytest.mark.parametrize(
    "labels",
    [
        {"ack.node.gpu.schedule": "cgpu"},
        {"ack.node.gpu.schedule": "core_mem"},
        {"cgpu": "true"},
        {"aliyun.accelerator/nvidia_name": "Tesla-T4"},
        {"nvidia.com/gpu.present": "true"},
        {"nvidia.com/gpu.count": "8"},
    ],
)
def test_a_label_makes_a_gpu_node(labels: dict[str, str]):
    assert is_gpu_node(bare(labels))


@pytest.mark.parametrize(
    "resource", ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "aliyun.com/gpu-mem", "aliyun.com/gpu"]
)
def test_a_resource_makes_a_gpu_node_even_when_none_of_it_is_left(resource: str):
    assert is_gpu_node(bare(capacity={resource: "0"}))


@pytest.mark.parametrize(
    "labels",
    [{}, {"cgpu": "false"}, {"ack.node.gpu.schedule": "share"}, {"nvidia.com/gpu.present": "false"}, {"gpu": "true"}],
)
def test_other_labels_do_not(labels: dict[str, str]):
    assert not is_gpu_node(bare(labels, {"cpu": "4", "aliyun.com/eni": "1"}))


def test_a_node_shares_its_gpus_by_resource_or_by_label():
    assert shares_gpus(bare(capacity={"aliyun.com/gpu-mem": "0"}))
    assert shares_gpus(bare({"cgpu": "true"}))
    assert not shares_gpus(bare({"cgpu": "false"}, {"nvidia.com/gpu": "8"}))


def test_a_node_of_ack():
    facts = facts_of_node(gpu_node("cn-hangzhou.192.168.2.167"))
    values = {name: facts.value(name) for name in facts if facts[name].known and name != "labels"}
    assert values == {
        "node": "cn-hangzhou.192.168.2.167",
        "kernel": "5.10.134-16.3.al8.x86_64",
        "os": "Alibaba Cloud Linux 3.2104 LTS",
        "container_os": False,
        "kubernetes": "v1.30.1-aliyun.1",
        "containerd": "1.6.28",
        "instance": "ecs.gn6i-c4g1.xlarge",
        "gpus": 1,
    }
    assert facts.value("labels")["ack.node.gpu.schedule"] == "cgpu"
    for name in ("cgpu", "toolkit", "modules", "glibc"):
        assert "--probe" in facts[name].how
    assert facts["docker"].how == "the kubelet's container runtime is containerd://1.6.28"


@pytest.mark.parametrize(
    ("image", "kernel", "is_it"),
    [
        ("Alibaba Cloud Linux Lifsea (ContainerOS) 3", "5.10.134-19.1.1.lifsea8.x86_64", True),
        ("ContainerOS 3.3", "5.10.134", True),
        ("Alibaba Cloud Linux 3 Container-optimized Edition", "5.10.134", True),
        ("something", "5.10.134-15.1.2.lifsea8.x86_64", True),
        ("Alibaba Cloud Linux 3.2104 LTS", "5.10.134-16.3.al8.x86_64", False),
        ("Container-Optimized OS from Google", "5.15.0", False),
        ("Ubuntu 22.04.5 LTS", "5.15.0-101-generic", False),
    ],
)
def test_the_container_optimized_os(image: str, kernel: str, is_it: bool):
    node = gpu_node("n", osImage=image, kernelVersion=kernel)
    assert facts_of_node(node).value("container_os") is is_it


@pytest.mark.parametrize(
    ("labels", "version"),
    [
        ({f"{DRIVER}.full": "535.129.03", f"{DRIVER}.major": "1"}, "535.129.03"),
        ({f"{DRIVER}.major": "535", f"{DRIVER}.minor": "129", f"{DRIVER}.revision": "03"}, "535.129.03"),
        ({f"{OLD}.major": "470", f"{OLD}.minor": "82", f"{OLD}.rev": "01"}, "470.82.01"),
        ({f"{OLD}.major": "460", f"{OLD}.minor": "73", f"{OLD}.rev": ""}, "460.73"),
        ({"ack.aliyun.com/nvidia-driver-version": "550.90.07"}, "550.90.07"),
        ({"ack.aliyun.com/nvidia-driver-version": "550.90.07", f"{DRIVER}.full": "535.129.03"}, "535.129.03"),
        ({f"{DRIVER}.major": "535"}, None),
        ({f"{DRIVER}.full": "unknown"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_driver_by_labels(labels: dict[str, str], version: str | None):
    fact = facts_of_node(bare(labels))["driver"]
    assert fact.value == version
    assert fact.how


def test_a_driver_that_the_pool_asks_for_is_not_called_installed():
    how = facts_of_node(bare({"ack.aliyun.com/nvidia-driver-version": "550.90.07"}))["driver"].how
    assert "asks for" in how


@pytest.mark.parametrize(
    ("labels", "capacity", "count"),
    [
        ({"nvidia.com/gpu.count": "8"}, {"nvidia.com/gpu": "80"}, 8),
        ({"aliyun.accelerator/nvidia_count": "2"}, {}, 2),
        ({}, {"aliyun.com/gpu-count": "4", "nvidia.com/gpu": "0"}, 4),
        ({}, {"nvidia.com/gpu": "8", "aliyun.com/gpu-count": "0"}, 8),
        ({"nvidia.com/gpu.count": "many"}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_number_of_gpus(labels: dict[str, str], capacity: dict[str, str], count: int | None):
    assert facts_of_node(bare(labels, capacity)).value("gpus") == count


def test_an_instance_type_of_another_cloud_is_not_known_and_the_rest_is():
    facts = facts_of_node(gpu_node("n", {"node.kubernetes.io/instance-type": "Standard_NC6s_v3"}))
    assert facts.value("instance") is None
    assert "Standard_NC6s_v3" in facts["instance"].how
    assert facts["kernel"].known


def test_the_older_label_of_the_instance_type():
    assert facts_of_node(bare({"beta.kubernetes.io/instance-type": "ecs.gn7i-c8g1.2xlarge"})).value("instance")


# --- pods


@pytest.mark.parametrize(
    ("annotations", "gpus"),
    [
        ({"ALIYUN_COM_GPU_MEM_IDX": "0"}, ("0",)),
        ({"ALIYUN_COM_GPU_MEM_IDX": "2,3"}, ("2", "3")),
        ({"ALIYUN_COM_GPU_MEM_IDX": "-1"}, ()),
        ({"ALIYUN_COM_GPU_MEM_IDX": ""}, ()),
        ({"scheduler.framework.gpushare.allocation": '{"0": {"1": 4}, "1": {"1": 2, "3": 2}}'}, ("1", "3")),
        ({"scheduler.framework.gpushare.allocation": '{"0": {"1": 4}}', "ALIYUN_COM_GPU_MEM_IDX": "0"}, ("1",)),
        ({"scheduler.framework.gpushare.allocation": "{", "ALIYUN_COM_GPU_MEM_IDX": "0"}, ("0",)),
        ({"scheduler.framework.gpushare.allocation": "[1]", "ALIYUN_COM_GPU_MEM_IDX": "0"}, ("0",)),
        ({}, ()),
    ],
)
def test_the_gpus_of_a_pod(annotations: dict[str, str], gpus: tuple[str, ...]):
    assert gpus_of_pod({"metadata": {"annotations": annotations}}) == gpus


def test_pods_that_share_a_gpu():
    assert asks_for_gpu_memory(gpu_pod("p", "n"))
    assert asks_for_gpu_memory(gpu_pod("p", "n", phase="Pending"))
    assert not asks_for_gpu_memory(gpu_pod("p", "n", phase="Succeeded"))
    assert not asks_for_gpu_memory(gpu_pod("p", "n", phase="Failed"))
    assert not asks_for_gpu_memory({"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}})
    assert not asks_for_gpu_memory(
        {"spec": {"containers": [{"resources": {"limits": {"aliyun.com/gpu-mem": "0"}}}, {}]}}
    )


def counts(*pods: dict[str, Any]) -> PodCounts:
    result = PodCounts()
    for pod in pods:
        result.add(pod)
    return result


def test_pods_are_counted_by_node_and_gpu():
    result = counts(*(gpu_pod(f"p{index}", "n", "0,1") for index in range(21)), gpu_pod("q", "m", "0"))
    assert result.fact("n", 2).value == {"0": 21, "1": 21}
    assert result.fact("m", 1).value == {"0": 1}
    assert result.fact("elsewhere", 1).value == {}


def test_a_pod_that_names_no_gpu_is_on_the_only_one_or_is_told():
    result = counts(gpu_pod("p", "n", "0"), gpu_pod("q", "n", None))
    assert result.fact("n", 1).value == {"0": 2}
    assert result.fact("n", 2).value == {"0": 1}
    assert "1 of them name no GPU" in result.fact("n", 2).how


# --- DaemonSets


@pytest.mark.parametrize("name", ["cgpu-installer", "cgpu-core-installer", "gpushare-device-plugin-ds"])
def test_daemon_sets_of_alibabas_are_known_by_name_and_ours_by_label(name: str):
    found = gpu_daemon_set(daemon_set(name))
    assert found is not None
    assert found.name == f"kube-system/{name}"
    assert gpu_daemon_set(daemon_set("any", labels={"app.kubernetes.io/name": "cgpu"}))
    assert gpu_daemon_set(daemon_set("kube-proxy")) is None


NODE = {"gpu": "t4", "size": "8"}


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ({"key": "gpu", "operator": "In", "values": ["a10", "t4"]}, True),
        ({"key": "gpu", "operator": "In", "values": ["a10"]}, False),
        ({"key": "gpu", "operator": "NotIn", "values": ["t4"]}, False),
        ({"key": "other", "operator": "NotIn", "values": ["t4"]}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"key": "other", "operator": "Exists"}, False),
        ({"key": "other", "operator": "DoesNotExist"}, True),
        ({"key": "size", "operator": "Gt", "values": ["7"]}, True),
        ({"key": "size", "operator": "Gt", "values": ["8"]}, False),
        ({"key": "size", "operator": "Lt", "values": ["9"]}, True),
        ({"key": "gpu", "operator": "Lt", "values": ["9"]}, False),
        ({"key": "metadata.name", "operator": "In", "values": ["n"]}, True),
        ({"key": "gpu", "operator": "Near", "values": ["9"]}, False),
    ],
)
def test_a_node_affinity(rule: dict[str, Any], holds: bool):
    found = gpu_daemon_set(daemon_set("cgpu-installer", terms=[{"matchExpressions": [rule]}]))
    assert found is not None
    assert found.chooses(NODE, "n") is holds


def test_terms_are_alternatives_and_the_selector_holds_beside_them():
    match = {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}
    miss = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["m"]}]}
    cases: list[tuple[list[dict[str, Any]], dict[str, str], bool]] = [
        ([miss, match], {}, True),
        ([miss], {}, False),
        ([{}], {}, False),  # an empty term chooses nothing
        ([match], {"gpu": "t4"}, True),
        ([match], {"gpu": "a10"}, False),
    ]
    for terms, selector, holds in cases:
        found = gpu_daemon_set(daemon_set("cgpu-installer", selector, terms=terms))
        assert found is not None
        assert found.chooses(NODE, "n") is holds


def test_the_daemon_sets_of_a_node():
    sets = [DaemonSet("b/all", {}, ()), DaemonSet("a/t4", {"gpu": "t4"}, ()), DaemonSet("a/a10", {"gpu": "a10"}, ())]
    facts = Facts({"node": Fact("n", "t"), "labels": Fact(NODE, "t")})
    assert daemon_sets_fact(sets, facts).value == ["a/t4", "b/all"]


# --- the probe


def test_what_was_read_on_the_node_comes_before_what_the_api_tells():
    base = facts_of_node(gpu_node("n"))
    read = Facts(
        {
            "node": Fact("hostname", "/etc/hostname"),
            "kernel": Fact("5.10.135", "/proc/sys/kernel/osrelease"),
            "cgpu": Fact("1.5.7", "/proc/cgpu_km/version"),
            "toolkit": Fact(None, "no such file"),
            "os": Fact(None, "no such file"),
            "instance": Fact(None, "not asked"),
        }
    )
    facts = with_probe(base, read)
    assert facts.value("node") == "n"
    assert facts.value("kernel") == "5.10.135"
    assert facts.value("cgpu") == "1.5.7"
    assert facts["toolkit"].how == "no such file"
    assert facts["os"] == base["os"]
    assert facts["instance"] == base["instance"]


def test_a_probe_that_failed_is_the_reason_of_what_is_missing():
    base = facts_of_node(gpu_node("n"))
    facts = without_probe(base, "no room")
    assert facts["cgpu"].how == "the probe failed: no room"
    assert {name: facts[name] for name in facts if base[name].known} == {
        name: base[name] for name in base if base[name].known
    }
    assert not is_gpu_node(plain_node("p"))
