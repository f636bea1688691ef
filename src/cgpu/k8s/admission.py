"""What the webhooks answer: ACK's pods become pods with claims, and claims are held to what is allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from cgpu.adapters.kube_mirror import Mirror
from cgpu.adapters.kube_objects import (
    CLAIM_TEMPLATES,
    CLAIMS,
    NAMESPACES,
    RESOURCE_QUOTAS,
    SLICES,
    Object,
    ObjectClient,
)
from cgpu.errors import CgpuError, ClaimError, ClusterError, RefusedError
from cgpu.k8s import names
from cgpu.k8s.ack_pods import Rules, asks_anything, translate, workload_warnings
from cgpu.k8s.claim_check import CLASSES, Asked, asked_of, our_requests
from cgpu.k8s.claim_users import check_pod, uses_of
from cgpu.k8s.ignored_variables import disabling, told
from cgpu.k8s.offers import card_sizes_mib
from cgpu.k8s.quota import Limits, limits_of
from cgpu.k8s.quota_keeper import QuotaKeeper
from cgpu.k8s.review import CREATE, Answer, Request, allowed, parse_review, refused
from cgpu.k8s.template_keeper import TemplateKeeper
from cgpu.k8s.templates import check_content, has_form_of_ours, share_named, template
from cgpu.model.units import MIB, format_memory

PODS_PATH: Final = "/pods"
CLAIMS_PATH: Final = "/claims"
TEMPLATES_PATH: Final = "/templates"
WORKLOADS_PATH: Final = "/workloads"
POD_CLAIMS_PATH: Final = "/pod-claims"
_AGAIN_S: Final = 2.0  # reviews wait for what is mirrored


class Mirrors:
    """What answers depend on, as it is in the cluster."""

    def __init__(self, api: ObjectClient) -> None:
        self._api = api
        self._namespaces = Mirror(api, NAMESPACES, _labels, again_s=_AGAIN_S)
        self._quotas = Mirror(api, RESOURCE_QUOTAS, lambda quota: {"spec": quota.get("spec") or {}}, again_s=_AGAIN_S)
        self._slices = Mirror(
            api, SLICES, card_sizes_mib, self._forget, fields=f"spec.driver={names.DRIVER}", again_s=_AGAIN_S
        )
        self._sizes_mib: list[int] | None = None
        self._counting = threading.Lock()
        self._all: tuple[Mirror[Any], ...] = (self._namespaces, self._quotas, self._slices)

    def start(self, seconds: float) -> None:
        """Begin to follow, and wait for the first state. Raises ClusterError when there is none in so many seconds."""
        for mirror in self._all:
            mirror.start()
        if not all(mirror.synced.wait(seconds) for mirror in self._all):
            raise ClusterError(
                "the Kubernetes API did not show namespaces, resource quotas and resource slices in time",
                "the webhook's log tells why; its service account needs list and watch on them",
            )

    def stop(self) -> None:
        """Follow no longer."""
        for mirror in self._all:
            mirror.stop()

    def labels(self, namespace: str) -> Mapping[str, str]:
        """The labels of a namespace. Raises ClusterError."""
        kept: Mapping[str, str] | None = self._namespaces.get("", namespace)
        if kept is not None:
            return kept
        return _labels(self._api.get(NAMESPACES, "", namespace) or {})  # so new that no watch has told of it

    def limits(self, namespace: str) -> Limits:
        """What may be claimed there. Raises AmountError, ClusterError."""
        quotas = [kept for (place, _), kept in self._quotas.items().items() if place == namespace]
        return limits_of(self.labels(namespace), quotas)

    def claim_spec(self, namespace: str, entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the claim of a pod's entry asks for; None: it is not there yet. Raises ClusterError."""
        template, claim = entry.get("resourceClaimTemplateName"), entry.get("resourceClaimName")
        if template:
            found = self._api.get(CLAIM_TEMPLATES, namespace, template)
            return None if found is None else found["spec"]["spec"]
        found = self._api.get(CLAIMS, namespace, claim) if claim else None
        return None if found is None else found["spec"]

    def sizes_mib(self) -> list[int]:
        """Memory of the cluster's cards, each size once. Kept: each review asks, and there are thousands of slices."""
        with self._counting:
            if self._sizes_mib is None:
                self._sizes_mib = sorted({size for sizes in self._slices.items().values() for size in sizes})
            return self._sizes_mib

    def _forget(self) -> None:
        with self._counting:
            self._sizes_mib = None


@dataclass(frozen=True)
class Admission:
    """Answers reviews. Safe for several threads."""

    rules: Rules
    mirrors: Mirrors
    templates: TemplateKeeper
    quotas: QuotaKeeper
    classes: Collection[str] = CLASSES
    """The DeviceClasses of ours."""

    def handle(self, path: str, body: bytes) -> bytes:
        """The answer to a review. Raises UsageError for what is none, LookupError for an unknown path."""
        answers: dict[str, Callable[[Request], Answer]] = {
            PODS_PATH: self._pod,
            CLAIMS_PATH: self._claim,
            TEMPLATES_PATH: self._template,
            WORKLOADS_PATH: self._workload,
            POD_CLAIMS_PATH: self._pod_claims,
        }
        answer = answers[path]
        request = parse_review(body)
        try:
            return allowed(request.uid, answer(request))
        except ClusterError as error:
            return refused(request.uid, error, HTTPStatus.SERVICE_UNAVAILABLE)
        except CgpuError as error:
            return refused(request.uid, error)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            # The API server has checked the object's form: this is not from one, or one of another version.
            return refused(request.uid, ClaimError(f"{request.where} is malformed: {type(error).__name__} {error}"))

    def _pod(self, request: Request) -> Answer:
        favoured = self._favoured(request.namespace)
        done = translate(request.obj, request.old, self.rules, self.mirrors.sizes_mib(), favoured=favoured)
        limits = self.mirrors.limits(request.namespace) if done.shares else Limits()
        if not limits.are_none:
            # Refused at once where a ResourceQuota would; what is exact is the check of the claims.
            asked = [
                asked_of(template(share, request.namespace)["spec"]["spec"], request.where) for share in done.shares
            ]
            self.quotas.probe(request.namespace, limits, sum(asked, Asked()))
        for share in done.shares:
            self.templates.ensure(share, request.namespace, dry_run=request.dry_run)
        return Answer(done.patch, done.warnings)

    def _pod_claims(self, request: Request) -> Answer:
        """Whether each container has one share, and what it asks for in vain."""
        ours = {
            entry["name"]: our_requests(spec, self.classes)
            for entry in request.obj["spec"].get("resourceClaims") or ()
            if (spec := self.mirrors.claim_spec(request.namespace, entry)) is not None
        }
        check_pod(request.obj, ours)
        users = {use.container for use in uses_of(request.obj) if ours.get(use.claim)}
        containers = [name for name in disabling(request.obj) if name in users]
        return Answer(warnings=[told(containers)] if containers else ())

    def _claim(self, request: Request) -> Answer:
        if request.operation != CREATE:
            return Answer()  # the spec of a claim never changes
        asked, warnings = self._checked(request.obj["spec"], request)
        if asked == Asked():
            return Answer()
        limits = self.mirrors.limits(request.namespace)
        if limits.are_none:
            return Answer(warnings=warnings)
        if request.dry_run:
            self.quotas.probe(request.namespace, limits, asked)
        else:
            uid = request.obj["metadata"].get("uid") or request.uid
            self.quotas.admit(request.namespace, uid, limits, asked)
        return Answer(warnings=warnings)

    def _template(self, request: Request) -> Answer:
        _, warnings = self._checked(request.obj["spec"]["spec"], request)
        name = request.obj["metadata"].get("name") or ""
        share = share_named(name)
        if share is not None:
            check_content(template(share, request.namespace), request.obj)
        elif has_form_of_ours(name):
            raise ClaimError(f"{request.where}: names of this form are those that cgpu makes", "choose another name")
        return Answer(warnings=warnings)

    def _workload(self, request: Request) -> Answer:
        spec = request.obj.get("spec") or {}
        if "jobTemplate" in spec:
            spec = spec["jobTemplate"].get("spec") or {}
        pods = spec.get("template") or {}
        if not asks_anything(pods):
            return Answer()
        sizes, favoured = self.mirrors.sizes_mib(), self._favoured(request.namespace)
        return Answer(warnings=workload_warnings(pods, self.rules, sizes, favoured=favoured))

    def _favoured(self, namespace: str) -> bool:
        return self.mirrors.labels(namespace).get(names.FAVOURS) == "allowed"

    def _checked(self, spec: Object, request: Request) -> tuple[Asked, list[str]]:
        asked = asked_of(spec, request.where, self.classes)
        if asked.favoured and not self._favoured(request.namespace):
            raise RefusedError(
                f"{request.where}: {asked.favoured} is not allowed in this namespace",
                f"leave it out, or have an administrator label the namespace {names.FAVOURS}=allowed",
            )
        return asked, _largest(asked.largest_bytes, self.rules, self.mirrors.sizes_mib())


def _largest(wanted: int, rules: Rules, sizes_mib: Iterable[int]) -> list[str]:
    """Refuses, or warns of, more than the largest card."""
    if rules.largest_card_mib is not None:
        if wanted > rules.largest_card_mib * MIB:
            raise RefusedError(
                f"{format_memory(wanted)} of one card is more than the largest card of this cluster has,"
                f" {format_memory(rules.largest_card_mib * MIB)}",
                "ask for less",
            )
        return []
    largest = max(sizes_mib, default=0) * MIB
    if not largest or wanted <= largest:
        return []
    asked, there = format_memory(wanted), format_memory(largest)
    return [f"{asked} of one card is more than any card has that is there now; the largest has {there}"]


def _labels(namespace: Mapping[str, Any]) -> Mapping[str, str]:
    labels: Mapping[str, str] = (namespace.get("metadata") or {}).get("labels") or {}
    return labels
