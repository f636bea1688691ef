"""Objects of a cluster as ACK has them: nodes, pods that share GPUs, DaemonSets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

Json = dict[str, Any]
_IMAGES = [
    {
        "names": [
            f"registry-cn-hangzhou-vpc.ack.aliyuncs.com/acs/component-{index}@sha256:{index:064x}",
            f"registry-cn-hangzhou-vpc.ack.aliyuncs.com/acs/component-{index}:v1.{index}.0-aliyun",
        ],
        "sizeBytes": 10_000_000 + index,
    }
    for index in range(40)
]


def gpu_node(name: str, labels: Mapping[str, str] | None = None, **info: str) -> Json:
    """A node with one T4 in the mode that isolates memory: about 13 KB, with its images as real ones have."""
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "labels": {
                "ack.node.gpu.schedule": "cgpu",
                "aliyun.accelerator/nvidia_count": "1",
                "aliyun.accelerator/nvidia_mem": "15109MiB",
                "aliyun.accelerator/nvidia_name": "Tesla-T4",
                "kubernetes.io/hostname": name,
                "node.kubernetes.io/instance-type": "ecs.gn6i-c4g1.xlarge",
                **(labels or {}),
            },
            "managedFields": [{"manager": "kubelet", "fieldsV1": {f"f:label-{n}": {} for n in range(60)}}],
        },
        "spec": {"podCIDR": "10.0.0.0/25", "providerID": f"cn-hangzhou.i-{name}"},
        "status": {
            "capacity": {"cpu": "4", "aliyun.com/gpu-mem": "14", "aliyun.com/gpu-count": "1", "nvidia.com/gpu": "0"},
            "allocatable": {"cpu": "3900m", "aliyun.com/gpu-mem": "14", "aliyun.com/gpu-count": "1"},
            "nodeInfo": {
                "kernelVersion": "5.10.134-16.3.al8.x86_64",
                "osImage": "Alibaba Cloud Linux 3.2104 LTS",
                "containerRuntimeVersion": "containerd://1.6.28",
                "kubeletVersion": "v1.30.1-aliyun.1",
                **info,
            },
            "images": _IMAGES,
            "conditions": [{"type": "Ready", "status": "True", "message": "kubelet is posting ready status" * 3}],
        },
    }


def plain_node(name: str) -> Json:
    """A node with no GPU."""
    node = gpu_node(name)
    node["metadata"]["labels"] = {"kubernetes.io/hostname": name, "node.kubernetes.io/instance-type": "ecs.g7.large"}
    node["status"]["capacity"] = node["status"]["allocatable"] = {"cpu": "4"}
    return node


class ManyNodes(Sequence[Json]):
    """So many GPU nodes, each made when it is asked for; every tenth node beyond them has none."""

    def __init__(self, count: int, every_other: int = 10) -> None:
        self._count = count
        self._every_other = every_other

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Json: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Json]: ...
    def __getitem__(self, index: int | slice) -> Json | Sequence[Json]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self._count))]
        if index >= self._count:
            raise IndexError
        name = f"cn-hangzhou.10.{index // 250}.{index % 250}"
        return gpu_node(name) if index % self._every_other else plain_node(name)


def gpu_pod(name: str, node: str, gpu: str | None = "0", phase: str = "Running") -> Json:
    """A pod that asks for 3 GiB of a GPU's memory."""
    annotations = {} if gpu is None else {"ALIYUN_COM_GPU_MEM_IDX": gpu, "ALIYUN_COM_GPU_MEM_ASSIGNED": "true"}
    return {
        "metadata": {"name": name, "namespace": "team-a", "annotations": annotations},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "resources": {"limits": {"aliyun.com/gpu-mem": "3"}}}],
        },
        "status": {"phase": phase},
    }


def daemon_set(
    name: str, selector: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None,
    terms: Sequence[Json] = (),
) -> Json:  # fmt: skip
    """A DaemonSet in kube-system."""
    spec: Json = {"nodeSelector": dict(selector or {})}
    if terms:
        spec["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
        }
    return {
        "metadata": {"name": name, "namespace": "kube-system", "labels": dict(labels or {})},
        "spec": {"template": {"spec": spec}},
    }
