"""The ordered plan of an upgrade, with its commands; pure, and nothing here runs any of them.

The order is that of Alibaba Cloud's documentation: the component first, a backup of the system disk,
then one node, then the others, and no GPU application runs on a node while it is upgraded. On a
node the kernel comes before the driver, which is built for it, and cGPU's modules, which lie upon the
driver, go first and come back last.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cgpu.compat.verdict import Check, Verdict
from cgpu.doctor.facts import ABSENT, Facts
from cgpu.doctor.outcome import Report

_VERSION: Final = re.compile(r"[0-9]+(?:\.[0-9]+)+(?:[-.+~_0-9A-Za-z]*)")
_ANY_NODE: Final = '"$node"'
_NODE_FACTS: Final = ("cgpu", "driver", "kernel", "toolkit", "container_os")
_FROM_COMPAT: Final = ("driver", "instance", "toolkit", "kernel", "issue:", "requirement:", "installer", "ours:")


class Where(StrEnum):
    """Who can take a step."""

    CONSOLE = "console only"
    """Only in Alibaba Cloud's console (or by its API)."""

    KUBECTL = "kubectl"
    """From wherever kubectl reaches the cluster."""

    NODE = "on the node"
    """As root on the node itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what it does, where, and its shell commands if there are any."""

    what: str
    where: Where
    commands: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The stable machine-readable form."""
        return {"what": self.what, "where": self.where.value, "commands": list(self.commands)}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is to be done on a node, whatever its name: nodes of one recipe have one plan."""

    possible: bool
    needed: bool
    text: str
    changes: tuple[tuple[str, str, str, str], ...]
    """Of each: the fact, its value, what it becomes, and why."""

    kubernetes: bool
    """Whether the node is one of a cluster."""

    runtime: str
    """The service that starts its containers: ``docker`` or ``containerd``."""

    os: str
    """The distribution's kind, for its package manager: ``apt``, ``yum`` or empty."""

    also: tuple[str, ...]
    """What to mend beside the upgrade."""

    @classmethod
    def of(cls, report: Report) -> Recipe:
        """From a report."""
        advice, facts = report.advice, report.facts
        also = tuple(dict.fromkeys(f"{check.name}: {check.advice}" for check in report.checks if _is_own(check)))
        if advice is None:
            return cls(True, False, _nothing(report), (), True, "", "", also)
        changes = tuple((change.fact, change.current, change.to, change.why) for change in advice.changes)
        return cls(
            possible=advice.possible,
            needed=advice.needed,
            text=advice.text,
            changes=changes,
            kubernetes=facts.value("kubernetes") != ABSENT,
            runtime=_runtime(facts),
            os=_packager(facts.value("os") or ""),
            also=also,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe and the nodes that it is for."""

    recipe: Recipe
    nodes: tuple[str, ...]
    """Names, in the order in which they were examined; empty where the node's name is not known."""

    count: int
    """How many nodes, those without a name included."""

    @property
    def before(self) -> tuple[Step, ...]:
        """The steps that are taken once."""
        return tuple(_once(self.recipe)) if self._acts else ()

    @property
    def first(self) -> tuple[Step, ...]:
        """The steps on the first node."""
        name = _quoted(self.nodes[0]) if self.nodes else _ANY_NODE
        return tuple(_on_node(self.recipe, name)) if self._acts else ()

    @property
    def rest(self) -> tuple[Step, ...]:
        """The steps on each of the others, whose name is in the shell's variable ``node``."""
        return tuple(_on_node(self.recipe, _ANY_NODE)) if self._acts and self.count > 1 else ()

    @property
    def _acts(self) -> bool:
        return self.recipe.possible and self.recipe.needed

    def as_json(self) -> dict[str, Any]:
        """The stable machine-readable form."""
        recipe = self.recipe
        names = ("fact", "from", "to", "why")
        return {
            "nodes": list(self.nodes),
            "possible": recipe.possible,
            "needed": recipe.needed,
            "text": recipe.text,
            "changes": [dict(zip(names, change, strict=True)) for change in recipe.changes],
            "before": [step.as_json() for step in self.before],
            "first_node": [step.as_json() for step in self.first],
            "other_nodes": [step.as_json() for step in self.rest],
            "also": list(recipe.also),
        }


class Plans:
    """Collects nodes into plans; holds their names, not their reports."""

    def __init__(self) -> None:
        self._nodes: dict[Recipe, list[str]] = {}
        self._counts: dict[Recipe, int] = {}

    def add(self, report: Report) -> None:
        """One more node."""
        recipe = Recipe.of(report)
        self._counts[recipe] = self._counts.get(recipe, 0) + 1
        names = self._nodes.setdefault(recipe, [])
        name = report.facts.value("node")
        if name is not None:
            names.append(name)

    def all(self) -> tuple[Plan, ...]:
        """Those that something has to be done for first, and of these the ones of most nodes."""
        plans = [Plan(recipe, tuple(names), self._counts[recipe]) for recipe, names in self._nodes.items()]
        return tuple(sorted(plans, key=lambda plan: (_urgency(plan.recipe), -plan.count)))


def plans_of(reports: Iterable[Report]) -> tuple[Plan, ...]:
    """The plans of some nodes, grouped by what is to be done."""
    plans = Plans()
    for report in reports:
        plans.add(report)
    return plans.all()


def _nothing(report: Report) -> str:
    """Why there is no advice."""
    if any(check.name == "isolation" and check.verdict is Verdict.NOT_OBSERVED for check in report.checks):
        return (
            "which cGPU is on the node is not known, so nothing can be planned: run it there, or with --cluster --probe"
        )
    return "no cGPU of Alibaba's is on the node: there is nothing to upgrade"


def _urgency(recipe: Recipe) -> int:
    if recipe.needed and recipe.possible:
        return 0
    return 2 if recipe.possible and not recipe.also else 1


def _is_own(check: Check) -> bool:
    """Whether a check needs mending that no upgrade brings."""
    bad = check.verdict in (Verdict.UNSUPPORTED, Verdict.CONFLICT)
    return bad and bool(check.advice) and not check.name.startswith(_FROM_COMPAT)


def _runtime(facts: Facts) -> str:
    return "docker" if facts.version("docker") and not facts.version("kubernetes") else "containerd"


def _packager(os: str) -> str:
    if any(word in os for word in ("Ubuntu", "Debian")):
        return "apt"
    return "yum" if any(word in os for word in ("Alibaba Cloud Linux", "CentOS", "Red Hat", "Anolis")) else ""


def _quoted(name: str) -> str:
    """As one word of a shell's command, and not as an option."""
    quoted = shlex.quote(name)
    return f"-- {quoted}" if name.startswith("-") else quoted


def _once(recipe: Recipe) -> Iterator[Step]:
    changes = {fact: to for fact, _, to, _ in recipe.changes}
    if recipe.kubernetes and ("cgpu" in changes or "installer" in changes):
        version = f" to {changes['installer']}" if "installer" in changes else " to the latest version"
        target = f"; new nodes then get cGPU {changes['cgpu']} or later" if "cgpu" in changes else ""
        yield Step(f"upgrade the component ack-ai-installer{version} (cluster > Add-ons){target}", Where.CONSOLE)
    if "instance" in changes:
        yield Step(
            f"add nodes of another instance type ({changes['instance']}): a node's cannot be changed", Where.CONSOLE
        )
    if any(fact in changes for fact in _NODE_FACTS):
        yield Step("back up the system disk of every node: a snapshot", Where.CONSOLE)


def _on_node(recipe: Recipe, name: str) -> Iterator[Step]:
    changes = {fact: to for fact, _, to, _ in recipe.changes}
    if not any(fact in changes for fact in _NODE_FACTS):
        return
    yield from _emptied(recipe, name)
    if "cgpu" in changes or "driver" in changes or "kernel" in changes:
        yield Step(
            "remove the loaded cGPU",
            Where.NODE,
            (f"systemctl stop {recipe.runtime}", "bash /usr/local/cgpu-installer/uninstall.sh"),
        )
    if "kernel" in changes or "container_os" in changes:
        system = changes.get("container_os") or f"kernel {changes.get('kernel')}"
        yield Step(f"replace the system disk by an image with {system}", Where.CONSOLE)
    if "driver" in changes:
        yield _driver(changes["driver"])
    if "toolkit" in changes:
        yield _toolkit(changes["toolkit"], recipe.os)
    if "cgpu" in changes and not recipe.kubernetes:
        yield Step(f"install cGPU {changes['cgpu']}, in the folder of its installer", Where.NODE, ("./install.sh",))
    installs = "; the DaemonSet cgpu-installer then installs cGPU" if recipe.kubernetes else ""
    yield Step(f"reboot it{installs}", Where.NODE, ("reboot",))
    yield Step(
        f"verify: cGPU is {changes.get('cgpu', 'loaded')}, and the doctor finds nothing",
        Where.NODE,
        ("cat /proc/cgpu_km/version", "cgpu doctor"),
    )
    if recipe.kubernetes:
        yield Step("let pods come back", Where.KUBECTL, (f"kubectl uncordon {name}",))


def _emptied(recipe: Recipe, name: str) -> Iterator[Step]:
    if not recipe.kubernetes:
        yield Step("stop all containers that use a GPU", Where.NODE, (f"{recipe.runtime} ps", "nvidia-smi"))
        return
    selector = name.removeprefix("-- ")
    yield Step(
        "stop all GPU applications: scale down or delete what owns these pods",
        Where.KUBECTL,
        (f"kubectl get pods --all-namespaces --output wide --field-selector spec.nodeName={selector}",),
    )
    yield Step("let no new pod come", Where.KUBECTL, (f"kubectl cordon {name}",))
    yield Step(
        "move the others away", Where.KUBECTL, (f"kubectl drain --ignore-daemonsets --delete-emptydir-data {name}",)
    )


def _driver(to: str) -> Step:
    note = "in a node pool, set the label ack.aliyun.com/nvidia-driver-version of the pool too, for nodes to come"
    if _VERSION.fullmatch(to):
        command = f"bash NVIDIA-Linux-x86_64-{to}.run --silent"
        return Step(f"install the NVIDIA driver {to}, downloaded from nvidia.com; {note}", Where.NODE, (command,))
    return Step(f"install an NVIDIA driver: {to}; {note}", Where.NODE)


def _toolkit(to: str, packager: str) -> Step:
    if not _VERSION.fullmatch(to):
        return Step(f"install another nvidia-container-toolkit: {to}", Where.NODE)
    commands = {
        "apt": (f"apt-get install --allow-downgrades nvidia-container-toolkit={shlex.quote(to)}",),
        "yum": (f"yum install nvidia-container-toolkit-{shlex.quote(to)}",),
    }
    return Step(f"install nvidia-container-toolkit {to}", Where.NODE, commands.get(packager, ()))
