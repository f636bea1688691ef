"""All facts of a node at once: each has a probe of its own, and fails alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cgpu.doctor.facts import KINDS, Fact, Facts, check_value
from cgpu.doctor.probes import gpu, ours, software, system
from cgpu.doctor.probes.commands import CommandRunner
from cgpu.doctor.probes.node import Node
from cgpu.doctor.probes.tree import Tree, UnknownError
from cgpu.errors import FactError, UsageError

PROBES: Final[Mapping[str, Callable[[Node], Fact]]] = {
    "node": system.hostname,
    "driver": gpu.driver,
    "kernel": system.kernel,
    "os": system.distribution,
    "container_os": system.container_os,
    "cgpu": gpu.cgpu,
    "modules": gpu.modules,
    "cpu_manager": software.cpu_manager,
    "gpus": gpu.gpus,
    "cgroup": system.cgroup,
    "seccomp": system.seccomp,
    "glibc": system.glibc,
    "cdi_dirs": software.cdi_dirs,
    "agent": ours.agent,
    "tenants_per_gpu": ours.tenants_per_gpu,
    **{fact: software.version_probe(fact) for fact in software.VERSIONS},
}
"""The probe of each fact that a node's files and commands can tell."""


def probe_node(root: Path, *, runner: CommandRunner | None = None, metadata: bool = False) -> Facts:
    """The facts of the node whose root is ``root``, each known or with the reason why not.

    With a ``runner`` (``HostCommands`` on the node itself) commands tell some versions; without one
    their outputs are read below ``root``. With ``metadata`` the cloud's metadata service is asked for
    the instance type, which takes up to a second. Raises UsageError when there is no such folder;
    nothing that is in it raises anything.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder", "name the root of a node, or of a tree that has its files")
    node = Node(Tree(root), runner)
    facts = {name: _alone(name, probe, node) for name, probe in PROBES.items()}
    return Facts({**facts, "instance": _instance(metadata)})


def _alone(name: str, probe: Callable[[Node], Fact], node: Node) -> Fact:
    try:
        fact = probe(node)
        if fact.known:
            check_value(KINDS[name], fact.value)
    except UnknownError as error:
        return Fact(None, _one_line(str(error)))
    except FactError as error:
        return Fact(None, _one_line(f"{fact.how}: {error.message}"))
    return Fact(fact.value, _one_line(fact.how))


def _one_line(how: str) -> str:
    """Names in a tree may hold anything: bytes that are no text, or what moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in how)


def _instance(metadata: bool) -> Fact:
    if not metadata:
        return Fact(None, "neither a Kubernetes node's label nor the cloud's metadata service was looked at")
    from cgpu.doctor.probes.metadata import instance_type

    return instance_type()
