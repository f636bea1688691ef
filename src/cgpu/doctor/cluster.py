"""What objects of the Kubernetes API tell of a node: a Node, the pods that share its GPUs, DaemonSets. Pure.

Objects are mappings as the API has them. Names of resources, labels and annotations: ACK's
documentation of shared GPU scheduling, the open gpushare scheduler, and NVIDIA's GPU Feature Discovery.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cgpu.compat.dataset import shipped
from cgpu.doctor import container_os
from cgpu.doctor.facts import Fact, Facts
from cgpu.doctor.node_checks import ALIBABA_DAEMONSETS
from cgpu.doctor.node_selection import NodeSelection, selection_of
from cgpu.errors import FactError

GPU_MEMORY: Final = "aliyun.com/gpu-mem"
"""The resource that pods ask for when they share a GPU."""

NOT_IN_A_NODE: Final = "a Node object does not carry it; --probe reads it"
"""Why a fact is not known that only the node's files tell."""

_GPU_RESOURCES: Final = ("nvidia.com/gpu", "nvidia.com/mig-", "aliyun.com/gpu")
_GPU_LABELS: Final = ("aliyun.accelerator/nvidia_", "nvidia.com/gpu.present", "nvidia.com/gpu.count")
_COUNT_LABELS: Final = ("nvidia.com/gpu.count", "aliyun.accelerator/nvidia_count")
# After sharing by time slices, nvidia.com/gpu counts replicas, not cards: it is asked last.
_COUNT_RESOURCES: Final = ("aliyun.com/gpu-count", "aliyun.com/gpu", "nvidia.com/gpu")
_INSTANCE_LABELS: Final = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
_DRIVER_LABEL: Final = "nvidia.com/cuda.driver-version.full"
_DRIVER_PARTS: Final = (
    tuple(f"nvidia.com/cuda.driver-version.{part}" for part in ("major", "minor", "revision")),
    tuple(f"nvidia.com/cuda.driver.{part}" for part in ("major", "minor", "rev")),
)
_WANTED_DRIVER_LABEL: Final = "ack.aliyun.com/nvidia-driver-version"
_RUNTIMES: Final = ("containerd", "docker")
_FROM_THE_API: Final = ("node", "labels", "instance")
_ENDED: Final = ("Succeeded", "Failed")
_ONLY_ON_THE_NODE: Final = (
    "toolkit", "cgpu", "modules", "cpu_manager", "cgroup", "seccomp", "podman", "runc", "crun", "glibc", "cdi_dirs",
    "agent", "tenants_per_gpu",
)  # fmt: skip


def is_gpu_node(node: Mapping[str, Any]) -> bool:
    """Whether a Node has NVIDIA GPUs, or says so: by its resources or its labels."""
    labels = _labels(node)
    return (
        any(name.startswith(_GPU_RESOURCES) for name in _resources(node))
        or any(name.startswith(_GPU_LABELS) and value != "false" for name, value in labels.items())
        or isolation_is_on(labels)
    )


def shares_gpus(node: Mapping[str, Any]) -> bool:
    """Whether pods may share the node's GPUs by asking for ``aliyun.com/gpu-mem``."""
    return GPU_MEMORY in _resources(node) or isolation_is_on(_labels(node))


def isolation_is_on(labels: Mapping[str, str]) -> bool:
    """Whether one of the labels is there that turn Alibaba's isolation on."""
    return any(f"{name}={value}" in shipped().isolation_labels for name, value in labels.items())


def node_name(node: Mapping[str, Any]) -> str:
    """The Node's name."""
    return str(_mapping(node.get("metadata")).get("name") or "")


def facts_of_node(node: Mapping[str, Any]) -> Facts:
    """What a Node object alone tells. What has another form than a fact's is not known, and says so."""
    labels = _labels(node)
    info = _mapping(_mapping(node.get("status")).get("nodeInfo"))
    given = {name: Fact(None, NOT_IN_A_NODE) for name in _ONLY_ON_THE_NODE}
    given["node"] = _checked("node", node_name(node), "Node: metadata.name")
    given["labels"] = _checked("labels", labels, "Node: metadata.labels")
    given["kernel"] = _checked("kernel", info.get("kernelVersion"), "Node: status.nodeInfo.kernelVersion")
    given["os"] = _checked("os", info.get("osImage"), "Node: status.nodeInfo.osImage")
    given["container_os"] = _container_os(info)
    given["kubernetes"] = _checked("kubernetes", info.get("kubeletVersion"), "Node: status.nodeInfo.kubeletVersion")
    given["driver"] = _driver(labels)
    given["instance"] = _instance(labels)
    given["gpus"] = _gpus(node, labels)
    given.update(_runtimes(str(info.get("containerRuntimeVersion") or "")))
    return Facts(given)


def _container_os(info: Mapping[str, Any]) -> Fact:
    name, kernel = str(info.get("osImage") or ""), str(info.get("kernelVersion") or "")
    if not name:
        return Fact(None, "Node: status.nodeInfo.osImage is empty")
    found = container_os.is_name(name) or container_os.is_alibabas_edition(name) or container_os.is_kernel(kernel)
    return Fact(found, "Node: status.nodeInfo.osImage and kernelVersion")


def _driver(labels: Mapping[str, str]) -> Fact:
    if _DRIVER_LABEL in labels:
        return _checked("driver", labels[_DRIVER_LABEL], f"label {_DRIVER_LABEL}")
    for parts in _DRIVER_PARTS:
        # A driver such as 460.73 has no third number.
        if all(part in labels for part in parts[:2]):
            return _checked("driver", ".".join(labels[part] for part in parts if labels.get(part)), f"label {parts[0]}")
    if _WANTED_DRIVER_LABEL in labels:
        how = f"label {_WANTED_DRIVER_LABEL}: what the node pool asks for; --probe reads what is installed"
        return _checked("driver", labels[_WANTED_DRIVER_LABEL], how)
    return Fact(None, "no label of the node tells it; --probe reads it")


def _instance(labels: Mapping[str, str]) -> Fact:
    label = next((label for label in _INSTANCE_LABELS if label in labels), None)
    if label is None:
        return Fact(None, f"the node has no label {_INSTANCE_LABELS[0]}")
    return _checked("instance", labels[label], f"label {label}")


def _gpus(node: Mapping[str, Any], labels: Mapping[str, str]) -> Fact:
    for label in _COUNT_LABELS:
        if labels.get(label, "").isdecimal():
            return Fact(int(labels[label]), f"label {label}")
    resources = _resources(node)
    for name in _COUNT_RESOURCES:
        count = resources.get(name, "")
        # The modes that a node is not in report 0 of theirs.
        if count.isdecimal() and int(count) > 0:
            return Fact(int(count), f"Node: status.capacity of {name}")
    return Fact(None, "neither a label nor a resource of the node counts them; --probe reads it")


def _runtimes(text: str) -> dict[str, Fact]:
    kind, _, version = text.partition("://")
    how = "Node: status.nodeInfo.containerRuntimeVersion"
    return {
        name: _checked(name, version, how) if name == kind else Fact(None, f"the kubelet's container runtime is {text}")
        for name in _RUNTIMES
    }


# --- pods


def asks_for_gpu_memory(pod: Mapping[str, Any]) -> bool:
    """Whether a pod shares a GPU: it asks for ``aliyun.com/gpu-mem`` and has not ended."""
    if _mapping(pod.get("status")).get("phase") in _ENDED:
        return False
    spec = _mapping(pod.get("spec"))
    containers = (container for key in ("containers", "initContainers") for container in spec.get(key) or ())
    return any(
        str(_mapping(_mapping(container.get("resources")).get(kind)).get(GPU_MEMORY) or "0") != "0"
        for container in containers
        for kind in ("limits", "requests")
    )


def gpus_of_pod(pod: Mapping[str, Any]) -> tuple[str, ...]:
    """The indices of the GPUs that a pod was given; empty where its annotations name none.

    ``scheduler.framework.gpushare.allocation`` is a JSON object, container to GPU to memory;
    ``ALIYUN_COM_GPU_MEM_IDX``, which is older, has one index or several with commas, or -1.
    """
    annotations = _mapping(_mapping(pod.get("metadata")).get("annotations"))
    try:
        containers = json.loads(annotations.get("scheduler.framework.gpushare.allocation") or "{}")
        found = {str(gpu) for gpus in containers.values() for gpu, memory in gpus.items() if memory}
    except (ValueError, AttributeError, TypeError, RecursionError):
        found = set()
    if not found:
        found = {part.strip() for part in str(annotations.get("ALIYUN_COM_GPU_MEM_IDX") or "").split(",")}
    return tuple(sorted(gpu for gpu in found if gpu.isdecimal()))


@dataclass
class PodCounts:
    """How many pods share each GPU, counted pod by pod."""

    by_node: dict[str, Counter[str]] = field(default_factory=dict)
    unplaced: Counter[str] = field(default_factory=Counter)
    """Pods by node whose annotations name no GPU."""

    def add(self, pod: Mapping[str, Any]) -> None:
        """Count one."""
        node = str(_mapping(pod.get("spec")).get("nodeName") or "")
        gpus = gpus_of_pod(pod)
        if gpus:
            self.by_node.setdefault(node, Counter()).update(gpus)
        else:
            self.unplaced[node] += 1

    def fact(self, node: str, gpus: int | None) -> Fact:
        """The fact ``pods_per_gpu`` of a node that has so many GPUs."""
        counts, unplaced = dict(sorted(self.by_node.get(node, Counter()).items())), self.unplaced[node]
        how = f"annotations of the node's pods that ask for {GPU_MEMORY}"
        if unplaced and gpus == 1:
            return Fact({"0": counts.get("0", 0) + unplaced}, f"{how}, and the node's only GPU")
        return Fact(counts, f"{how}; {unplaced} of them name no GPU" if unplaced else how)


# --- DaemonSets

_NAME_LABEL: Final = "app.kubernetes.io/name"
_OURS: Final = "cgpu"


@dataclass(frozen=True, slots=True)
class DaemonSet:
    """A DaemonSet that concerns GPUs, and which nodes it chooses."""

    name: str
    """NAMESPACE/NAME."""

    selector: Mapping[str, str]
    terms: tuple[tuple[Mapping[str, Any], ...], ...]
    """Alternatives of required node affinity, each all of its expressions; none: no affinity is required."""

    def chooses(self, labels: Mapping[str, str], node: str) -> bool:
        """Whether its pods run on a node of these labels, as far as taints let them."""
        return NodeSelection(self.selector, self.terms).chooses(labels, node)


def gpu_daemon_set(item: Mapping[str, Any]) -> DaemonSet | None:
    """The DaemonSet when it is one of Alibaba's for GPUs, or ours; None for every other."""
    metadata = _mapping(item.get("metadata"))
    name, labels = str(metadata.get("name")), _mapping(metadata.get("labels"))
    if name not in ALIBABA_DAEMONSETS and labels.get(_NAME_LABEL) != _OURS:
        return None
    spec = _mapping(_mapping(_mapping(item.get("spec")).get("template")).get("spec"))
    chosen = selection_of(spec)
    return DaemonSet(f"{metadata.get('namespace')}/{name}", chosen.selector, chosen.terms)


def daemon_sets_fact(sets: Iterable[DaemonSet], facts: Facts) -> Fact:
    """The fact ``daemonsets`` of a node."""
    labels, node = facts.value("labels") or {}, facts.value("node") or ""
    names = sorted(item.name for item in sets if item.chooses(labels, node))
    return Fact(names, "DaemonSets whose node selector and affinity choose the node")


# --- what the probe adds


def with_probe(facts: Facts, probed: Facts) -> Facts:
    """With what was read on the node itself instead of what the API tells.

    The node's name, labels and instance type stay the API's. Where neither knows, the probe's reason stands.
    """
    read = {name: probed[name] for name in probed if name not in _FROM_THE_API and name in probed.given}
    merged = facts.merged(read)
    reasons = {name: fact for name, fact in read.items() if not merged[name].known}
    return Facts({**merged.given, **reasons})


def without_probe(facts: Facts, reason: str) -> Facts:
    """With the reason why the node was not probed, at each fact that only a probe could tell."""
    missing = {name: Fact(None, f"the probe failed: {reason}") for name in _ONLY_ON_THE_NODE}
    return Facts({**facts.given, **missing})


def _checked(name: str, value: object, how: str) -> Fact:
    """The fact, or why its value is none."""
    if value is None or value == "":
        return Fact(None, f"{how} is empty")
    try:
        Facts({name: Fact(value, how)})
    except FactError as error:
        return Fact(None, f"{how}: {error.message}")
    return Fact(value, how)


def _labels(node: Mapping[str, Any]) -> dict[str, str]:
    labels = _mapping(_mapping(node.get("metadata")).get("labels"))
    return {str(name): str(value) for name, value in labels.items()}


def _resources(node: Mapping[str, Any]) -> dict[str, str]:
    """Capacity, and where it lacks one, what is allocatable."""
    status = _mapping(node.get("status"))
    both = {**_mapping(status.get("allocatable")), **_mapping(status.get("capacity"))}
    return {str(name): str(amount) for name, amount in both.items()}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
