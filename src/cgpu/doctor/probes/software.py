"""Facts of the software that starts containers: runtimes, container toolkit, kubelet, CDI."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from cgpu.doctor.facts import Fact
from cgpu.doctor.probes import files
from cgpu.doctor.probes.node import Attempt, Node, first_known, quoted, version_fact
from cgpu.doctor.probes.tree import UnknownError

_POLICY: Final = re.compile(r"""^cpuManagerPolicy:[ \t]*["']?([A-Za-z-]+)["']?[ \t]*(?:#.*)?$""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class VersionSource:
    """Where the version of a program is known from."""

    prints: Mapping[str, str]
    """What its commands print: a pattern with the version as its group, by the command's name."""

    packages: tuple[str, ...]
    """The packages that it comes in."""


VERSIONS: Final[Mapping[str, VersionSource]] = {
    "toolkit": VersionSource(
        {
            "nvidia-ctk": r"^NVIDIA Container Toolkit CLI version v?(\S+)",
            "nvidia-container-toolkit": r"^NVIDIA Container Runtime Hook version v?(\S+)",  # nvidia-ctk is newer
        },
        ("nvidia-container-toolkit", "nvidia-container-toolkit-base"),
    ),
    "docker": VersionSource(
        # docker tells the client's version, which comes with the engine's; podman-docker says podman.
        {"dockerd": r"^Docker version ([^\s,]+)", "docker": r"^Docker version ([^\s,]+)"},
        ("docker-ce", "docker.io", "moby-engine", "docker"),
    ),
    # "containerd containerd.io 1.6.28 ae07eda...", "containerd github.com/containerd/containerd/v2 v2.1.3 c787fb9..."
    "containerd": VersionSource({"containerd": r"^containerd \S+ v?(\S+)"}, ("containerd.io", "containerd")),
    "podman": VersionSource({"podman": r"^podman version v?(\S+)"}, ("podman",)),
    "runc": VersionSource({"runc": r"^runc version v?(\S+)"}, ("runc",)),
    "crun": VersionSource({"crun": r"^crun version v?(\S+)"}, ("crun",)),
    "kubernetes": VersionSource({"kubelet": r"^Kubernetes v?(\S+)"}, ("kubelet",)),
}


def version_probe(fact: str) -> Callable[[Node], Fact]:
    """The probe of one of ``VERSIONS``: its commands first, then its packages."""
    source = VERSIONS[fact]

    def probe(node: Node) -> Fact:
        attempts: list[Attempt] = [
            partial(_printed, node, fact, command, pattern) for command, pattern in source.prints.items()
        ]
        return first_known([*attempts, lambda: node.package(fact, source.packages)])

    return probe


def _printed(node: Node, fact: str, command: str, pattern: str) -> Fact:
    text, how = node.output(command)
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise UnknownError(f"{how}: not understood: {quoted(text)}")
    return version_fact(fact, match[1], how)


def cpu_manager(node: Node) -> Fact:
    """The kubelet's CPU manager policy: the one in force by its state file, else the configured one."""
    return first_known((lambda: _policy_of_state(node), lambda: _policy_of_config(node)))


def _policy_of_state(node: Node) -> Fact:
    state = json_object(node.text(files.CPU_MANAGER_STATE))
    policy = state.get("policyName") if state else None
    if not isinstance(policy, str) or not policy:
        raise UnknownError(f"/{files.CPU_MANAGER_STATE}: it names no policy")
    return Fact(policy, f"/{files.CPU_MANAGER_STATE}")


def _policy_of_config(node: Node) -> Fact:
    text, how = node.text(files.KUBELET_CONFIG), f"/{files.KUBELET_CONFIG}"
    if "KubeletConfiguration" not in text:
        raise UnknownError(f"{how}: not a kubelet's configuration")
    document = json_object(text)
    if document is not None:
        policy = document.get("cpuManagerPolicy", "none")
        if isinstance(policy, str) and policy:
            return Fact(policy, how)
        raise UnknownError(f"{how}: it names no policy")
    match = _POLICY.search(text)
    if match is not None:
        return Fact(match[1], how)
    if "cpuManagerPolicy:" in text:
        raise UnknownError(f"{how}: its policy is not understood")
    return Fact("none", f"{how}: cpuManagerPolicy is not set")


def json_object(text: str) -> dict[str, object] | None:
    """A JSON object; None of anything else."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def cdi_dirs(node: Node) -> Fact:
    """The folders of CDI specifications that there are, by their names on the node."""
    found = [f"/{folder}" for folder in files.CDI_FOLDERS if node.tree.is_folder(folder)]
    if not found and not node.is_there():
        raise UnknownError(f"/{files.CDI_FOLDERS[0]}: no such folder", absent=True)
    return Fact(found, ", ".join(f"/{folder}" for folder in files.CDI_FOLDERS))
