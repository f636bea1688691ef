"""Facts about a node: what each is, how it came to be known, and why one is not known.

A fact's value is a plain value as it stands in JSON. ``None`` means not observed, which is not the
same as absent: ``cgpu`` is ``"none"`` on a node that was looked at and has no cGPU of Alibaba's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cgpu.compat.versions import instance_family, parse_version
from cgpu.errors import FactError

ABSENT: Final = "none"
"""The value of a version of something that the node was seen not to have."""


@dataclass(frozen=True, slots=True)
class FactKind:
    """What a fact is."""

    name: str
    type: str
    """``version``, ``text``, ``bool``, ``int``, ``list`` (texts), ``labels`` (text: text), ``counts`` (text: int)."""

    meaning: str


KINDS: Final = {
    kind.name: kind
    for kind in (
        FactKind("node", "text", "the node's name"),
        FactKind("driver", "version", "NVIDIA driver"),
        FactKind("kernel", "version", "Linux kernel, as `uname -r` prints it"),
        FactKind("os", "text", "distribution, as PRETTY_NAME of os-release has it"),
        FactKind("container_os", "bool", "whether the distribution is Alibaba Cloud's container-optimized OS"),
        FactKind("toolkit", "version", "nvidia-container-toolkit"),
        FactKind("cgpu", "version", "Alibaba's cGPU"),
        FactKind("modules", "list", "kernel modules of Alibaba's cGPU that are loaded: km, cgpu_procfs, cgpu_km"),
        FactKind("installer", "version", "the component ack-ai-installer"),
        FactKind("instance", "text", "ECS instance type"),
        FactKind("labels", "labels", "the Kubernetes node's labels"),
        FactKind("kubernetes", "version", "the kubelet"),
        FactKind("cpu_manager", "text", "the kubelet's CPU manager policy: none or static"),
        FactKind("pods_per_gpu", "counts", "pods that share a GPU, by the GPU's index or UUID"),
        FactKind("daemonsets", "list", "DaemonSets of Alibaba's and ours, as NAMESPACE/NAME"),
        FactKind("gpus", "int", "number of NVIDIA GPUs"),
        FactKind("cgroup", "int", "version of the control groups: 1 (also where both are mounted) or 2"),
        FactKind("seccomp", "bool", "whether the kernel has seccomp filters with user notification"),
        FactKind("docker", "version", "Docker Engine"),
        FactKind("containerd", "version", "containerd"),
        FactKind("podman", "version", "Podman"),
        FactKind("runc", "version", "runc"),
        FactKind("crun", "version", "crun"),
        FactKind("glibc", "version", "GNU C library of the node or the image"),
        FactKind("cdi_dirs", "list", "folders of CDI specifications that exist"),
        FactKind("agent", "bool", "whether an agent of ours manages the node"),
        FactKind("tenants_per_gpu", "counts", "tenants of ours on a GPU, by its index or UUID"),
    )
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact."""

    value: Any
    """Plain JSON; None: not observed."""

    how: str
    """Where it came from (``/proc/driver/nvidia/version``), or why it is not known."""

    @property
    def known(self) -> bool:
        """Whether it was observed."""
        return self.value is not None


NOT_OBSERVED: Final = Fact(None, "not looked at")


@dataclass(frozen=True, slots=True)
class Facts(Mapping[str, Fact]):
    """All facts of a node, by name; what nobody looked at is ``NOT_OBSERVED``. Values are checked."""

    given: Mapping[str, Fact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises FactError for an unknown name and for a value of the wrong form."""
        for name, fact in self.given.items():
            if name not in KINDS:
                raise FactError(name, "there is no such fact", f"the facts are {', '.join(KINDS)}")
            if fact.known:
                check_value(KINDS[name], fact.value)

    def __getitem__(self, name: str) -> Fact:
        return self.given.get(name, NOT_OBSERVED if name in KINDS else self.given[name])

    def __iter__(self) -> Iterator[str]:
        return iter(KINDS)

    def __len__(self) -> int:
        return len(KINDS)

    def value(self, name: str) -> Any:
        """The value, or None."""
        return self[name].value

    def version(self, name: str) -> str | None:
        """A version that was observed and is not absent."""
        value = self[name].value
        return None if value in (None, ABSENT) else value

    def merged(self, other: Mapping[str, Fact]) -> Facts:
        """With the facts that ``other`` knows instead of one's own."""
        return Facts(
            {**self.given, **{name: fact for name, fact in other.items() if fact.known or name not in self.given}}
        )


def check_value(kind: FactKind, value: Any) -> None:
    """Raises FactError, which names the fact, unless the value has the kind's form."""
    if kind.type == "version":
        _require(kind, isinstance(value, str), value, "a version in quotes")
        if value != ABSENT:
            parse_version(kind.name, value)
    elif kind.type == "text":
        _require(kind, isinstance(value, str) and value.isprintable() and 0 < len(value) <= 256, value, "a text")
        if kind.name == "instance":
            instance_family(value)
    elif kind.type == "bool":
        _require(kind, isinstance(value, bool), value, "true or false")
    elif kind.type == "int":
        _require(kind, _is_count(value), value, "a whole number")
    elif kind.type == "list":
        _require(
            kind, isinstance(value, list) and all(isinstance(item, str) for item in value), value, "a list of texts"
        )
    elif kind.type == "labels":
        texts = isinstance(value, dict) and all(isinstance(item, str) for pair in value.items() for item in pair)
        _require(kind, texts, value, 'a mapping of texts to texts; write true as "true"')
    else:
        counts = isinstance(value, dict) and all(isinstance(k, str) and _is_count(v) for k, v in value.items())
        _require(kind, counts, value, "a mapping of GPUs to whole numbers")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(kind: FactKind, holds: bool, value: Any, form: str) -> None:
    if not holds:
        raise FactError(kind.name, f"not {form}: {value!r}", kind.meaning)
