"""A pod written for ACK's shared GPU scheduling as a pod with resource claims. Pure.

Each GPU container gets a claim of its own. An init container ends before the others begin, so it uses the
share of one of them: of the container with the most memory, the first of those where several have it. That
share is as large as the larger of both asks, as Kubernetes counts init containers. A sidecar (an init
container that is restarted) runs beside the others, and has a claim of its own too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cgpu.errors import AmountError, RefusedError
from cgpu.k8s import names
from cgpu.k8s.ack_amounts import Ask, Favours, annotated_favours, ask_of, cards_of, environment_favours
from cgpu.k8s.templates import Share, fitting_sizes, has_amounts_of, name_of
from cgpu.model.units import MIB, format_memory

Object = Mapping[str, Any]
RESOURCES: Final = (names.ACK_MEMORY, names.ACK_COMPUTE)
_GIB_MIB: Final = 1024
_LABEL_MAX: Final = 63
_KINDS: Final = ("containers", "initContainers")
_ALLOW: Final = f"or have an administrator label the namespace {names.FAVOURS}=allowed"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the administrator has chosen."""

    uneven_splits: bool = False
    """Memory that is no multiple of the number of cards is divided in MiB, rounded up; ACK refuses it."""
    proportional: bool = False
    """A GiB is the part of a card that ACK gives for it, not 1024 MiB."""
    largest_card_mib: int | None = None
    """More than that of one card is refused; unknown: it is warned of, since a node may still come."""


@dataclass(frozen=True, slots=True)
class Translation:
    """What is to be done with a pod."""

    patch: tuple[Object, ...] = ()
    """Operations of JSON Patch (RFC 6902)."""
    shares: tuple[Share, ...] = ()
    """One for each claim that the pod will have; their templates have to be there."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    """A container of a pod."""

    kind: str
    number: int
    container: Object
    ask: Ask

    @property
    def is_passing(self) -> bool:
        return self.kind == "initContainers" and self.container.get("restartPolicy") != "Always"

    @property
    def size(self) -> tuple[int, int]:
        return self.ask.memory_gib, self.ask.compute_percent or 0


@dataclass(frozen=True, slots=True)
class _Claim:
    name: str
    share: Share
    places: tuple[_Place, ...]


def asks_anything(pod: Object) -> bool:
    """Whether a container of the pod has one of ACK's resources."""
    return any(True for _, _, container in _containers(pod) for _ in _paths("", container))


def translate(
    pod: Object, old: Object | None, rules: Rules, sizes_mib: Sequence[int], *, favoured: bool = False
) -> Translation:
    """What is to be done with a pod that is created, or (with ``old``) updated.

    An update changes nothing but what a manifest that is applied again brings back. A pod that has kept
    ACK's resources, since it was there first, keeps them.

    Args:
        pod: as it is sent.
        old: as it is now, for an update.
        rules: the administrator's.
        sizes_mib: memory of the cluster's cards, as far as known.
        favoured: whether the namespace allows weight and high priority.

    Raises AmountError and RefusedError.
    """
    if old is not None and asks_anything(old):
        return Translation()
    if old is not None:
        # It was admitted by what held then.
        rules, favoured = replace(rules, largest_card_mib=None, uneven_splits=True), True
    claims, warnings = _plan(pod, rules, sizes_mib, favoured=favoured)
    there = {
        entry["name"]: entry.get("resourceClaimTemplateName", "") for entry in _spec(pod).get("resourceClaims") or ()
    }
    for claim in claims:
        _check_entry(claim, there, is_update=old is not None)
    patch = [*_removals(pod)]
    if old is not None:
        return Translation(tuple(patch))
    patch += _additions(pod, [claim for claim in claims if claim.name not in there], claims)
    return Translation(tuple(patch), tuple(claim.share for claim in claims), tuple(warnings))


def workload_warnings(template: Object, rules: Rules, sizes_mib: Sequence[int], *, favoured: bool = False) -> list[str]:
    """What is wrong with the pod template of a Deployment, a Job and so on, whose pods would be refused."""
    try:
        return _plan(template, rules, sizes_mib, favoured=favoured)[1]
    except (AmountError, RefusedError) as error:
        return [f"its pods will be refused: {error}"]


def _plan(pod: Object, rules: Rules, sizes_mib: Sequence[int], *, favoured: bool) -> tuple[list[_Claim], list[str]]:
    places = [
        _Place(kind, number, container, ask)
        for kind, number, container in _containers(pod)
        if (ask := ask_of(container)) is not None
    ]
    groups, warnings = _groups(places)
    metadata = pod.get("metadata") or {}
    cards = cards_of(metadata.get("labels") or {})
    annotated = annotated_favours(metadata.get("annotations") or {})
    if annotated is not None and not annotated.are_none and not favoured:
        raise RefusedError(
            f"{names.WEIGHT} above 1 and {names.PRIORITY} 1 are not allowed in this namespace",
            f"leave them out, {_ALLOW}",
        )
    claims = []
    for group in groups:
        favours = environment_favours(group[0].container) if annotated is None else annotated
        if not favours.are_none and not favoured:
            # On ACK everybody may ask for it; a pod from there runs, without it.
            warnings.append("weight and high priority are left out, since they are not allowed in this namespace")
            favours = Favours()
        share = replace(_share(group, cards, rules), weight=favours.weight, high_priority=favours.high_priority)
        share, told = _on_cards(share, rules, sizes_mib)
        warnings += told
        claims.append(_Claim(_claim_name(group[0].container["name"]), share, tuple(group)))
    return claims, list(dict.fromkeys(warnings))


def _groups(places: Sequence[_Place]) -> tuple[list[list[_Place]], list[str]]:
    """The containers that use a share together; whose it is comes first. And warnings."""
    passing = [place for place in places if place.is_passing]
    groups = [[place] for place in places if not place.is_passing]
    if not passing:
        return groups, []
    if not groups:
        return [passing], []
    host = max(groups, key=lambda group: group[0].size)
    host.extend(passing)
    if max(place.ask.memory_gib for place in passing) <= host[0].ask.memory_gib:
        return groups, []
    name = host[0].container["name"]
    return groups, [f"container {name} has the memory that an init container asks for, not its own: both use one share"]


def _share(group: Sequence[_Place], cards: int, rules: Rules) -> Share:
    memory = max(place.ask.memory_gib for place in group)
    compute = max((place.ask.compute_percent or 0 for place in group), default=0)
    if memory % cards and not rules.uneven_splits:
        raise AmountError(
            f"{names.ACK_MEMORY} {memory} cannot be divided by {names.ACK_COUNT} {cards}",
            f"each card gives a whole number of GiB: write {memory - memory % cards + cards}",
        )
    return Share(-(-memory * _GIB_MIB // cards), compute or None, cards)


def _on_cards(share: Share, rules: Rules, sizes_mib: Sequence[int]) -> tuple[Share, list[str]]:
    """The share with the cards that its memory is a part of, and a warning where no card is large enough."""
    asked = format_memory(share.memory_mib * MIB)
    largest = rules.largest_card_mib
    if largest is not None and _offered(largest, rules) < share.memory_mib:
        raise RefusedError(
            f"{asked} of one card is more than the largest card of this cluster has, {format_memory(largest * MIB)}",
            f"ask for less, or divide it over cards with the label {names.ACK_COUNT}",
        )
    if rules.proportional:
        share = replace(share, card_sizes_mib=fitting_sizes(sizes_mib, share.memory_mib))
    if largest is None and sizes_mib and max(_offered(size, rules) for size in sizes_mib) < share.memory_mib:
        there = format_memory(max(sizes_mib) * MIB)
        return share, [f"{asked} of one card is more than any card has that is there now; the largest has {there}"]
    return share, []


def _offered(size_mib: int, rules: Rules) -> int:
    return size_mib // _GIB_MIB * _GIB_MIB if rules.proportional else size_mib


def _check_entry(claim: _Claim, there: Mapping[str, str], *, is_update: bool) -> None:
    template = there.get(claim.name)
    if template is None and is_update:
        raise RefusedError("a pod gets no share of a GPU after it was created", "delete the pod and create it anew")
    if template is None or has_amounts_of(template, claim.share):
        return
    if is_update:
        raise RefusedError(
            f"the share of container {claim.places[0].container['name']} cannot be changed in the pod:"
            f" it has {template}, and {claim.share.amounts} is asked for",
            "delete the pod and create it anew",
        )
    raise RefusedError(f"the pod has a resource claim {claim.name} of another content", "give it another name")


def _removals(pod: Object) -> Iterator[Object]:
    for kind, number, container in _containers(pod):
        for path in _paths(f"/spec/{kind}/{number}", container):
            yield {"op": "remove", "path": path}


def _paths(prefix: str, container: Object) -> Iterator[str]:
    resources = container.get("resources") or {}
    for part in ("limits", "requests"):
        for resource in RESOURCES:
            if resource in (resources.get(part) or {}):
                yield f"{prefix}/resources/{part}/{resource.replace('~', '~0').replace('/', '~1')}"


def _additions(pod: Object, new: Sequence[_Claim], claims: Sequence[_Claim]) -> Iterator[Object]:
    if new:
        entries = [{"name": claim.name, "resourceClaimTemplateName": name_of(claim.share)} for claim in new]
        yield from _appended("/spec/resourceClaims", _spec(pod).get("resourceClaims"), entries)
    for claim in claims:
        for place in claim.places:
            used = (place.container["resources"]).get("claims")
            if all(entry["name"] != claim.name for entry in used or ()):
                path = f"/spec/{place.kind}/{place.number}/resources/claims"
                yield from _appended(path, used, [{"name": claim.name}])


def _appended(path: str, there: Sequence[Object] | None, entries: Sequence[Object]) -> Iterator[Object]:
    if not there:
        yield {"op": "add", "path": path, "value": list(entries)}
        return
    for entry in entries:
        yield {"op": "add", "path": f"{path}/-", "value": entry}


def _containers(pod: Object) -> Iterator[tuple[str, int, Object]]:
    for kind in _KINDS:
        for number, container in enumerate(_spec(pod).get(kind) or ()):
            yield kind, number, container


def _spec(pod: Object) -> Object:
    spec: Object = pod.get("spec") or {}
    return spec


def _claim_name(container: str) -> str:
    """A name within the pod, at most 63 characters long as a container's is."""
    name = f"cgpu-{container}"
    if len(name) <= _LABEL_MAX:
        return name
    digest = hashlib.sha256(container.encode()).hexdigest()[:8]
    return f"{name[: _LABEL_MAX - 9].rstrip('-')}-{digest}"
