"""Whether cgpu itself is whole in a cluster: checks of what was seen of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from cgpu.compat.verdict import Check, Verdict, worst_first
from cgpu.doctor.labels import SCHEDULE
from cgpu.k8s import names
from cgpu.k8s.allocations import Picture

SOURCE: Final = "the objects of cgpu in the cluster"
REPORT: Final = "cgpu in this cluster"
"""What the report is called, beside the nodes'."""

DEFAULT_QPS: Final = 20
"""Requests a second of a controller manager that is not told otherwise (kube-controller-manager, --kube-api-qps)."""

_REQUESTS_PER_CLAIM: Final = 2  # measured: 9.8 claims a second with the default
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of ours, as the API server knows it."""

    name: str
    service: str  # "namespace/name"; empty: it is reached by an URL
    endpoints: int | None  # that are ready; None: not known


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read. A part that may not be read is in ``missing`` with the reason."""

    kubernetes: str = ""
    api: bool = True  # resource.k8s.io/v1 is served
    device_class: bool = False
    labelled: tuple[str, ...] = ()  # nodes whose labels ask for sharing
    picture: Picture = field(default_factory=lambda: Picture({}))
    webhooks: tuple[Webhook, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)  # of our DaemonSets and Deployments
    claim_qps: int | None = None  # of the controller manager; None: its flags cannot be seen
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        """Whether anything of ours is there."""
        return bool(self.device_class or self.picture.nodes or self.webhooks or self.versions)


def check_installation(seen: Seen) -> tuple[Check, ...]:
    """All checks, the worst first."""
    made = [next(_lacking(name, part, seen), None) or check(seen) for name, part, check in _CHECKS]
    return worst_first(made)


def _lacking(name: str, part: str, seen: Seen) -> Iterator[Check]:
    if part in seen.missing:
        rule = f"not known: {seen.missing[part]}"
        yield Check(name, Verdict.NOT_OBSERVED, "", rule, SOURCE, "deploy/doctor-rbac.yaml has the permissions")


def _api(seen: Seen) -> Check:
    if seen.api:
        rule = "the API server serves resource.k8s.io/v1"
        return _made("cluster:api", Verdict.SUPPORTED, seen.kubernetes, rule)
    rule = "the API server does not serve resource.k8s.io/v1, by which pods get shares"
    return _made("cluster:api", Verdict.UNSUPPORTED, seen.kubernetes, rule, "upgrade to Kubernetes 1.36 or later")


def _gate(seen: Seen) -> Check:
    cards = [card for node in seen.picture.nodes.values() for card in node.cards]
    exclusive = sum(not card.card.shared for card in cards)
    name, value = "cluster:gate", f"{len(cards) - exclusive} of {len(cards)} GPUs shared"
    if not cards:
        return _made(name, Verdict.NOT_OBSERVED, "", "no GPU is offered from which it could be seen")
    if exclusive:
        rule = "the API server dropped what makes a GPU one that is shared: each goes to one claim alone"
        advice = "switch on the gate DRAConsumableCapacity (API server, scheduler, kubelet); Kubernetes 1.36 has it on"
        return _made(name, Verdict.UNSUPPORTED, value, rule, advice)
    return _made(name, Verdict.SUPPORTED, value, "what makes a GPU one that is shared is kept")


def _device_class(seen: Seen) -> Check:
    name = "cluster:device-class"
    if seen.device_class:
        return _made(name, Verdict.SUPPORTED, names.DEVICE_CLASS, "the class that claims name is there")
    rule = "the class that claims name is not there: no claim can be allocated"
    return _made(name, Verdict.UNSUPPORTED, names.DEVICE_CLASS, rule, "install the chart again; it has the class")


def _driver(seen: Seen) -> Check:
    name = "cluster:driver"
    offering = {node.name for node in seen.picture.nodes.values() if node.complete and node.cards}
    silent = sorted(set(seen.labelled) - offering)
    value = f"{len(seen.labelled) - len(silent)} of {len(seen.labelled)} nodes"
    if not seen.labelled:
        rule = f"no node is labelled for sharing its GPUs ({SCHEDULE}=cgpu, core_mem or share)"
        return _made(name, Verdict.UNKNOWN, value, rule, "label the nodes whose GPUs are to be shared")
    if silent:
        more = f" and {len(silent) - _SHOWN} more" if len(silent) > _SHOWN else ""
        rule = f"labelled for sharing, and offering no GPU: {', '.join(silent[:_SHOWN])}{more}"
        advice = "look at these Nodes' events (GpuSharingRefused), and at the agent's pod and log there"
        return _made(name, Verdict.UNSUPPORTED, value, rule, advice)
    return _made(name, Verdict.SUPPORTED, value, "every labelled node has registered and offers its GPUs")


def _webhook(seen: Seen) -> Check:
    name = "cluster:webhook"
    if not seen.webhooks:
        rule = "no webhook of cgpu's is registered: pods that ask for aliyun.com/gpu-mem stay pending"
        return _made(name, Verdict.UNKNOWN, "", rule, "none is needed where pods name claims themselves")
    deaf = [one for one in seen.webhooks if one.endpoints == 0]
    value = f"{len(seen.webhooks) - len(deaf)} of {len(seen.webhooks)} webhooks"
    if deaf:
        services = ", ".join(sorted({one.service for one in deaf}))
        rule = f"the Service {services} has no pod that is ready: pods that ask for shares are refused"
        return _made(name, Verdict.UNSUPPORTED, value, rule, "look at the pods of the webhook's Deployment")
    unknown = sorted({one.name for one in seen.webhooks if one.endpoints is None})
    if unknown:
        return _made(name, Verdict.NOT_OBSERVED, value, f"reached by an URL, not by a Service: {', '.join(unknown)}")
    return _made(name, Verdict.SUPPORTED, value, "the webhook's Service has pods that are ready")


def _versions(seen: Seen) -> Check:
    name, found = "cluster:versions", sorted(set(seen.versions.values()))
    if not seen.versions:
        return _made(name, Verdict.NOT_OBSERVED, "", "no DaemonSet or Deployment of cgpu's is there")
    if len(found) > 1:
        rule = ", ".join(f"{part} is {version}" for part, version in sorted(seen.versions.items()))
        return _made(
            name, Verdict.UNKNOWN, ", ".join(found), rule, "finish the upgrade: parts of one release belong together"
        )
    return _made(name, Verdict.SUPPORTED, found[0], "all parts are of one release")


def _claim_rate(seen: Seen) -> Check:
    name = "cluster:claim-rate"
    if seen.claim_qps is None:
        rule = (
            "the controller manager's flags cannot be seen here; with its default of 20 requests a second"
            " it makes about 10 claims, and so places 10 pods, a second"
        )
        return _made(name, Verdict.NOT_OBSERVED, "", rule, _RAISE)
    rule = f"the controller manager makes at most about {seen.claim_qps // _REQUESTS_PER_CLAIM} claims a second"
    advice = _RAISE if seen.claim_qps <= DEFAULT_QPS else ""
    return _made(name, Verdict.SUPPORTED, f"--kube-api-qps={seen.claim_qps}", rule, advice)


_RAISE: Final = "where many pods start at once, raise kube-controller-manager's --kube-api-qps and --kube-api-burst"
_CHECKS: Final[tuple[tuple[str, str, Callable[[Seen], Check]], ...]] = (
    ("cluster:api", "slices", _api),
    ("cluster:gate", "slices", _gate),
    ("cluster:device-class", "device_class", _device_class),
    ("cluster:driver", "slices", _driver),
    ("cluster:webhook", "webhooks", _webhook),
    ("cluster:versions", "versions", _versions),
    ("cluster:claim-rate", "claim_qps", _claim_rate),
)


def _made(name: str, verdict: Verdict, value: str, rule: str, advice: str = "") -> Check:
    return Check(name, verdict, value, rule, SOURCE, advice)
