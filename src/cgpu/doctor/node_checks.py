"""Checks beyond the matrices: what is on the node, and whether it goes together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from cgpu.compat.dataset import Dataset
from cgpu.compat.verdict import Check, Verdict
from cgpu.doctor.facts import ABSENT, Facts

# The DaemonSets of ack-ai-installer and of its predecessor ack-cgpu. `migparted-device-plugin` and
# `nvidia-device-plugin-recover` share nothing, but they too hand out the same cards.
ALIBABA_DAEMONSETS: Final = frozenset(
    {
        "cgpu-installer",
        "cgpu-core-installer",
        "gpushare-installer",
        "gpushare-device-plugin-ds",
        "gpushare-core-device-plugin-ds",
        "gpushare-mps-device-plugin-ds",
        "gputopo-device-plugin-ds",
        "migparted-device-plugin",
        "nvidia-device-plugin-recover",
        "device-plugin-evict",
        "device-plugin-evict-ds",
        "device-plugin-recover",
        "device-plugin-recover-ds",
    }
)
_DOCTOR: Final = "cgpu doctor"
_ACK: Final = "Alibaba Cloud Container Service for Kubernetes documentation"
_LIMITS: Final = f"{_ACK}, shared GPU scheduling, limits"
_ONE_OWNER: Final = "remove one of the two: both would promise the same memory and time of the card"


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the facts say about who shares the node's GPUs."""

    facts: Facts
    labels: tuple[str, ...]
    """The labels that turn isolation on, as ``cgpu=true``."""

    label_texts: frozenset[str]
    """All labels, as ``key=value``."""

    active: bool
    """Alibaba's cGPU is on the node: it tells its version, or a module of it is loaded."""

    @classmethod
    def of(cls, dataset: Dataset, facts: Facts) -> Self:
        """Read the facts."""
        texts = frozenset(f"{key}={value}" for key, value in (facts.value("labels") or {}).items())
        labels = tuple(label for label in dataset.isolation_labels if label in texts)
        active = facts.version("cgpu") is not None or bool(facts.value("modules"))
        return cls(facts, labels, texts, active)

    @property
    def isolation(self) -> bool:
        """Whether a label turns isolation on."""
        return bool(self.labels)

    @property
    def alibaba(self) -> bool:
        """Whether Alibaba's cGPU is a matter of this node."""
        return self.active or self.isolation


def check_node(dataset: Dataset, state: NodeState) -> Iterator[Check]:
    """The checks that no matrix makes."""
    yield from _check_gpu(state)
    yield from _check_presence(dataset, state)
    yield from _check_isolation(dataset, state)
    yield from _check_cpu_manager(state)
    yield from _check_daemonsets(state)
    yield from _check_two(state)


def _check_gpu(state: NodeState) -> Iterator[Check]:
    """No card at all, or a card that no driver serves."""
    gpus, driver = state.facts["gpus"], state.facts["driver"]
    if gpus.value == 0:
        labelled = f", but the label {state.labels[0]} says that its GPUs are shared" if state.labels else ""
        yield Check(
            "gpu",
            Verdict.UNSUPPORTED if state.labels else Verdict.NOT_OBSERVED,
            "0",
            f"there is no NVIDIA GPU on this node{labelled}",
            f"{_DOCTOR}: {gpus.how}",
            "if there should be one, look for it with `lspci -d 10de:`",
        )
    elif gpus.known and driver.value == ABSENT:
        yield Check(
            "gpu-driver",
            Verdict.UNSUPPORTED,
            ABSENT,
            f"{gpus.value} NVIDIA GPU(s), but no driver is loaded",
            f"{_DOCTOR}: {driver.how}",
            "install the NVIDIA driver, or look in `dmesg` for why its module did not load",
        )
    elif gpus.known:
        verdict = Verdict.SUPPORTED if driver.known else Verdict.NOT_OBSERVED
        rule = "the card has a driver" if driver.known else f"not known: driver: {driver.how}"
        yield Check("gpu-driver", verdict, driver.value or "", rule, f"{_DOCTOR}: {gpus.how}")


def _check_presence(dataset: Dataset, state: NodeState) -> Iterator[Check]:
    """That a node without Alibaba's cGPU is fine is said once."""
    if state.alibaba:
        return
    cgpu, labels = state.facts["cgpu"], state.facts["labels"]
    if cgpu.value == ABSENT:
        yield Check("cgpu", Verdict.SUPPORTED, ABSENT, "Alibaba's cGPU is not on this node", f"{_DOCTOR}: {cgpu.how}")
    elif labels.known:
        rule = f"no label turns isolation on: none of {', '.join(dataset.isolation_labels)}"
        yield Check("cgpu", Verdict.SUPPORTED, "", rule, dataset.source)
    else:
        yield Check(
            "cgpu",
            Verdict.NOT_OBSERVED,
            "",
            f"not known: cgpu: {cgpu.how}; labels: {labels.how}",
            _DOCTOR,
            'give `cgpu` ("none" where there is none) or `labels` in a file for --facts',
        )


def _check_isolation(dataset: Dataset, state: NodeState) -> Iterator[Check]:
    """A label promises isolation: something has to keep the promise."""
    if not state.isolation:
        return
    cgpu, modules = state.facts["cgpu"], state.facts["modules"]
    label = state.labels[0]
    if state.active:
        yield Check("isolation", Verdict.SUPPORTED, label, "isolation is on, and cGPU is loaded", dataset.source)
    elif cgpu.value == ABSENT or modules.value == []:
        how = cgpu.how if cgpu.value == ABSENT else modules.how
        yield Check(
            "isolation",
            Verdict.UNSUPPORTED,
            label,
            f"the label turns isolation on, but no module of cGPU is loaded ({how}): containers are not kept apart",
            dataset.source,
            "see why the DaemonSet cgpu-installer did not install it (`kubectl logs`, `dmesg`), or set the node's label"
            " ack.node.gpu.schedule to default",
        )
    else:
        yield Check(
            "isolation",
            Verdict.NOT_OBSERVED,
            label,
            f"not known: cgpu: {cgpu.how}; modules: {modules.how}",
            dataset.source,
            "run cgpu doctor on the node, or with --cluster --probe",
        )


def _check_cpu_manager(state: NodeState) -> Iterator[Check]:
    policy = state.facts["cpu_manager"]
    if not state.alibaba or state.facts.value("kubernetes") == ABSENT:
        return
    if not policy.known:
        rule = f"not known: cpu_manager: {policy.how}"
        yield Check("cpu-manager", Verdict.NOT_OBSERVED, "", rule, _LIMITS, "see the kubelet's cpuManagerPolicy")
    elif policy.value == "static":
        yield Check(
            "cpu-manager",
            Verdict.UNSUPPORTED,
            policy.value,
            "shared GPU scheduling does not work where the kubelet's CPU manager policy is static",
            _LIMITS,
            "set cpuManagerPolicy to none in the kubelet's configuration, delete /var/lib/kubelet/cpu_manager_state on"
            " the drained node, and restart the kubelet",
        )
    else:
        yield Check("cpu-manager", Verdict.SUPPORTED, policy.value, "the CPU manager policy is not static", _LIMITS)


def _check_daemonsets(state: NodeState) -> Iterator[Check]:
    sets = state.facts.value("daemonsets")
    if not sets:
        return
    alibaba = sorted(name for name in sets if name.rpartition("/")[2] in ALIBABA_DAEMONSETS)
    ours = sorted(name for name in sets if name not in alibaba and "cgpu" in name.rpartition("/")[2])
    if not alibaba and not ours:
        return
    how = f"{_DOCTOR}: {state.facts['daemonsets'].how}"
    if alibaba and (ours or state.facts.value("agent") is True):
        beside = ", ".join(ours) or "our agent"
        rule = f"Alibaba's {', '.join(alibaba)} on a node with {beside}"
        advice = "give the node one of the two only, by the DaemonSets' node selectors"
        yield Check("daemonsets", Verdict.UNSUPPORTED, ", ".join(sorted([*alibaba, *ours])), rule, how, advice)
    else:
        rule = "the DaemonSets that share GPUs on this node are all of one kind"
        yield Check("daemonsets", Verdict.SUPPORTED, ", ".join([*alibaba, *ours]), rule, how)


def _check_two(state: NodeState) -> Iterator[Check]:
    if state.facts.value("agent") is not True:
        return
    cgpu = state.facts.version("cgpu")
    if state.active:
        value = cgpu or ", ".join(state.facts.value("modules"))
        rule = "Alibaba's cGPU is active on a node that our agent manages"
        yield Check("two-cgpus", Verdict.UNSUPPORTED, value, rule, _DOCTOR, _ONE_OWNER)
    elif state.facts.value("cgpu") == ABSENT:
        yield Check("two-cgpus", Verdict.SUPPORTED, ABSENT, "our agent has the node to itself", _DOCTOR)
